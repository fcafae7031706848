"""The command `ventaja`: it reads a run file and flags, calls training, and prints."""

from ventaja.cli.commands import prepare_process
from ventaja.cli.main import main

__all__ = ["main", "prepare_process"]
