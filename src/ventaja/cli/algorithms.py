"""What `ventaja algorithms` prints: every algorithm, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich import box
from rich.table import Table

from ventaja.cli.fields import as_text
from ventaja.training.algorithms import ALGORITHMS, Algorithm


def _surrogate(algorithm: Algorithm) -> str:
    part = algorithm.part("surrogate")
    values = {setting: as_text(getattr(algorithm, setting)) for setting in part.settings}
    if part.clip is None:  # of a user's function only the settings that it asks for are known
        settings = ", ".join(f"{name} {value}" for name, value in values.items())
        return f"{algorithm.surrogate} ({settings})" if settings else str(algorithm.surrogate)
    if part.clip == "both sides":  # the bounds themselves: others write ε_high for the upper one
        low, high = 1 - algorithm.clip_low, 1 + algorithm.clip_high
        return f"{algorithm.surrogate} {as_text(low)} ≤ r ≤ {as_text(high)}"
    dual = f", c {values['dual_clip']}" if algorithm.dual_clip is not None else ""
    return f"{algorithm.surrogate} ε {values['clip_low']}/{values['clip_high']}{dual}"


def _baseline(algorithm: Algorithm) -> str:
    constant = f" {as_text(algorithm.baseline_value)}" if algorithm.baseline == "constant" else ""
    return f"{algorithm.baseline}{constant}"


def _credit(algorithm: Algorithm) -> str:
    parts = [str(algorithm.credit)]
    if algorithm.credit == "gae":
        adaptive = algorithm.adaptive_lambda
        longer = f" or 1 − 1/({as_text(adaptive)} l)" if adaptive is not None else ""
        parts.append(f"λ {as_text(algorithm.lambda_)}{longer}")
    if algorithm.discount != 1:
        parts.append(f"γ {as_text(algorithm.discount)}")
    if algorithm.discount_per == "step":
        parts.append("per step")
    return ", ".join(parts)


def _token_weight(algorithm: Algorithm) -> str:
    ramp = f", from × {as_text(algorithm.ramp_start)} in {algorithm.ramp_tokens}" * bool(
        algorithm.ramp_tokens
    )
    return f"{algorithm.token_weight}{ramp}"


def _entropy(algorithm: Algorithm) -> str:
    target = algorithm.entropy_target
    return as_text(algorithm.entropy_coef) + (f" → {as_text(target)}" if target is not None else "")


def _kl(algorithm: Algorithm) -> str:
    if algorithm.kl == "none":
        return "none"
    target = f" → {as_text(algorithm.kl_target)}" if algorithm.kl_target is not None else ""
    return f"{algorithm.kl} · {algorithm.kl_estimator} · {as_text(algorithm.kl_coef)}{target}"


def _schedule(algorithm: Algorithm) -> str:
    dynamic = ", dynamic" if algorithm.dynamic_sampling else ""
    limit = algorithm.max_approx_kl
    stop = f", approx_kl ≤ {as_text(limit)}" if limit is not None else ""
    size = algorithm.minibatch_size
    parts = algorithm.minibatches if size is None else f"minibatches of {size}"
    single = " answers" if algorithm.shuffle == "trajectories" else ""
    return f"{algorithm.group_size} × {algorithm.epochs} × {parts}{single}{dynamic}{stop}"


COLUMNS: dict[str, Callable[[Algorithm], str]] = {
    "algorithm": lambda a: a.name,
    "credit": _credit,
    "baseline": _baseline,
    "scale": lambda a: str(a.scale),
    "ratio": lambda a: str(a.ratio),
    "surrogate": _surrogate,
    "token weight": _token_weight,
    "KL · estimator · β": _kl,
    "entropy": _entropy,
    "group × epochs × minibatches": _schedule,
    "paper": lambda a: a.paper,
}
"""Every part of an algorithm, as the table shows it."""


def algorithms_table(algorithms: Iterable[Algorithm] = tuple(ALGORITHMS.values())) -> Table:
    """The algorithms, for a terminal; of functions of one's own, the names."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, style="bold" if column == "algorithm" else None, overflow="fold")
    for algorithm in algorithms:
        table.add_row(*(cell(algorithm) for cell in COLUMNS.values()))
    return table


def algorithms_markdown(algorithms: Iterable[Algorithm] = tuple(ALGORITHMS.values())) -> str:
    """The algorithms as a Markdown table."""
    rows = [list(COLUMNS), ["---"] * len(COLUMNS)]
    rows += [[cell(algorithm) for cell in COLUMNS.values()] for algorithm in algorithms]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
