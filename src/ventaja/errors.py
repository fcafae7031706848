"""Errors that a user can act on: each says what is wrong, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


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


class RolloutError(VentajaError):
    """An engine or an environment of somebody's own that did not do what it was asked."""


class RunError(VentajaError):
    """A run folder that cannot be written, resumed or read."""


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that looks most like `name`, if any comes close. Capitals do not matter."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """` Did you mean 'x'?` (with the leading space), or nothing."""
    found = nearest(name, candidates)
    return f" Did you mean {found!r}?" if found else ""


def listed(names: Iterable[str], *, limit: int = 12) -> str:
    """`'a', 'b' and 3 more`, or `none`."""
    quoted = [repr(name) for name in names]
    if not quoted:
        return "none"
    more = f" and {len(quoted) - limit} more" if len(quoted) > limit else ""
    return ", ".join(quoted[:limit]) + more


def clipped(text: str, limit: int) -> str:
    """At most `limit` characters of the text, saying how many are left out."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"


def kind(value: Any) -> str:
    """What JSON calls such a value."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(
        type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}"
    )
