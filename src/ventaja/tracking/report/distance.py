"""Gold reward against proxy, over the distance from the reference: is the reward model still worth optimising?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ventaja.disk import atomic_file
from ventaja.tracking.folder import held_out_cost, numbers
from ventaja.tracking.report.curves import COLOURS, dress, svg
from ventaja.tracking.report.markup import escaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROXY, GOLD = COLOURS[0], COLOURS[1]


def distances(metrics: Sequence[Mapping[str, Any]]) -> list[float]:
    """√KL of an answer from the reference, of each round: the KL of a token times an answer's mean length, in nats. NaN
    where a round has none."""
    pairs = zip(numbers(metrics, "kl"), numbers(metrics, "completions/mean_length"), strict=True)
    return [math.sqrt(max(kl * length, 0.0)) for kl, length in pairs]


def distance_section(metrics: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> str:
    """Proxy, and gold if the run names one, over √KL; "" for a run that measures no KL, or has no reward to doubt."""
    from matplotlib.figure import Figure

    gold = (config.get("reward") or {}).get("gold")
    if not any(map(math.isfinite, distances(metrics))):
        return ""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    found = draw_distance(figure.subplots(), metrics, gold)
    key = f'<span style="color:{PROXY}">■</span> what is learned from, as standard deviations of the first round '
    if gold:
        key += f'<span style="color:{GOLD}">■</span> {escaped(gold)} '
    return (
        "<section><h2>Reward over the distance from the reference</h2>"
        f"<p>√KL of an answer, in √nats; a point is a round. {escaped(found)}</p>"
        f"{svg(figure, shapes=False)}<small>{key}</small></section>"
    )


def distance_svg(metrics: Sequence[Mapping[str, Any]], gold: str | None, path: str | Path) -> str:
    """The same as a file; returns in a sentence what the fit says. Raises RunError if it cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    found = draw_distance(figure.subplots(), metrics, gold)
    with atomic_file(path, flag=None) as temporary:
        temporary.write_text(svg(figure, shapes=True) + "\n", encoding="utf-8")
    return found


def draw_distance(axes: Axes, metrics: Sequence[Mapping[str, Any]], gold: str | None) -> str:
    """Draws points, gold's fit and the best checkpoint; returns what they say. Both rewards are drawn as standard
    deviations of the first round's answers above its mean, for they have units of their own."""
    d = distances(metrics)
    said = []
    for name, spread, colour in (
        ("reward", "reward_std", PROXY),
        (f"rewards/{gold}/mean", f"rewards/{gold}/std", GOLD),
    ):
        points = [
            (x, y)
            for x, y in zip(d, _standardised(metrics, name, spread), strict=True)
            if math.isfinite(x + y)
        ]
        if not points:
            continue
        axes.plot(
            *zip(*points, strict=True), linestyle="", marker="o", markersize=3.5, color=colour, alpha=0.6
        )
        if colour == GOLD:
            said.append(_fit(axes, points))
    costs = [
        (cost, x)
        for line, x in zip(metrics, d, strict=True)
        if (cost := held_out_cost(line)) is not None and x == x
    ]
    if gold and costs:
        _, where = min(costs)
        axes.axvline(where, color="#999999", linewidth=0.8, linestyle="--")
        said.append(f"The dashed line is the best checkpoint by held-out {gold}, at √KL {where:.2f}.")
    dress(axes, whole=False)
    axes.set_xlabel("√KL from the reference (√nats per answer)")
    axes.set_ylabel("gain, in standard deviations")
    return " ".join(said)


def _fit(axes: Axes, points: Sequence[tuple[float, float]]) -> str:
    import torch  # here, so that a command that only shows help does not wait for it

    from ventaja.functional import gold_by_distance

    x, y = (torch.tensor(values, dtype=torch.float64) for values in zip(*points, strict=True))
    try:
        alpha, beta = gold_by_distance(x, y)
    except ValueError:
        return ""
    line = torch.linspace(1e-3, float(x.max()), 100, dtype=torch.float64)
    axes.plot(line, line * (alpha - beta * line.log()), color=GOLD, linewidth=1.6)
    turns = math.exp(alpha / beta - 1) if beta > 0 else math.inf
    where = f"which turns at √KL {turns:.2f}" if turns <= float(x.max()) else "which has not turned yet"
    return f"Gold is fitted by d(α − β log d) with α = {alpha:.3f}, β = {beta:.3f} (Gao et al., arXiv:2210.10760), {where}."


def _standardised(metrics: Sequence[Mapping[str, Any]], name: str, spread: str) -> list[float]:
    values, spreads = numbers(metrics, name), numbers(metrics, spread)
    known = [(value, s) for value, s in zip(values, spreads, strict=True) if value == value and s == s]
    if not known or known[0][1] == 0:
        return [math.nan] * len(values)
    first, size = known[0]
    return [(value - first) / size for value in values]
