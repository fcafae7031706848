"""What `ventaja algorithms` prints: every algorithm, part by part."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.table import Table

from ventaja.cli.fields import as_text
from ventaja.training.algorithms import ALGORITHMS, Algorithm


def _surrogate(algorithm: Algorithm) -> str:
    if not algorithm.uses_clip:
        return algorithm.surrogate
    if (
        algorithm.surrogate == "detached_clamp"
    ):  # the bounds themselves: others write ε_high for the upper one
        low, high = 1 - algorithm.clip_low, 1 + algorithm.clip_high
        return f"{algorithm.surrogate} {as_text(low)} ≤ r ≤ {as_text(high)}"
    dual = f", c {as_text(algorithm.dual_clip)}" if algorithm.dual_clip is not None else ""
    return f"{algorithm.surrogate} ε {as_text(algorithm.clip_low)}/{as_text(algorithm.clip_high)}{dual}"


def _baseline(algorithm: Algorithm) -> str:
    constant = f" {as_text(algorithm.baseline_value)}" if algorithm.baseline == "constant" else ""
    return f"{algorithm.baseline}{constant}"


def _kl(algorithm: Algorithm) -> str:
    if algorithm.kl == "none":
        return "none"
    target = f" → {as_text(algorithm.kl_target)}" if algorithm.kl_target is not None else ""
    return f"{algorithm.kl} · {algorithm.kl_estimator} · {as_text(algorithm.kl_coef)}{target}"


def _schedule(algorithm: Algorithm) -> str:
    dynamic = ", dynamic" if algorithm.dynamic_sampling else ""
    limit = algorithm.max_approx_kl
    stop = f", approx_kl ≤ {as_text(limit)}" if limit is not None else ""
    return f"{algorithm.group_size} × {algorithm.epochs} × {algorithm.minibatches}{dynamic}{stop}"


COLUMNS: dict[str, Callable[[Algorithm], str]] = {
    "algorithm": lambda a: a.name,
    "credit": lambda a: a.credit,
    "baseline": _baseline,
    "scale": lambda a: a.scale,
    "ratio": lambda a: a.ratio,
    "surrogate": _surrogate,
    "token weight": lambda a: a.token_weight,
    "KL · estimator · β": _kl,
    "entropy": lambda a: as_text(a.entropy_coef),
    "group × epochs × minibatches": _schedule,
    "paper": lambda a: a.paper,
}
"""Every part of an algorithm, as the table shows it."""


def algorithms_table() -> Table:
    """The algorithms, for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, style="bold" if column == "algorithm" else None, overflow="fold")
    for algorithm in ALGORITHMS.values():
        table.add_row(*(cell(algorithm) for cell in COLUMNS.values()))
    return table


def algorithms_markdown() -> str:
    """The algorithms as a Markdown table."""
    rows = [list(COLUMNS), ["---"] * len(COLUMNS)]
    rows += [[cell(algorithm) for cell in COLUMNS.values()] for algorithm in ALGORITHMS.values()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
