"""`make rlhf`: people rank, a reward model learns, the policy follows; with a synthetic judge in the place of people.

python examples/rlhf/chain.py                            # one seed: the table, and the curve in runs/rlhf
python examples/rlhf/chain.py --seeds 0 1 2 --write      # docs/results-rlhf.md and its picture
"""

from __future__ import annotations

import argparse
import platform
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import judge
import torch
from measure import Measured, draw_curves, measure
from rich.console import Console
from ruamel.yaml import YAML

from ventaja import (
    DpoConfig,
    RewardModelConfig,
    RlConfig,
    Run,
    parse,
    train_dpo,
    train_reward_model,
    train_rl,
)
from ventaja.cli import prepare_process
from ventaja.rankings import write_rankings
from ventaja.tracking import table
from ventaja.training.sampling import sample
from ventaja.training.sampling_config import SampleConfig

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
COLUMNS = ("policy", "gold score", "wins over base", "proxy score", "KL spent", "tokens")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/rlhf"), help="where everything goes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--write", action="store_true", help="write docs/results-rlhf.md and its picture")
    arguments = parser.parse_args()
    prepare_process()
    console = Console()
    outcomes = {}
    for seed in arguments.seeds:
        folder = arguments.folder if len(arguments.seeds) == 1 else arguments.folder / f"seed-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        started = time.perf_counter()
        outcomes[seed] = outcome = run(folder, seed=seed, console=console)
        seconds = time.perf_counter() - started
        outcome["minutes"] = seconds / 60
        console.print(
            f"The reward model orders {outcome['accuracy']:.1%} of the pairs in held-out rankings as the synthetic judge did, whose "
            f"own noise turns some around."
        )
        console.print(
            table("Held-out prompts, by the synthetic judge", list(COLUMNS), rows(outcome["policies"]))
        )
        curve = folder / "over_optimisation.svg"
        said = draw_curves(outcome["runs"], outcome["policies"], curve)
        console.print(f"{said}\nOver-optimisation: {curve}. The chain took {seconds / 60:.1f} minutes.")
        console.print(f"Look inside: {outcome['runs']['grpo'].report()}")
    if arguments.write:
        first = next(iter(outcomes.values()))
        said = draw_curves(first["runs"], first["policies"], DOCS / "rlhf_curve.svg")
        (DOCS / "results-rlhf.md").write_text(page(outcomes, said))
        console.print(f"Wrote {DOCS / 'results-rlhf.md'}")


def run(folder: Path, *, seed: int, console: Console) -> dict[str, Any]:
    """The whole chain: sample, rank, reward model, DPO, PPO and GRPO, and their measurement."""
    console.rule(f"Seed {seed}: answers to rank")
    answers = folder / "answers.parquet"
    sample(parse(SampleConfig, read("sample.yaml") | {"output": str(answers), "seed": seed}), console=console)
    console.rule("Rankings by the synthetic judge")
    rankings = folder / "rankings.jsonl"
    ranked = judge.rank_file(answers, seed=seed)
    write_rankings(rankings, ranked)
    console.print(
        f"{len(ranked)} rankings, {sum(len(r.order) < len(r.answers) for r in ranked)} of them with ties"
    )
    console.rule("The reward model")
    reward_model = train_reward_model(
        parse(RewardModelConfig, placed("reward.yaml", folder / "reward-model", seed, data=str(rankings))),
        console=console,
    )
    console.rule("DPO on the same rankings")
    dpo = train_dpo(
        parse(DpoConfig, placed("dpo.yaml", folder / "dpo", seed, data=str(rankings))), console=console
    )
    runs: dict[str, Run] = {}
    for name in ("ppo", "grpo"):
        console.rule(f"{name.upper()} against the reward model")
        values = placed("grpo.yaml", folder / name, seed)
        if name == "ppo":
            changes = read("ppo.yaml")
            values |= {group: changes[group] for group in ("algorithm", "critic")}
        values["reward"]["functions"][0]["function"] = str(reward_model.path)
        runs[name] = train_rl(parse(RlConfig, values), console=console)
    console.rule("Held-out prompts")
    policies = measure(
        {"base": "smollm2-135m", "DPO": str(dpo.path), "PPO": str(runs["ppo"].path), "GRPO": str(runs["grpo"].path)},
        read("grpo.yaml"), reward_model=str(reward_model.path), seed=seed, folder=folder, console=console,
    )  # fmt: skip
    return {"accuracy": reward_model.column("eval/accuracy")[-1], "policies": policies, "runs": runs}


def placed(name: str, folder: Path, seed: int, **more: Any) -> dict[str, Any]:
    """A run file beside this one, with another folder and seed."""
    values = read(name) | more
    values["run"] |= {"folder": str(folder), "seed": seed}
    return values


def read(name: str) -> dict[str, Any]:
    """A run file beside this one; what it names in examples/rlhf is found from anywhere."""
    text = (HERE / name).read_text(encoding="utf-8").replace("examples/rlhf/", f"{HERE}/")
    values: dict[str, Any] = YAML(typ="safe").load(text)
    return values


def rows(policies: Mapping[str, Measured]) -> list[list[str]]:
    """The table's cells."""
    return [
        [
            name, f"{one.gold:+.3f} ± {one.error:.3f}", "–" if one.wins is None else f"{one.wins:.1%}", f"{one.proxy:+.2f}",
            "–" if one.kl is None else f"{one.kl:.2f}", f"{one.tokens:.0f}",
        ]
        for name, one in policies.items()
    ]  # fmt: skip


def page(outcomes: Mapping[int, dict[str, Any]], said: str) -> str:
    """docs/results-rlhf.md: what was run, where, and the figures as they came."""
    lines = [
        "# The RLHF chain, run",
        "",
        "Made by `python examples/rlhf/chain.py --seeds 0 1 2 --write`; nothing here is edited by hand. No person ranked anything: the "
        "judge is synthetic (`examples/rlhf/judge.py`: how cheerful a reply sounds by VADER's lexicon, with noise and ties).",
        "",
        "SmolLM2-135M-Instruct answers everyday prompts; its answers are ranked, a reward model is fitted to the rankings, and "
        "the policy is tuned by DPO on the rankings, and by PPO and GRPO against the reward model. Measured on held-out prompts: the gold "
        "score is the synthetic judge's own, without noise, with its standard error over prompts; wins are shares of pairs of answers to one prompt, "
        "ties half; KL is from the base, in nats per answer.",
        "",
    ]
    for seed, outcome in outcomes.items():
        lines += [
            f"## Seed {seed}",
            "",
            f"The reward model orders {outcome['accuracy']:.1%} of the pairs in held-out rankings as they were ranked. The chain took "
            f"{outcome['minutes']:.1f} minutes.",
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "|" + "---|" * len(COLUMNS),
            *("| " + " | ".join(row) + " |" for row in rows(outcome["policies"])),
            "",
        ]
    return "\n".join(
        [
            *lines,
            "## Over-optimisation",
            "",
            f"Of the first seed. {said}",
            "",
            "![Gold and proxy over the distance from the base](rlhf_curve.svg)",
            "",
            f"Machine: {platform.machine()}, {torch.get_num_threads()} threads; Python {platform.python_version()}, torch {torch.__version__}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
