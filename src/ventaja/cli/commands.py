"""The commands. Each reads its arguments, calls the library and prints what came of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import get_args

from rich.console import Console

from ventaja.cli.arguments import Parser, read_config
from ventaja.settings import Precision


def rl(argv: list[str]) -> None:
    """`ventaja rl`"""
    from ventaja.training.config import RlConfig

    config = read_config(
        RlConfig,
        argv,
        prog="ventaja rl",
        description="Train a model: sample answers, judge them with a reward, and learn from the difference.",
    )
    with starting():
        from ventaja.training import train_rl

        prepare_process()
    run = train_rl(config, command=_command("rl", argv))
    _print_run(str(run.path))


def sft(argv: list[str]) -> None:
    """`ventaja sft`"""
    from ventaja.training.config import SftConfig

    config = read_config(
        SftConfig,
        argv,
        prog="ventaja sft",
        description="Train a model on examples of good answers.",
    )
    with starting():
        from ventaja.training import train_sft

        prepare_process()
    run = train_sft(config, command=_command("sft", argv))
    _print_run(str(run.path))


def reward(argv: list[str]) -> None:
    """`ventaja reward`"""
    from ventaja.training.ranking_config import RewardModelConfig

    config = read_config(
        RewardModelConfig,
        argv,
        prog="ventaja reward",
        description="Train a reward model on rankings of answers.",
    )
    with starting():
        from ventaja.training import train_reward_model

        prepare_process()
    run = train_reward_model(config, command=_command("reward", argv))
    _print_run(str(run.path))
    print(f"To learn from its rewards: ventaja rl RUN.yaml --reward {shlex.quote(str(run.path))}")


def dpo(argv: list[str]) -> None:
    """`ventaja dpo`"""
    from ventaja.training.ranking_config import DpoConfig

    config = read_config(
        DpoConfig,
        argv,
        prog="ventaja dpo",
        description="Train a model on rankings of answers directly, without a reward model.",
    )
    with starting():
        from ventaja.training import train_dpo

        prepare_process()
    run = train_dpo(config, command=_command("dpo", argv))
    _print_run(str(run.path))


def evaluate(argv: list[str]) -> None:
    """`ventaja eval`"""
    from ventaja.training.config import EvaluationConfig

    config = read_config(
        EvaluationConfig,
        argv,
        prog="ventaja eval",
        description="Measure how often a model is right: sampled, greedy, and in at least one of k answers.",
    )
    with starting():
        from ventaja.cli.evaluation import evaluation_table
        from ventaja.training import evaluate

        prepare_process()
    Console().print(evaluation_table(evaluate(config)))


def sample(argv: list[str]) -> None:
    """`ventaja sample`"""
    from ventaja.training.sampling_config import SampleConfig

    config = read_config(
        SampleConfig,
        argv,
        prog="ventaja sample",
        description="Sample several answers to each prompt, or take what a run says, for people to rank.",
    )
    with starting():
        from ventaja.cli.sampling import sampled_text
        from ventaja.training import sample as sample_answers

        prepare_process()
    print(sampled_text(sample_answers(config, command=_command("sample", argv))))


def chat(argv: list[str]) -> None:
    """`ventaja chat`"""
    from ventaja.cli.chat import ChatConfig

    config = read_config(
        ChatConfig,
        argv,
        prog="ventaja chat",
        description="Talk to a model. /reset forgets the conversation; /exit or Ctrl-D ends it.",
        positional="model.name",
    )
    from ventaja.cli.conversation import talk

    prepare_process()
    talk(config)


def rank(argv: list[str]) -> None:
    """`ventaja rank`"""
    from ventaja.cli.rank import rank as run

    run(argv)


def report(argv: list[str]) -> None:
    """`ventaja report`"""
    parser = Parser(prog="ventaja report", description="Write report.html into a run's folder.")
    parser.add_argument("folder", metavar="FOLDER", help="A run's folder, as --run.folder named it.")
    folder = parser.parse_args(argv).folder

    from ventaja.tracking import write_report

    print(write_report(folder))


def merge(argv: list[str]) -> None:
    """`ventaja merge`"""
    parser = Parser(
        prog="ventaja merge",
        description="Add adapters (model.lora) to the model that they rest upon, and write it as an ordinary model.",
    )
    parser.add_argument("adapter", metavar="ADAPTER", help="A run's folder, or a checkpoint of it.")
    parser.add_argument("output", metavar="OUTPUT", help="The folder to write; new or empty.")
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="auto",
        help="Of the weights that are written; auto: the base model's own. (default: auto)",
    )
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="Run Python code that comes with a hub model."
    )
    given = parser.parse_args(argv)

    from ventaja.models.merge import merge_adapter

    prepare_process()
    merged = merge_adapter(
        given.adapter,
        Path(given.output),
        precision=given.precision,
        trust_remote_code=given.trust_remote_code,
    )
    dtype = str(merged.dtype).removeprefix("torch.")
    print(f"The merged model is in {merged.folder}, in {dtype}.")
    if merged.rounding > 0.01:
        print(
            f"Rounding to {dtype} moved its weights by {merged.rounding:.0%} of what the adapters change. "
            "With --precision float32 nothing is lost."
        )


def algorithms(argv: list[str]) -> None:
    """`ventaja algorithms`"""
    parser = Parser(prog="ventaja algorithms", description="Compare the algorithms, part by part.")
    parser.add_argument(
        "runs",
        metavar="RUN.yaml",
        nargs="*",
        help="Run files, or config.yaml of runs, whose algorithms to compare with those that have a name.",
    )
    parser.add_argument("--markdown", action="store_true", help="Print a Markdown table.")
    given = parser.parse_args(argv)

    from ventaja.cli.algorithms import algorithms_markdown, algorithms_table
    from ventaja.training.algorithms import ALGORITHMS
    from ventaja.training.config import RlConfig

    rows = [*ALGORITHMS.values()]
    for path in given.runs:
        config = read_config(RlConfig, [path], prog="ventaja rl", description="")
        rows.append(replace(config.algorithm.resolve(), name=path))
    if given.markdown:
        print(algorithms_markdown(rows))
        return
    console = Console()
    table = algorithms_table(rows)
    if not console.is_terminal:  # a file or a pipe has no width to keep to
        console.width = console.measure(table, options=console.options.update_width(1000)).maximum
    console.print(table)


@contextmanager
def starting() -> Iterator[None]:
    """A sign of life on a terminal while torch is imported, which takes seconds."""
    with Console(stderr=True).status("Starting …"):
        yield


def prepare_process() -> None:
    """What a command may do to its process, and a library may not: keep memory, and quieten transformers."""
    from transformers.utils import logging

    from ventaja.models.memory import keep_freed_memory

    keep_freed_memory()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _command(name: str, argv: list[str]) -> str:
    return shlex.join(["ventaja", name, *argv])


def _print_run(folder: str) -> None:
    print(f"The run is in {folder}. For a page about it: {shlex.join(['ventaja', 'report', folder])}")
