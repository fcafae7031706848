"""What the loop asks of whatever samples: the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from ventaja.models import Policy
from ventaja.records import Completion, Request
from ventaja.settings import Sampling


class Interrupted(Exception):
    """Raised out of `Engine.sample` when its caller wants to stop; what was being sampled is given up."""


@runtime_checkable
class Engine(Protocol):
    """Samples answers, and takes new weights."""

    def sample(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        finished: Callable[[int, int, Completion], None] = lambda request, k, completion: None,
    ) -> list[tuple[Completion, ...]]:
        """`count` completions for each request, in order. Raises Interrupted once `should_stop()` is True.

        `finished(request, k, completion)` is called for each answer as soon as it has ended, with its request's place.
        """
        ...

    def load(self, policy: Policy, *, version: int) -> None:
        """Sample from these weights from now on; `version` counts the optimiser steps they have seen."""
        ...

    def release(self) -> None:
        """Give back what memory only sampling needs, until the next `sample`."""
        ...
