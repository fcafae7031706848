"""Numbers that reward functions note while they judge, besides the reward."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Real
from typing import Any

from ventaja.errors import RewardError

_here: ContextVar[NotedMetrics | None] = ContextVar("noted_metrics", default=None)
"""Where a number goes that is noted in this thread or coroutine."""
_open: list[NotedMetrics] = []
"""Rounds that are being judged in this process; more than one only if several runs go on beside each other."""


class NotedMetrics:
    """Values by name, in the order in which they came; many threads may add to it at once."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def add(self, name: str, *values: float) -> None:
        with self._lock:
            self._values.setdefault(name, []).extend(values)

    def update(self, other: NotedMetrics) -> None:
        """Add what another one holds."""
        for name, values in list(other._values.items()):
            self.add(name, *values)

    def means(self) -> dict[str, float]:
        """`reward_metrics/NAME`: the mean of all values of each name. In whatever order threads added them, the sum
        is the same, so that a run can be repeated bit for bit."""
        with self._lock:
            return {
                f"reward_metrics/{name}": math.fsum(values) / len(values)
                for name, values in sorted(self._values.items())
            }


def log_metric(name: str, value: Any) -> None:
    """Note a number beside the reward, from within a reward function: the length of a proof, a judge's latency.

    The mean of all values that a name got in a round is recorded as `reward_metrics/NAME` (with held-out problems, as
    `eval/reward_metrics/NAME`), whatever thread or coroutine of the function they come from. What a call noted that
    then raised or ran out of time does not count: its samples are judged again one by one, or broken. Outside a run, as
    where a reward function is tried on its own, nothing is noted.

    Raises RewardError if `value` is no finite number (bool, NumPy's and torch's scalars are numbers), or `name` no text.
    """
    if not isinstance(name, str) or not name:
        raise RewardError(f"log_metric: a metric's name is text, not {name!r}.")
    number: Any = value
    if callable(getattr(number, "item", None)):
        number = number.item()
    if not isinstance(number, Real) or not math.isfinite(number):
        raise RewardError(
            f"log_metric: the metric {name!r} was given {value!r}. Give a finite number, or leave the call out where "
            "there is none."
        )
    if (place := _place()) is not None:
        place.add(name, float(number))


@contextmanager
def noted_metrics() -> Iterator[NotedMetrics]:
    """While the block runs, gathers what reward functions note anywhere in it: a round, or a measurement."""
    gathered = NotedMetrics()
    token = _here.set(gathered)
    _open.append(gathered)
    try:
        yield gathered
    finally:
        _open.remove(gathered)
        _here.reset(token)


@contextmanager
def noted_in_call() -> Iterator[NotedMetrics]:
    """While the block (one call of a reward function) runs, keeps what it notes apart, in this thread or coroutine."""
    noted = NotedMetrics()
    token = _here.set(noted)
    try:
        yield noted
    finally:
        _here.reset(token)


def keep(noted: NotedMetrics) -> None:
    """Count what a call noted, now that its outcome counts."""
    if (place := _place()) is not None:
        place.update(noted)


def _place() -> NotedMetrics | None:
    # A thread that a reward function started itself knows nothing of its caller; what it notes is the round's.
    return _here.get() or (_open[0] if len(_open) == 1 else None)
