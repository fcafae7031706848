"""Choose the command, and say what went wrong if it fails.

Each command imports what it needs when it runs, so that `ventaja --help` does not wait for torch.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version

from rich.console import Console

from ventaja.cli import commands
from ventaja.cli.arguments import Parser
from ventaja.errors import ConfigError, VentajaError, did_you_mean

COMMANDS: dict[str, tuple[str, Callable[[list[str]], None]]] = {
    "rl": ("Train a model with a reward.", commands.rl),
    "sft": ("Train a model on examples.", commands.sft),
    "reward": ("Train a reward model on rankings.", commands.reward),
    "dpo": ("Train a model on rankings directly.", commands.dpo),
    "eval": ("Measure how often a model is right.", commands.evaluate),
    "sample": ("Sample answers for people to rank.", commands.sample),
    "chat": ("Talk to a model.", commands.chat),
    "rank": ("Open a page on which people rank answers.", commands.rank),
    "merge": ("Make adapters and their base one model.", commands.merge),
    "report": ("Make a page of a run: curves, samples, settings.", commands.report),
    "algorithms": ("Compare the algorithms, part by part.", commands.algorithms),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status.

    0: done. 1: it could not be done. 2: it was not asked for in a way that makes sense. 130: interrupted. An
    error that is not Ventaja's own keeps its traceback; VENTAJA_TRACEBACK=1 shows it for every error.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _run(arguments)
    except VentajaError as error:
        if os.environ.get("VENTAJA_TRACEBACK", "0") not in {"", "0"}:
            traceback.print_exc()
        _print_error(f"{type(error).__name__}: {error}")
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(arguments: list[str]) -> None:
    parser = Parser(
        prog="ventaja",
        description="Reinforcement learning for language models.",
        epilog="`ventaja rl --help` lists every setting. A run file and flags say the same things: "
        "`ventaja rl demo.yaml --algorithm dapo --run.folder runs/dapo`.",
    )
    parser.add_argument("--version", action="version", version=f"ventaja {version('ventaja')}")
    choices = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, (summary, _) in COMMANDS.items():
        choices.add_parser(name, help=summary, add_help=False)
    if not arguments:
        parser.print_help()
        return
    command = arguments[0]
    if command not in COMMANDS and not command.startswith("-"):
        hint = did_you_mean(command, COMMANDS)
        raise ConfigError(f"{command}: no such command.{hint} There are: {', '.join(COMMANDS)}.")
    parser.parse_args(arguments[:1])
    COMMANDS[command][1](arguments[1:])


def _print_error(message: str) -> None:
    console = Console(stderr=True)
    console.print(message, style="red", markup=False, highlight=False, soft_wrap=True, emoji=False)
