"""What the loop asks of whatever samples: the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import Field

from ventaja.models import Policy
from ventaja.records import Completion
from ventaja.settings import Settings


class Sampling(Settings):
    """How answers are drawn."""

    temperature: float = Field(1.0, ge=0)
    """Divides the logits; 0 takes the likeliest token. Training scores tokens at the same temperature."""
    max_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""
    top_k: int | None = Field(None, ge=1)
    """Keep the k likeliest tokens; all if unset."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Keep the fewest likeliest tokens whose probabilities reach this sum."""
    min_p: float = Field(0.0, ge=0, lt=1)
    """Keep tokens at least this fraction as likely as the likeliest."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer where they appear."""

    @property
    def is_whole(self) -> bool:
        """True if tokens come from the model's whole distribution, without cutting any off."""
        return self.temperature > 0 and self.top_k is None and self.top_p == 1 and self.min_p == 0


@dataclass(frozen=True, kw_only=True)
class Request:
    """Ask for `count` answers to one prompt."""

    prompt_ids: tuple[int, ...]
    count: int
    seed: tuple[int, ...]
    """Names the random streams: answer k draws from the stream (seed, k), whatever else is sampled."""


class Interrupted(Exception):
    """Raised out of `Engine.sample` when its caller wants to stop; what was being sampled is given up."""


class Engine(Protocol):
    """Samples answers, and takes new weights."""

    def sample(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[tuple[Completion, ...]]:
        """`count` completions for each request, in order. Raises Interrupted once `should_stop()` is True."""
        ...

    def load(self, policy: Policy, *, version: int) -> None:
        """Sample from these weights from now on; `version` counts the optimiser steps they have seen."""
        ...
