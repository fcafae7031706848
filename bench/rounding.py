"""Does rounding small updates away cost anything? The demo's GRPO from one supervised start, in several precisions.

    .venv/bin/python bench/rounding.py            # all arms and seeds, about 45 minutes on two cores
    .venv/bin/python bench/rounding.py plain 0    # one of them

Each result is a line of runs/rounding/results.jsonl; what is there already is not done again. At the end it draws
docs/decisions/0007-rounding.svg and prints the table of docs/decisions/0007-rounding.md.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
import torch
from ruamel.yaml import YAML

from ventaja import EvaluationConfig, RlConfig, SftConfig, evaluate, parse, train_rl, train_sft
from ventaja.cli import prepare_process
from ventaja.cpu.packed_weights import PackedWeights
from ventaja.models.head import LogitHead
from ventaja.models.policy import Policy
from ventaja.rollouts import LocalEngine
from ventaja.training.optimiser import Optimiser

ROOT = Path(__file__).parent.parent
TASK = ROOT / "examples" / "arithmetic"
RUNS = ROOT / "runs" / "rounding"
SEEDS = (0, 1, 2)
ARMS = {
    "plain": ("float32 masters, rounded to nearest, 1e-5", 1e-5),
    "plain, 2e-5": ("the same at 2e-5", 2e-5),
    "plain, 3e-5": ("the same at 3e-5", 3e-5),
    "stochastic": ("bfloat16 weights alone, rounded stochastically, 1e-5", 1e-5),
    "autocast": ("float32 weights under autocast to bfloat16, 1e-5", 1e-5),
}


def main() -> None:
    if len(sys.argv) > 2:
        prepare_process()
        run(sys.argv[1], int(sys.argv[2]))
        return
    done = {(line["arm"], line["seed"]) for line in results()}
    for seed in SEEDS:
        for arm in ARMS:
            if (arm, seed) not in done:  # each in a process of its own: some arms change what ours computes
                subprocess.run([sys.executable, __file__, arm, str(seed)], check=True)
    report()


def run(arm: str, seed: int) -> None:
    """The supervised start, if it is not there yet, the arm's run from it, and its measurement."""
    start = RUNS / f"sft-{seed}"
    if not start.exists():
        settings = read("sft.yaml")
        settings["run"] |= {"folder": str(start), "seed": seed}
        train_sft(parse(SftConfig, settings))
    folder = RUNS / f"{arm.replace(', ', '-')}-{seed}"
    precision = "float32" if arm == "autocast" else "bfloat16"
    model = {"name": str(start), "precision": precision}
    settings = read("rl.yaml") | {"model": model, "optimiser": {"learning_rate": ARMS[arm][1]}}
    settings["run"] |= {"folder": str(folder), "seed": seed, "checkpoint_every": None}
    if arm == "stochastic":
        round_stochastically(seed)
    if arm == "autocast":
        compute_under_autocast()
    done = train_rl(parse(RlConfig, settings))
    measured = evaluate(
        parse(EvaluationConfig, read("eval.yaml") | {"model": {"name": str(folder), "precision": precision}})
    )
    line = {
        "arm": arm,
        "seed": seed,
        "sampled": measured.accuracy_sampled,
        "greedy": measured.accuracy_greedy,
        "reward": done.column("reward"),
        "swallowed": done.metrics[-1].get("rounding/swallowed"),
    }
    with (RUNS / "results.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    shutil.rmtree(folder / "checkpoints")


def round_stochastically(seed: int) -> None:
    """Up or down with the probability that keeps the mean, and no memory of what was lost: as without masters."""
    generator = torch.Generator().manual_seed(seed)

    def round_into_module(self: Optimiser) -> None:
        for name, master in self.masters.items():
            noise = torch.randint(0, 1 << 16, master.shape, generator=generator, dtype=torch.int32)
            bits = (master.detach().view(torch.int32) + noise) & -(1 << 16)
            self.parameters[name].data.copy_(bits.view(torch.float32))
            master.data.copy_(self.parameters[name].data)

    Optimiser._round_into_module = round_into_module  # type: ignore[method-assign]


def compute_under_autocast() -> None:
    """Weights, residual stream and norms in float32, products in bfloat16; the head as ours, from bfloat16 states."""

    def under_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return function(*arguments, **named)

        return call

    Policy.hidden = under_autocast(Policy.hidden)  # type: ignore[method-assign]
    LogitHead.logits = under_autocast(LogitHead.logits)  # type: ignore[method-assign]
    LocalEngine.sample = under_autocast(LocalEngine.sample)  # type: ignore[method-assign]
    PackedWeights.__init__ = lambda self, model: setattr(self, "_packed", [])  # type: ignore[assignment, method-assign]
    logprobs = LogitHead.logprobs
    LogitHead.logprobs = lambda self, hidden, *rest, **named: logprobs(
        self, hidden.bfloat16(), *rest, **named
    )  # type: ignore[assignment, method-assign]


def report() -> None:
    """The curves, and a table of what came."""
    by_arm: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in results():
        by_arm[line["arm"]].append(line)
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    print("| arm | rounds 1–10 | 11–20 | 21–30 | 31–40 | sampled | greedy | swallowed |")
    print("|---|---|---|---|---|---|---|---|")
    for arm, (what, _) in ARMS.items():
        lines = by_arm[arm]
        if not lines:
            continue
        mean = [fmean(rewards) for rewards in zip(*(line["reward"] for line in lines), strict=True)]
        smooth = [fmean(mean[max(0, r - 2) : r + 3]) for r in range(len(mean))]
        axes.plot(range(1, len(mean) + 1), smooth, label=what)
        tens = [fmean(mean[r : r + 10]) for r in range(0, len(mean), 10)]
        swallowed = [line["swallowed"] for line in lines if line["swallowed"] is not None]
        cells = [f"{value:.3f}" for value in tens]
        for kind in ("sampled", "greedy"):
            each = ", ".join(f"{line[kind]:.1%}" for line in lines)
            cells.append(f"{fmean(line[kind] for line in lines):.1%} ({each})")
        cells.append(f"{fmean(swallowed):.0%}" if swallowed else "–")
        print(f"| {what} | {' | '.join(cells)} |")
    axes.set_xlabel("round")
    axes.set_ylabel("reward, mean of 3 seeds and 5 rounds")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    plt.rcParams["svg.hashsalt"] = "ventaja"
    figure.savefig(ROOT / "docs" / "decisions" / "0007-rounding.svg", metadata={"Date": None})


def results() -> list[dict[str, Any]]:
    file = RUNS / "results.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def read(name: str) -> dict[str, Any]:
    settings: dict[str, Any] = YAML(typ="safe").load(TASK / name)
    return settings


if __name__ == "__main__":
    main()
