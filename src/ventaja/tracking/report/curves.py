"""Metrics over the rounds, as pictures."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ventaja.disk import atomic_file
from ventaja.tracking.folder import numbers
from ventaja.tracking.report.markup import escaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MOST_POINTS = 1500


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One small picture: some metrics over the rounds, in one unit."""

    title: str
    metrics: tuple[str, ...]
    band: str | None = None
    """A metric that is drawn as ± around the first."""


CHARTS = (
    Chart(title="Reward (band: one standard deviation)", metrics=("reward",), band="reward_std"),
    Chart(title="Accuracy on held-out prompts", metrics=("eval/accuracy_sampled", "eval/accuracy_greedy")),
    Chart(title="Loss", metrics=("loss",)),
    Chart(title="Held-out loss", metrics=("eval/loss",)),
    Chart(title="Pairs of answers in the raters' order", metrics=("accuracy", "eval/accuracy")),
    Chart(title="Kendall's τ on held-out rankings", metrics=("eval/kendall_tau",)),
    Chart(title="KL to the reference", metrics=("kl",)),
    Chart(title="Entropy", metrics=("entropy",)),
    Chart(title="Variance of returns that the critic explains", metrics=("value/explained_variance",)),
    Chart(title="Completion length (tokens)", metrics=("completions/mean_length",)),
    Chart(title="Fraction of completions cut off", metrics=("completions/truncated_fraction",)),
    Chart(title="Fraction of tokens clipped", metrics=("clip_ratio/low", "clip_ratio/high")),
    Chart(title="Fraction of groups without a signal", metrics=("frac_reward_zero_std",)),
    Chart(title="Fraction of broken judgements", metrics=("broken_fraction",)),
    Chart(title="Gradient norm", metrics=("grad_norm",)),
    Chart(title="Learning rate", metrics=("learning_rate",)),
    Chart(title="Tokens per second", metrics=("tokens_per_second",)),
    Chart(title="Seconds per round", metrics=("seconds/sampling", "seconds/judging", "seconds/training")),
)


@runtime_checkable
class Columns(Protocol):
    """What is asked of a run to draw it; `ventaja.Run` is one."""

    def column(self, name: str) -> list[float]:
        """One metric over the rounds, NaN where a round has no number for it."""
        ...


def reward_curve_svg(runs: Mapping[str, Columns], path: str | Path, *, metric: str = "reward") -> Path:
    """Draws the reward (or another metric) of some runs over their rounds, as one SVG file; returns its path.

    The letters are drawn as shapes, so the picture is the same in every viewer. Raises RunError if a run has
    no such metric, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    ends: list[tuple[float, float, str, str]] = []
    for index, (label, run) in enumerate(runs.items()):
        colour = COLOURS[index % len(COLOURS)]
        if last := _draw(axes, run.column("round"), run.column(metric), colour):
            ends.append((*last, label, colour))
    if len(runs) > 1:
        _label_ends(axes, ends)
    dress(axes)
    axes.set_xlabel("round")
    axes.set_ylabel(metric, parse_math=False)
    if len(runs) == 1:
        axes.set_title(next(iter(runs)), loc="left", parse_math=False)
    with atomic_file(path, flag=None) as temporary:
        temporary.write_text(svg(figure, shapes=True) + "\n", encoding="utf-8")
    return Path(path)


def curves_section(metrics: Sequence[Mapping[str, Any]]) -> str:
    """A picture of each metric that there is."""
    if not metrics:
        return "<section><h2>Curves</h2><p>No round has ended yet.</p></section>"
    functions = sorted(
        {match[1] for line in metrics for key in line if (match := re.fullmatch(r"rewards/(.+)/mean", key))}
    )
    charts = [*CHARTS]
    if len(functions) > 1:
        charts.insert(
            1,
            Chart(title="Rewards, one by one", metrics=tuple(f"rewards/{name}/mean" for name in functions)),
        )
    named = {metric for chart in charts for metric in chart.metrics}
    more = sorted({key for line in metrics for key in line if key.startswith("eval/")} - named)
    charts += [Chart(title=key, metrics=(key,)) for key in more]
    figures = [drawn for chart in charts if (drawn := _chart(chart, metrics))]
    intro = "<p>In a long run the pale line is each round and the bold one the mean around it.</p>"
    return f'<section><h2>Curves</h2>{intro}<div class="charts">{"".join(figures)}</div></section>'


def _chart(chart: Chart, metrics: Sequence[Mapping[str, Any]]) -> str:
    """The chart as HTML, or "" if no round has any of its metrics."""
    from matplotlib.figure import Figure

    rounds = numbers(metrics, "round")
    present = [
        name for name in chart.metrics if any(math.isfinite(value) for value in numbers(metrics, name))
    ]
    if not present:
        return ""
    figure = Figure(figsize=(4.4, 2.3), layout="constrained")
    axes = figure.subplots()
    for name, colour in zip(present, COLOURS * len(present), strict=False):
        values = numbers(metrics, name)
        if chart.band:
            spread = numbers(metrics, chart.band)
            points = _thinned([point for point in zip(rounds, values, spread, strict=True) if _finite(point)])
            axes.fill_between(
                [x for x, _, _ in points],
                [y - s for _, y, s in points],
                [y + s for _, y, s in points],
                color=colour,
                alpha=0.12,
                linewidth=0,
            )
        _draw(axes, rounds, values, colour)
    dress(axes)
    key = ""
    if len(chart.metrics) > 1:
        names = "".join(
            f'<span style="color:{colour}">■</span> {escaped(name)} '
            for name, colour in zip(present, COLOURS * len(present), strict=False)
        )
        key = f"<small>{names}</small>"
    return f"<figure><figcaption>{escaped(chart.title)}</figcaption>{svg(figure, shapes=False)}{key}</figure>"


def _draw(
    axes: Axes, rounds: Sequence[float], values: Sequence[float], colour: str
) -> tuple[float, float] | None:
    """Draws one curve: as it is, pale, under a moving average if it is long. Returns its last point."""
    points = [point for point in zip(rounds, values, strict=True) if _finite(point)]
    if not points:
        return None
    window = len(points) // 25
    smooth = _moving_average([y for _, y in points], window)
    raw = _thinned(points)
    axes.plot(
        [x for x, _ in raw],
        [y for _, y in raw],
        color=colour,
        linewidth=1 if window > 1 else 1.6,
        alpha=0.3 if window > 1 else 1,
        # A single round is a point, and a point needs a mark to be seen.
        marker="o" if len(points) < 3 else "",
        markersize=4,
    )
    if window > 1:
        line = _thinned(list(zip([x for x, _ in points], smooth, strict=True)))
        axes.plot([x for x, _ in line], [y for _, y in line], color=colour, linewidth=1.8)
    return points[-1][0], smooth[-1]


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes each curve's label, in its colour, beside its end; labels that would overlap move apart."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.06
    below = -math.inf
    for x, y, label, colour in sorted(ends, key=lambda end: end[1]):
        below = max(y, below + gap)
        axes.annotate(
            label,
            (x, below),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            annotation_clip=False,
            parse_math=False,
        )


def dress(axes: Axes, *, whole: bool = True) -> None:
    """What all of a report's pictures look like; with `whole` only whole numbers stand along the bottom."""
    from matplotlib.ticker import MaxNLocator

    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#999999")
    axes.tick_params(length=0, labelsize=8, colors="#555555")
    axes.xaxis.set_major_locator(MaxNLocator(integer=whole, nbins=6))
    axes.margins(x=0.02)


def svg(figure: Figure, *, shapes: bool) -> str:
    """The figure as an `<svg>` element, the same bytes for the same figure."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    settings: Any = {"svg.fonttype": "path" if shapes else "none", "svg.hashsalt": "ventaja"}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # A label in a script that the font lacks is drawn with boxes; it is no reason to worry a user.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    text = buffer.getvalue()
    return text[text.index("<svg") :].strip()


def _finite(point: Sequence[float]) -> bool:
    return all(math.isfinite(number) for number in point)


def _moving_average(values: Sequence[float], window: int) -> list[float]:
    """The mean of the `window` values around each value, fewer at the ends."""
    if window < 2:
        return list(values)
    sums = [0.0, *accumulate(values)]
    before, after = window // 2, window - window // 2
    spans = ((max(index - before, 0), min(index + after, len(values))) for index in range(len(values)))
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def _thinned(points: list[Any]) -> list[Any]:
    """At most `_MOST_POINTS` of the points, the last one always, so that a long run's page stays small."""
    step = math.ceil(len(points) / _MOST_POINTS)
    return points if step < 2 else points[::-step][::-1]
