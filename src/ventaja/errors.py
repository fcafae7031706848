"""Errors that a user can act on: each says what is wrong, where, and what to do next."""


class VentajaError(Exception):
    """Base of every error that Ventaja raises on purpose. The command line prints it without a traceback."""


class ConfigError(VentajaError):
    """A run file, a flag or an argument that cannot mean what was meant."""


class DataError(VentajaError):
    """A data file that is missing, empty or has a row that cannot be used."""


class ModelError(VentajaError):
    """A model or checkpoint that cannot be found, loaded or used this way."""


class RewardError(VentajaError):
    """Rewards that cannot be used: wrong number, not finite, or too many broken judgements."""


class RunError(VentajaError):
    """A run folder that cannot be written, resumed or read."""
