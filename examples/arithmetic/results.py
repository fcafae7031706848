"""`make results`: the demo for three seeds, and PPO and REINFORCE from the same starts. Writes docs/results.md and the reward
curves' pictures."""

from __future__ import annotations

import argparse
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
import transformers
from rich.console import Console
from task import Outcome, Tuned, read, run_other, run_task

from ventaja import Run
from ventaja.cli import prepare_process
from ventaja.tracking import reward_curve_svg

SEEDS = (0, 1, 2)
OTHERS = ("ppo", "reinforce")
DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/results"), help="where the runs go")
    folder = parser.parse_args().folder
    prepare_process()
    console = Console()
    shutil.rmtree(folder, ignore_errors=True)
    outcomes: dict[int, Outcome] = {}
    seconds: dict[int, float] = {}
    others: dict[int, dict[str, Tuned]] = {}
    for seed in SEEDS:
        console.rule(f"seed {seed}")
        start = time.perf_counter()
        outcomes[seed] = run_task(folder / f"seed-{seed}", seed=seed, console=console)
        seconds[seed] = time.perf_counter() - start
        others[seed] = {
            name: run_other(name, outcomes[seed], folder / f"seed-{seed}", seed=seed, console=console)
            for name in OTHERS
        }
    reward_curve_svg({f"seed {seed}": o.rl for seed, o in outcomes.items()}, DOCS / "reward_curve.svg")
    compared = {"grpo": [o.rl for o in outcomes.values()]} | {
        name: [others[seed][name].run for seed in SEEDS] for name in OTHERS
    }
    reward_curve_svg({name: MeanOf(runs) for name, runs in compared.items()}, DOCS / "algorithms_curve.svg")
    (DOCS / "results.md").write_text("\n".join([*page(outcomes, seconds), *comparison(outcomes, others)]))
    console.print(f"Wrote {DOCS / 'results.md'}")


def page(outcomes: dict[int, Outcome], seconds: dict[int, float]) -> list[str]:
    """What was run, where, and the figures as they came."""
    rl = read("rl.yaml")
    first = next(iter(outcomes.values()))
    lines = [
        "# Results",
        "",
        "Made by `make results`; nothing here is edited by hand.",
        "",
        f"SmolLM2-135M-Instruct learns `chain_sum` (two terms of one or two digits): {read('sft.yaml')['run']['updates']} "
        f"supervised steps of {read('sft.yaml')['run']['batch_size']} examples, then {rl['run']['rounds']} rounds of "
        f"{rl['algorithm']['name'].upper()} with {rl['run']['completions_per_round']} answers each. Accuracy is the share of "
        f"answers with full marks on {first.base.problems} held-out problems, none of which was trained on: "
        f"{read('eval.yaml')['samples']} sampled answers each at temperature 1, and one greedy answer.",
        "",
        "| seed | base, sampled | base, greedy | SFT, sampled | SFT, greedy | RL, sampled | RL, greedy | RL added, sampled | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for seed, o in outcomes.items():
        cells = [
            f"{getattr(stage, kind):.1%}"
            for stage in (o.base, o.after_sft, o.after_rl)
            for kind in ("accuracy_sampled", "accuracy_greedy")
        ]
        gain = (o.after_rl.accuracy_sampled - o.after_sft.accuracy_sampled) * 100
        lines.append(f"| {seed} | {' | '.join(cells)} | {gain:+.1f} points | {seconds[seed] / 60:.1f} |")
    error = (0.25 / first.base.problems) ** 0.5
    lines += [
        "",
        f"The standard error of an accuracy over {first.base.problems} problems is at most {error:.1%}.",
        "",
        "## The saved folder in plain transformers",
        "",
        "What somebody gets who loads the same checkpoints with `AutoModelForCausalLM.from_pretrained(folder)` and no other "
        "argument, and lets `generate` answer the same problems (`examples/arithmetic/plain.py`, which uses nothing of "
        "Ventaja). Greedy answers may differ where two words are equally likely to bfloat16's last bit; sampled ones come "
        "from other random numbers.",
        "",
        "| seed | checkpoint | sampled, Ventaja | sampled, transformers | greedy, Ventaja | greedy, transformers |",
        "|---|---|---|---|---|---|",
    ]
    for seed, o in outcomes.items():
        for name, run, ours in (("SFT", o.sft, o.after_sft), ("RL", o.rl, o.after_rl)):
            cells = [
                f"{share:.1%}"
                for share in (
                    ours.accuracy_sampled,
                    o.plain(run, sampled=True),
                    ours.accuracy_greedy,
                    o.plain(run, sampled=False),
                )
            ]
            lines.append(f"| {seed} | {name} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Machine: {platform.machine()}, {torch.get_num_threads()} threads, AMX "
        f"{'yes' if torch.cpu._is_amx_tile_supported() else 'no'}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}. The minutes include loading and all "
        "three measurements.",
        "",
        "![Reward per round](reward_curve.svg)",
        "",
    ]
    return lines


def comparison(outcomes: dict[int, Outcome], others: dict[int, dict[str, Tuned]]) -> list[str]:
    """GRPO beside the others."""
    tuned = {
        seed: {"grpo": Tuned(outcomes[seed].rl, outcomes[seed].after_rl), **others[seed]} for seed in outcomes
    }
    files = {name: read(f"{name}.yaml") for name in OTHERS}
    parts = "; ".join(
        f"{name.upper()} ({', '.join(f'{part} {value}' for part, value in _settings(values))})"
        for name, values in files.items()
    )
    lines = [
        "## PPO and REINFORCE from the same starts",
        "",
        f"The same supervised start, prompts, answers a round and answers a prompt; beside GRPO, {parts}. Minutes are those of the "
        "rounds: sampling, judging and training. PPO's learning rates were chosen on another seed, GRPO's is the demo's, which "
        "REINFORCE has too.",
        "",
        "| seed | algorithm | sampled | greedy | RL added, sampled | minutes | of GRPO's |",
        "|---|---|---|---|---|---|---|",
    ]
    for seed, by_name in tuned.items():
        for name, one in by_name.items():
            gain = (one.after.accuracy_sampled - outcomes[seed].after_sft.accuracy_sampled) * 100
            lines.append(
                f"| {seed} | {name} | {one.after.accuracy_sampled:.1%} | {one.after.accuracy_greedy:.1%} | {gain:+.1f} points | "
                f"{one.minutes:.1f} | {one.minutes / by_name['grpo'].minutes:.2f} |"
            )
    explained = [others[seed]["ppo"].run.column("value/explained_variance") for seed in others]
    lines += [
        "",
        f"What PPO's critic explains of the variance of the returns, in its last five rounds, by seed: "
        f"{', '.join(f'{fmean(values[-5:]):.0%}' for values in explained)}.",
        "",
        "Reward per round, mean over the seeds:",
        "",
        "![Reward per round, by algorithm](algorithms_curve.svg)",
        "",
    ]
    return lines


def _settings(values: dict) -> list[tuple[str, object]]:
    """What a run file sets, but for the algorithm's name."""
    return [
        (f"{group}.{name}", value)
        for group, settings in values.items()
        for name, value in settings.items()
        if (group, name) != ("algorithm", "name")
    ]


@dataclass(frozen=True)
class MeanOf:
    """The mean of several runs' columns, as a picture takes them."""

    runs: Sequence[Run]

    def column(self, name: str) -> list[float]:
        return [fmean(values) for values in zip(*(run.column(name) for run in self.runs), strict=True)]


if __name__ == "__main__":
    main()
