"""What held-out rankings say of a reward model (or of a policy's implicit rewards)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ventaja.tracking.folder import RunFolder
from ventaja.tracking.held_out import UNUSED, read_held_out
from ventaja.tracking.report.curves import dress, svg
from ventaja.tracking.report.markup import as_value, escaped
from ventaja.tracking.words import counted

_BLUE, _GREY = "#0072B2", "#999999"


def rankings_section(folder: RunFolder) -> str:
    """The last measurement on held-out rankings; "" of a run that has none."""
    found = read_held_out(folder.path)
    if found is None:
        return ""
    intro = (
        f"<p>{counted(found['rankings'], 'ranking')} of {counted(found['answers'], 'answer')} to "
        f"{counted(found['prompts'], 'prompt')} that were not trained on, after step {found['step']}.</p>"
    )
    aside = ""
    if (folder.path / UNUSED).exists():
        aside = f"<p>Some rankings could not be used; they are in <code>{UNUSED}</code>, with the reason.</p>"
    parts = [
        intro,
        f"<p><strong>{escaped(found['length']['said'])}</strong></p>",
        _accuracies(found),
        _figures(found),
        _raters(found.get("raters")),
        f'<div class="charts">{_calibration(found)}{_by_tiers(found)}{_by_length(found)}</div>',
        aside,
    ]
    return f"<section><h2>Held-out rankings</h2>{''.join(parts)}</section>"


def _accuracies(found: Mapping[str, Any]) -> str:
    rows = [("this model", found["accuracy"])]
    names = {"longer": "the longer answer is better", "bag_of_words": "a bag of words"}
    rows += [(names.get(name, name), rival) for name, rival in found["rivals"].items()]
    rows += [(f"rankings of {k} answers", each) for k, each in found["accuracy_by_answers"].items()]
    rows += [
        (f"{counted(int(steps), 'tier')} apart", each)
        for steps, each in found["accuracy_by_tiers_between"].items()
    ]
    body = "".join(
        f"<tr><th>{escaped(name)}</th><td>{_percent(each['share'])}</td><td>{_percent(each['standard_error'])}</td>"
        f"<td>{each['pairs']}</td></tr>"
        for name, each in rows
    )
    return (
        "<h3>Pairs of answers in the raters' order</h3><table><thead><tr><th></th><th>right</th><th>standard error</th>"
        f"<th>pairs</th></tr></thead><tbody>{body}</tbody></table>"
    )


def _figures(found: Mapping[str, Any]) -> str:
    ties, line, ensemble = found["ties"], found["line"], found.get("ensemble", {})
    rows = [
        ("Plackett–Luce loss of a ranking", found["loss"]),
        ("Kendall's τ, mean over rankings", found["kendall_tau"]["mean"]),
        ("expected calibration error", found["calibration"]["expected_error"]),
        ("ties", ties["pairs"]),
        ("mean difference of scores of tied answers", ties["mean_difference"]),
        ("mean difference of scores of the others", ties["mean_difference_of_others"]),
        ("answers on the right side of the line", line["accuracy"]),
        ("spread of an ensemble's heads", ensemble.get("spread")),
    ]
    body = "".join(
        f"<tr><th>{escaped(name)}</th><td>{as_value(value)}</td></tr>"
        for name, value in rows
        if value is not None
    )
    return f"<table><tbody>{body}</tbody></table>"


def _raters(raters: Mapping[str, float] | None) -> str:
    if not raters:
        return ""
    body = "".join(
        f"<tr><th>{escaped(name or 'no name')}</th><td>{_percent(value)}</td></tr>"
        for name, value in sorted(raters.items(), key=lambda item: item[1])
    )
    return f"<h3>How reliable raters are</h3><table><tbody>{body}</tbody></table>"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _calibration(found: Mapping[str, Any]) -> str:
    bins = found["calibration"]["bins"]
    if not bins:
        return ""
    figure, axes = _axes(whole=False)
    axes.plot([0.5, 1], [0.5, 1], color=_GREY, linewidth=1, linestyle="--")
    predicted, right = [b["predicted"] for b in bins], [b["right"] for b in bins]
    axes.plot(predicted, right, color=_BLUE, marker="o", markersize=4)
    axes.set_xlabel("chance that the model gives", fontsize=8)
    axes.set_ylabel("right", fontsize=8)
    return _figure("Calibration: chance of the likelier order, and how often it is right", figure)


def _by_tiers(found: Mapping[str, Any]) -> str:
    shares = {int(k): each for k, each in found["accuracy_by_tiers_between"].items() if each["pairs"]}
    if not shares:
        return ""
    figure, axes = _axes()
    axes.errorbar(
        list(shares),
        [each["share"] for each in shares.values()],
        yerr=[each["standard_error"] for each in shares.values()],
        color=_BLUE,
        marker="o",
        markersize=4,
    )
    axes.axhline(0.5, color=_GREY, linewidth=1, linestyle="--")
    axes.set_xlabel("tiers between the two answers", fontsize=8)
    return _figure("Pairs right, by how far apart raters put them (bars: standard error)", figure)


def _by_length(found: Mapping[str, Any]) -> str:
    if not found["points"]:
        return ""
    figure, axes = _axes()
    lengths, scores = zip(*found["points"], strict=True)
    axes.scatter(lengths, scores, color=_BLUE, s=6, alpha=0.4, linewidths=0)
    axes.set_xlabel("tokens", fontsize=8)
    return _figure("Score against length", figure)


def _axes(*, whole: bool = True) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 2.6), layout="constrained")
    axes = figure.subplots()
    dress(axes, whole=whole)
    return figure, axes


def _figure(title: str, figure: Any) -> str:
    return f"<figure><figcaption>{escaped(title)}</figcaption>{svg(figure, shapes=False)}</figure>"
