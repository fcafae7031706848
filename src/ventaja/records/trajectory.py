"""What was said: turns of tokens, each of which knows whether the policy chose it or it was given."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from ventaja.records.prompt import Message

ASSISTANT = "assistant"
"""The role of the policy's turns in a chat."""


class StopReason(Enum):
    """Why a completion ended."""

    EOS = "eos"
    """The model chose an end-of-sequence token (it is the completion's last token)."""
    STOP_STRING = "stop_string"
    """A stop string appeared in the text."""
    LENGTH = "length"
    """The limit on tokens was reached first: the completion is truncated."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One turn of the policy, exactly as sampled: its ids are never decoded and encoded again."""

    token_ids: tuple[int, ...]
    """The tokens that the policy chose, an end-of-sequence token included."""
    logprobs: tuple[float, ...]
    """The sampler's log-probability of each token, under the distribution it was really drawn from."""
    text: str
    """The decoded tokens without special ones, for people and reward functions."""
    stop: StopReason
    weight_version: int
    """Number of optimiser steps that the sampling weights had seen."""

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens but {len(self.logprobs)} log-probs")

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, kw_only=True)
class Given:
    """One turn that the policy was given: a tool's reply, a person's next question, what a template puts between.

    Its tokens are read, and that is all: they have no value, no advantage and no loss.
    """

    token_ids: tuple[int, ...]
    text: str
    """What it says, for people and reward functions."""
    role: str
    """Who says it, as in a chat: user, tool, …"""

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """All that was said after a prompt in one episode, turn by turn. An answer is the case of one turn.

    The properties that list tokens go over all turns, in order.
    """

    turns: tuple[Completion | Given, ...]
    is_truncated: bool
    """True if a limit cut the episode off: it did not come to its own end, so its return is not all it might be."""

    def __post_init__(self) -> None:
        if not any(isinstance(turn, Completion) for turn in self.turns):
            raise ValueError("no turn is the policy's")

    @classmethod
    def of(cls, completion: Completion) -> Trajectory:
        """An answer: one turn, and truncated if its tokens ran out."""
        return cls(turns=(completion,), is_truncated=completion.stop is StopReason.LENGTH)

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def completions(self) -> tuple[Completion, ...]:
        """The policy's own turns."""
        return tuple(turn for turn in self.turns if isinstance(turn, Completion))

    @cached_property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token for turn in self.turns for token in turn.token_ids)

    @cached_property
    def is_chosen(self) -> tuple[bool, ...]:
        """True at the tokens that the policy chose, False at those that it was given."""
        return tuple(isinstance(turn, Completion) for turn in self.turns for _ in turn.token_ids)

    @cached_property
    def logprobs(self) -> tuple[float | None, ...]:
        """The sampler's log-probability of each token; None where the token was given."""
        return tuple(
            logprob
            for turn in self.turns
            for logprob in (turn.logprobs if isinstance(turn, Completion) else (None,) * len(turn))
        )

    @property
    def text(self) -> str:
        """What the policy said; several turns stand one below the other."""
        return "\n".join(completion.text for completion in self.completions)

    @property
    def stop(self) -> StopReason:
        """Why the policy's last turn ended."""
        return self.completions[-1].stop

    @property
    def weight_version(self) -> int:
        """Of the policy's first turn: no later one was sampled by older weights."""
        return self.completions[0].weight_version

    def messages(self) -> list[Message]:
        """The turns as a chat goes on with them."""
        return [
            Message(role=ASSISTANT if isinstance(turn, Completion) else turn.role, content=turn.text)
            for turn in self.turns
        ]
