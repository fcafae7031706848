"""`report.html`: one page about one run that needs nothing but itself, and pictures of reward curves."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ventaja.records import Completion, Group, Judgement, Prompt
from ventaja.records.files import atomic_file
from ventaja.tracking.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MOST_POINTS = 1500
_MOST_CHARACTERS = 3000


@dataclass(frozen=True, kw_only=True)
class _Chart:
    """One small picture: some metrics over the rounds, in one unit."""

    title: str
    metrics: tuple[str, ...]
    band: str | None = None
    """A metric that is drawn as ± around the first."""


_CHARTS = (
    _Chart(title="Reward (band: one standard deviation)", metrics=("reward",), band="reward_std"),
    _Chart(title="Accuracy on held-out prompts", metrics=("eval/accuracy_sampled", "eval/accuracy_greedy")),
    _Chart(title="Loss", metrics=("loss",)),
    _Chart(title="Held-out loss", metrics=("eval/loss",)),
    _Chart(title="KL to the reference", metrics=("kl",)),
    _Chart(title="Entropy", metrics=("entropy",)),
    _Chart(title="Completion length (tokens)", metrics=("completions/mean_length",)),
    _Chart(title="Fraction of completions cut off", metrics=("completions/truncated_fraction",)),
    _Chart(title="Fraction of tokens clipped", metrics=("clip_ratio/low", "clip_ratio/high")),
    _Chart(title="Fraction of groups without a signal", metrics=("frac_reward_zero_std",)),
    _Chart(title="Fraction of broken judgements", metrics=("broken_fraction",)),
    _Chart(title="Gradient norm", metrics=("grad_norm",)),
    _Chart(title="Learning rate", metrics=("learning_rate",)),
    _Chart(title="Tokens per second", metrics=("tokens_per_second",)),
    _Chart(title="Seconds per round", metrics=("seconds/sampling", "seconds/judging", "seconds/training")),
)


def write_report(folder: str | Path) -> Path:
    """Writes `report.html` into a run's folder, in place of an earlier one, and returns its path.

    Self-contained: the curves are inline SVG and nothing is fetched. All text from the run is escaped.
    Raises RunError if there is no run in `folder`, or the page cannot be written.
    """
    run = Run(folder)
    metrics = run.metrics
    sections = [
        _curves(metrics),
        _last_metrics(metrics),
        _samples(run),
        _settings(run.config),
    ]
    facts = [f"{len(metrics)} rounds", f"{len(run.checkpoints)} checkpoints"]
    if run.folder.command():
        facts.append(f"<code>{_text(run.folder.command())}</code>")
    page = _PAGE.format(
        title=_text(run.name), facts=" · ".join(facts), style=_STYLE, body="\n".join(sections)
    )
    with atomic_file(run.folder.report_path, flag=None) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return run.folder.report_path


def reward_curve_svg(runs: Mapping[str, Run], path: str | Path, *, metric: str = "reward") -> Path:
    """Draws the reward (or another metric) of some runs over their rounds, as one SVG file; returns its path.

    The letters are drawn as shapes, so the picture is the same in every viewer. Raises RunError if a run has
    no such metric, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    ends: list[tuple[float, float, str, str]] = []
    for index, (label, run) in enumerate(runs.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        if last := _draw(axes, run.column("round"), run.column(metric), colour):
            ends.append((*last, label, colour))
    if len(runs) > 1:
        _label_ends(axes, ends)
    _dress(axes)
    axes.set_xlabel("round")
    axes.set_ylabel(metric, parse_math=False)
    if len(runs) == 1:
        axes.set_title(next(iter(runs)), loc="left", parse_math=False)
    with atomic_file(path, flag=None) as temporary:
        temporary.write_text(_svg(figure, shapes=True) + "\n", encoding="utf-8")
    return Path(path)


def _curves(metrics: Sequence[Mapping[str, Any]]) -> str:
    if not metrics:
        return "<section><h2>Curves</h2><p>No round has ended yet.</p></section>"
    functions = sorted(
        {match[1] for line in metrics for key in line if (match := re.fullmatch(r"rewards/(.+)/mean", key))}
    )
    charts = [*_CHARTS]
    if len(functions) > 1:
        charts.insert(
            1,
            _Chart(title="Rewards, one by one", metrics=tuple(f"rewards/{name}/mean" for name in functions)),
        )
    named = {metric for chart in charts for metric in chart.metrics}
    more = sorted({key for line in metrics for key in line if key.startswith("eval/")} - named)
    charts += [_Chart(title=key, metrics=(key,)) for key in more]
    figures = [drawn for chart in charts if (drawn := _chart(chart, metrics))]
    intro = "<p>In a long run the pale line is each round and the bold one the mean around it.</p>"
    return f'<section><h2>Curves</h2>{intro}<div class="charts">{"".join(figures)}</div></section>'


def _chart(chart: _Chart, metrics: Sequence[Mapping[str, Any]]) -> str:
    """The chart as HTML, or "" if no round has any of its metrics."""
    from matplotlib.figure import Figure

    rounds = _column(metrics, "round")
    present = [
        name for name in chart.metrics if any(math.isfinite(value) for value in _column(metrics, name))
    ]
    if not present:
        return ""
    figure = Figure(figsize=(4.4, 2.3), layout="constrained")
    axes = figure.subplots()
    for name, colour in zip(present, _COLOURS * len(present), strict=False):
        values = _column(metrics, name)
        if chart.band:
            spread = _column(metrics, chart.band)
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
    _dress(axes)
    key = ""
    if len(chart.metrics) > 1:
        names = "".join(
            f'<span style="color:{colour}">■</span> {_text(name)} '
            for name, colour in zip(present, _COLOURS * len(present), strict=False)
        )
        key = f"<small>{names}</small>"
    return f"<figure><figcaption>{_text(chart.title)}</figcaption>{_svg(figure, shapes=False)}{key}</figure>"


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


def _dress(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#999999")
    axes.tick_params(length=0, labelsize=8, colors="#555555")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.margins(x=0.02)


def _svg(figure: Figure, *, shapes: bool) -> str:
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


def _last_metrics(metrics: Sequence[Mapping[str, Any]]) -> str:
    if not metrics:
        return ""
    first: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for line in metrics:
        for name, value in line.items():
            first.setdefault(name, value)
            if value is not None:
                last[name] = value
    rows = "".join(
        f"<tr><th>{_text(name)}</th><td>{_value(first[name])}</td><td>{_value(last.get(name))}</td></tr>"
        for name in first
    )
    return (
        "<section><h2>Metrics</h2><table><thead><tr><th></th><th>first</th><th>last</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></section>"
    )


def _samples(run: Run) -> str:
    rounds = run.rollout_rounds
    if not rounds:
        return ""
    parts = []
    for round in dict.fromkeys((rounds[0], rounds[-1])):
        groups = run.rollouts(round)
        parts.append(f"<h3>Round {round}</h3>" + "".join(_group(group) for group in groups[:3]))
    intro = "<p>The best and the worst completion of a few prompts.</p>"
    return f"<section><h2>Samples</h2>{intro}{''.join(parts)}</section>"


def _group(group: Group) -> str:
    judgements: Sequence[Judgement | None] = group.judgements or (None,) * len(group)
    pairs = sorted(zip(group.completions, judgements, strict=True), key=_by_reward, reverse=True)
    shown = pairs[:1] if len(pairs) == 1 else [pairs[0], pairs[-1]]
    completions = "".join(_completion(*pair) for pair in shown)
    return f'<article><pre class="prompt">{_prompt(group.prompt)}</pre>{completions}</article>'


def _by_reward(pair: tuple[Completion, Judgement | None]) -> float:
    judgement = pair[1]
    return judgement.reward if judgement and math.isfinite(judgement.reward) else -math.inf


def _prompt(prompt: Prompt) -> str:
    if isinstance(prompt.content, str):
        return _text(_shortened(prompt.content))
    return "\n".join(
        f"<b>{_text(turn['role'])}</b> {_text(_shortened(turn['content']))}" for turn in prompt.content
    )


def _completion(completion: Completion, judgement: Judgement | None) -> str:
    facts = [f"{len(completion)} tokens", f"ended by {completion.stop.value}"]
    faults = ""
    if judgement is not None:
        facts.insert(0, f"reward {judgement.reward:.4g}" if judgement.is_valid else "not judged validly")
        facts += [f"{name} {_value(score)}" for name, score in judgement.components.items()]
        faults = "".join(
            f'<p class="fault">{_text(f"{fault.function}: {fault.error}")}</p>' for fault in judgement.faults
        )
    return f"<pre>{_text(_shortened(completion.text))}</pre><small>{_text(' · '.join(facts))}</small>{faults}"


def _settings(config: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{_text(key)}</th><td>{_value(value)}</td></tr>" for key, value in _flat(config))
    return f"<section><h2>Config</h2><table><tbody>{rows}</tbody></table></section>"


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat += _flat(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", value))
    return flat


def _column(metrics: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [
        float(value) if isinstance(value := line.get(name), int | float) else math.nan for line in metrics
    ]


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


def _shortened(text: str) -> str:
    if len(text) <= _MOST_CHARACTERS:
        return text
    half = _MOST_CHARACTERS // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.5g}"
    return _text(str(value))


def _text(text: str) -> str:
    """Escaped for HTML; control characters, which HTML does not allow, become a mark."""
    return escape(re.sub("[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", text))


_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin: 0; } h2 { margin: 2.5rem 0 .5rem; font-size: 1.2rem; } h3 { font-size: 1rem; }
small, .facts { color: #666; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; font-size: .9rem; }
svg { width: 100%; height: auto; } svg text { font-family: system-ui, sans-serif !important; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th { text-align: left; font-weight: 500; } thead th { color: #666; }
th, td { padding: .15rem 1.5rem .15rem 0; border-bottom: 1px solid #eee; }
td { text-align: right; overflow-wrap: anywhere; }
article { border: 1px solid #e4e4e4; border-radius: 6px; padding: .75rem 1rem; margin: .75rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .25rem 0; font-size: .85rem; }
.prompt { color: #555; } .prompt + pre { margin-top: .75rem; }
.fault { color: #a33; margin: 0; font-size: .85rem; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="facts">{facts}</p>
{body}
</body>
</html>
"""
