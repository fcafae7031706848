"""How good policies are on held-out prompts, by the judge and by the reward model, and how far they went for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from rich.console import Console

from ventaja import EvaluationConfig, Run, evaluate, parse
from ventaja.functional import best_of_n, best_of_n_kl, gold_by_distance, gold_by_distance_best_of_n, kl_k3
from ventaja.models import Bundle, Policy, load_policy, pack_row
from ventaja.records import Group, read_groups
from ventaja.tracking.report.curves import COLOURS
from ventaja.tracking.report.distance import distances

SAMPLES = 4
OF_BASE = 16
"""The base answers more often: the best of its answers is measured too."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One policy on the held-out prompts; scores are means over prompts."""

    gold: float
    error: float
    """Standard error of gold, over prompts."""
    proxy: float
    tokens: float
    """Mean length of an answer."""
    wins: float | None = None
    """Share of pairs with an answer of the base to the same prompt that gold prefers, ties half."""
    kl: float | None = None
    """From the base, nats per answer."""
    best: Mapping[int, float] | None = None
    """Of the base: gold of the answer that the proxy likes best of n."""


def measure(
    models: Mapping[str, str],
    values: Mapping[str, Any],
    *,
    reward_model: str,
    seed: int,
    folder: Path,
    console: Console,
) -> dict[str, Measured]:
    """Each model on the held-out prompts of `values`, a run file; the base comes first, and the best of its four beside it."""
    groups: dict[str, list[Group]] = {}
    for name, model in models.items():
        console.print(f"{name}: answering the held-out prompts …")
        functions = [dict(function) for function in values["reward"]["functions"]]
        functions[0]["function"] = reward_model
        output = folder / f"held_out-{name.lower()}.parquet"
        config = {
            "model": model, "data": values["eval"]["source"], "sampling": values["sampling"], "seed": 1000 + seed,
            "reward": {"functions": functions}, "samples": OF_BASE if name == "base" else SAMPLES, "output": str(output),
        }  # fmt: skip
        evaluate(parse(EvaluationConfig, config), console=Console(quiet=True))
        groups[name] = read_groups(output)
    base = groups["base"]
    proxy, gold = (torch.tensor(_scores(base, name)) for name in ("proxy", "gold"))
    best = {n: best_of_n(proxy, gold, n=n) for n in (1, 2, 4, 8, 16)}
    found = {"base": replace(_of(base), best=best)}
    of_four = [_best(group, 4) for group in base]
    found["best of 4"] = replace(_of(of_four), gold=best[4], wins=_wins(of_four, base), kl=best_of_n_kl(4))
    network = load_policy(models["base"])
    for name in models:
        if name != "base":
            kl = distance(groups[name], network)
            found[name] = replace(_of(groups[name]), wins=_wins(groups[name], base), kl=kl)
    return found


def distance(groups: list[Group], reference: Policy) -> float:
    """KL of the policy that gave these answers from the reference, in nats per answer: k3 of every token, summed."""
    total, answers = 0.0, 0
    with torch.no_grad():
        for group in groups:
            answers += len(group)
            row = pack_row(
                [Bundle(prompt_ids=group.prompt_ids, answers=[t.token_ids for t in group.trajectories])]
            )
            expected = reference.score(row).logprob_M
            said = torch.tensor([p for t in group.trajectories for p in t.logprobs], dtype=torch.float32)
            total += float(kl_k3(said - expected[_in_order(row)].cpu()).sum())
    return total / answers


def _in_order(row: Any) -> torch.Tensor:
    """The row's targets, answer after answer."""
    return (row.answer_M * (1 + int(row.time_M.max())) + row.time_M).argsort()


def _scores(groups: list[Group], name: str) -> list[list[float]]:
    return [[float(j.components[name] or 0.0) for j in group.judgements] for group in groups]


def _of(groups: list[Group]) -> Measured:
    gold = [fmean(scores) for scores in _scores(groups, "gold")]
    return Measured(
        gold=fmean(gold), error=stdev(gold) / math.sqrt(len(gold)),
        proxy=fmean(fmean(scores) for scores in _scores(groups, "proxy")),
        tokens=fmean(len(t) for group in groups for t in group.trajectories),
    )  # fmt: skip


def _best(group: Group, n: int) -> Group:
    """The group of the answers that the proxy likes best in each n of the group's."""
    chosen = [
        max(range(start, start + n), key=lambda k: group.judgements[k].components["proxy"] or 0.0)
        for start in range(0, len(group) - n + 1, n)
    ]
    return replace(
        group,
        trajectories=tuple(group.trajectories[k] for k in chosen),
        judgements=tuple(group.judgements[k] for k in chosen),
    )


def _wins(groups: list[Group], base: list[Group]) -> float:
    shares = [
        fmean((ours > theirs) + 0.5 * (ours == theirs) for ours in mine for theirs in other)
        for mine, other in zip(_scores(groups, "gold"), _scores(base, "gold"), strict=True)
    ]
    return fmean(shares)


def draw_curves(runs: Mapping[str, Run], policies: Mapping[str, Measured], path: Path) -> str:
    """Gold and proxy of each run's rounds, and the base's best of n, over √KL; says what the fits are."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    said = []
    start = policies["base"].gold
    for (name, run), colour in zip(runs.items(), COLOURS, strict=False):
        d = distances(run.metrics)
        gold = run.column("rewards/gold/mean")
        axes.plot(d, gold, "o", markersize=3, color=colour, alpha=0.5)
        x = torch.tensor(d, dtype=torch.float64)
        alpha, beta = gold_by_distance(x, torch.tensor(gold, dtype=torch.float64) - gold[0])
        line = torch.linspace(1e-3, max(d), 100, dtype=torch.float64)
        axes.plot(
            line,
            gold[0] + line * (alpha - beta * line.log()),
            color=colour,
            label=f"{name.upper()}, gold of each round",
        )
        said.append(
            f"{name.upper()}: gold gained is fitted by d(α − β log d) with α = {alpha:.3f}, β = {beta:.3f}."
        )
    best = policies["base"].best or {}
    d_n = torch.tensor([math.sqrt(best_of_n_kl(n)) for n in best], dtype=torch.float64)
    gain_n = torch.tensor([value - start for value in best.values()], dtype=torch.float64)
    alpha, beta = gold_by_distance_best_of_n(d_n, gain_n)
    line = torch.linspace(0, float(d_n.max()), 100, dtype=torch.float64)
    axes.plot(d_n, start + gain_n, "s", markersize=4, color="#555555")
    axes.plot(
        line,
        start + line * (alpha - beta * line),
        color="#555555",
        linestyle="--",
        label="best of 1, 2, 4, 8, 16 of the base, held-out",
    )
    said.append(f"The best of n: d(α − βd) with α = {alpha:.3f}, β = {beta:.3f}.")
    axes.set_xlabel("√KL from the base (√nats per answer)")
    axes.set_ylabel("gold score (synthetic judge)")
    axes.grid(axis="y", color="#e4e4e4")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return " ".join(said)
