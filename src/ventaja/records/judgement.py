"""What an environment thought of one trajectory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A reward function that raised or ran out of time on one trajectory: *broken*, which is not a reward of 0."""

    function: str
    """Name of the reward function."""
    error: str
    """One line: the exception's type and message, or that the time limit passed."""
    detail: str
    """The traceback, and the input that broke it."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The reward of one trajectory, as a sparse stream over its tokens.

    Outcome, step and token rewards share this form: `stream` holds pairs (token index, reward), and an
    outcome reward is one pair at the last token. Everything after judging reads only the stream.
    """

    stream: tuple[tuple[int, float], ...] = ()
    """(index of the token that earned it, reward), indices ascending."""
    components: Mapping[str, float | None] = field(default_factory=dict)
    """Each reward function's own score, before weights; None where it did not judge."""
    faults: tuple[Fault, ...] = ()
    """Why a broken judgement is broken."""

    @classmethod
    def outcome(
        cls, reward: float, *, length: int, components: Mapping[str, float | None] | None = None
    ) -> Judgement:
        """One reward for the whole trajectory of `length` tokens, earned at its last token."""
        return cls(stream=((max(length, 1) - 1, reward),), components=components or {})

    @property
    def is_valid(self) -> bool:
        """True if at least one function judged it and none broke: only then does the sample take part."""
        return bool(self.stream) and not self.faults

    @property
    def reward(self) -> float:
        """The sum of the stream; NaN when there is nothing valid to sum, so that it cannot pass for a 0."""
        return sum(value for _, value in self.stream) if self.is_valid else float("nan")
