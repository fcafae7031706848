"""Does credit by step learn faster than credit for the outcome, from the same start, problems and random numbers?

python examples/steps/compare.py        # three seeds; writes docs/results-steps.md and the curves beside it
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from judge import trace
from rich.console import Console
from ruamel.yaml import YAML

from ventaja import RlConfig, Run, SftConfig, parse, train_rl, train_sft
from ventaja.cli import prepare_process
from ventaja.environments import load_prompts
from ventaja.tracking import reward_curve_svg

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
RIGHT = "rewards/right/mean"
LAST = 5
"""Rounds over which the end of a run is averaged."""

WAYS: Mapping[str, tuple[str, dict[str, float]]] = {
    "outcome": ("sequence", {"lines": 0.0, "right": 1.0}),
    "sum of lines": ("sequence", {"lines": 1.0, "right": 0.0}),
    "process": ("process", {"lines": 1.0, "right": 0.0}),
    "process_min": ("process_min", {"lines": 1.0, "right": 0.0}),
}
"""What each way is credited by: the part `credit`, and the weights of the two judges."""

MEANING: Mapping[str, str] = {
    "outcome": "1 if the last line comes to the result",
    "sum of lines": "a third for each right line, added up",
    "process": "a third for each right line",
    "process_min": "a third for each right line",
}
"""What each way is credited for."""


@dataclass(frozen=True)
class MeanOf:
    """The mean of several runs' columns, as a picture takes them."""

    runs: Sequence[Run]

    def column(self, name: str) -> list[float]:
        return [fmean(values) for values in zip(*(run.column(name) for run in self.runs), strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/steps"), help="where the runs go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument(
        "--rounds", type=int, default=None, help="rounds of each run; those of rl.yaml if left out"
    )
    parser.add_argument(
        "--prepare", action="store_true", help="write the traces, train the supervised start, and stop"
    )
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the page and the curves go")
    arguments = parser.parse_args()
    prepare_process()
    console = Console()
    start = supervised_start(arguments.folder, read("sft.yaml"), console)
    if arguments.prepare:
        return
    changes = {} if arguments.rounds is None else {"rounds": arguments.rounds}
    runs: dict[str, list[Run]] = {}
    seconds = time.perf_counter()
    for seed in arguments.seeds:  # seed by seed: what there is when it is stopped compares
        for way in arguments.ways:
            console.rule(f"seed {seed}: {way}")
            folder = arguments.folder / f"seed-{seed}" / way.replace(" ", "-")
            values = learning(
                read("rl.yaml"), way, start, run={"folder": str(folder), "seed": seed, **changes}
            )
            runs.setdefault(way, []).append(train_rl(parse(RlConfig, values), console=console))
    reward_curve_svg(
        {way: MeanOf(those) for way, those in runs.items()}, arguments.docs / "steps_curve.svg", metric=RIGHT
    )
    page = results(runs, arguments.seeds, time.perf_counter() - seconds)
    (arguments.docs / "results-steps.md").write_text(page)
    console.print(f"Wrote {arguments.docs / 'results-steps.md'}")


def supervised_start(folder: Path, values: dict[str, Any], console: Console) -> Path:
    """The folder of the run that learned from traces of other problems than the rest; made if it is not there."""
    target = folder / "sft"
    if target.exists():
        return target
    problems = read("rl.yaml")["data"]
    rows = [
        {"messages": [*prompt.content, {"role": "assistant", "content": trace(prompt.columns["question"])}]}
        for prompt in load_prompts(problems["source"], options=problems["options"], size=1000, seed=1)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "traces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = values | {"data": str(folder / "traces.jsonl"), "run": values["run"] | {"folder": str(target)}}
    train_sft(parse(SftConfig, values), console=console)
    return target


def learning(values: dict[str, Any], way: str, start: Path, *, run: Mapping[str, Any]) -> dict[str, Any]:
    """The values of rl.yaml for one of `WAYS`: all else is the same."""
    credit, weights = WAYS[way]
    functions = [
        {**function, "function": str(HERE / function["function"].rpartition("/")[2]), "weight": weights[name]}
        for function in values["reward"]["functions"]
        for name in [function["function"].rpartition(":")[2]]
    ]
    algorithm = {"name": "grpo", "credit": credit, "kl": "none"}
    return values | {
        "model": str(start), "reward": {"functions": functions}, "algorithm": algorithm, "run": values["run"] | run,
    }  # fmt: skip


def results(runs: Mapping[str, Sequence[Run]], seeds: Sequence[int], seconds: float) -> str:
    """docs/results-steps.md: what was run, and the figures as they came."""
    rl, sft = read("rl.yaml"), read("sft.yaml")
    rounds = len(next(iter(runs.values()))[0].column("round"))
    lines = [
        "# Credit by step and credit for the outcome",
        "",
        "Made by `python examples/steps/compare.py`; nothing here is edited by hand.",
        "",
        f"SmolLM2-135M-Instruct adds and subtracts four numbers of one or two digits, a line for each step: {sft['run']['updates']} "
        f"supervised steps of {sft['run']['batch_size']} worked problems, then {rounds} rounds of GRPO with "
        f"{rl['run']['completions_per_round']} answers each. All ways begin with the same weights, and with a seed in common "
        "they meet the same problems with the same random numbers, so that their first rounds have the same samples.",
        "",
        "| way | is credited for | credit |",
        "|---|---|---|",
        *(f"| {way} | {MEANING[way]} | `{WAYS[way][0]}` |" for way in runs),
        "",
        f"Share of sampled answers whose last line comes to the result, in the first round, half-way and at the end (means over "
        f"{LAST} rounds); on {rl['eval']['size']} held-out problems after the last round, the share of answers of which every line "
        "is right too (one sampled and one greedy answer each):",
        "",
        "| way | seed | first round | half-way | end | share of right lines at the end | held-out, sampled | held-out, greedy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way, those in runs.items():
        for seed, run in zip(seeds, those, strict=True):
            right, of_lines = run.column(RIGHT), run.column("rewards/lines/mean")
            held_out = [run.metrics[-1].get(f"eval/accuracy_{how}") for how in ("sampled", "greedy")]
            shares = [right[0], fmean(right[: rounds // 2][-LAST:]), fmean(right[-LAST:])]
            lines.append(
                f"| {way} | {seed} | {' | '.join(f'{share:.1%}' for share in shares)} | {fmean(of_lines[-LAST:]):.1%} | "
                f"{' | '.join('–' if share is None else f'{share:.1%}' for share in held_out)} |"
            )
    lines += [
        "",
        "Right answers per round, mean over the seeds:",
        "",
        "![Right answers per round](steps_curve.svg)",
        "",
        f"Machine: {platform.machine()}, {torch.get_num_threads()} threads; Python {platform.python_version()}, torch "
        f"{torch.__version__}. All runs together took {seconds / 60:.0f} minutes.",
        "",
    ]
    return "\n".join(lines)


def read(name: str) -> dict[str, Any]:
    """A run file beside this one."""
    values: dict[str, Any] = YAML(typ="safe").load(HERE / name)
    return values


if __name__ == "__main__":
    main()
