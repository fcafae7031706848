"""Prompts, completions and the groups that hold them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypedDict

from ventaja.records.judgement import Judgement


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


class StopReason(Enum):
    """Why a completion ended."""

    EOS = "eos"
    """The model chose an end-of-sequence token (it is the completion's last token)."""
    STOP_STRING = "stop_string"
    """A stop string appeared in the text."""
    LENGTH = "length"
    """The limit on tokens was reached first: the answer is truncated."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One row of a prompt file: what is asked, and the columns that travel with it to the reward functions."""

    id: str
    """Where it came from, e.g. `train.jsonl:12` or `reasoning_gym:chain_sum:7`; unique within its data set."""
    content: str | tuple[Message, ...]
    """Plain text, or chat messages (rendered with the model's chat template)."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The row's other columns, passed on to reward functions by name."""
    weight: float = 1.0
    """How often it is used in a pass over the prompts; above 0."""

    @property
    def is_chat(self) -> bool:
        return not isinstance(self.content, str)


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One sampled answer, exactly as sampled: its ids are never decoded and encoded again."""

    token_ids: tuple[int, ...]
    """The tokens that the policy chose, an end-of-sequence token included."""
    logprobs: tuple[float, ...]
    """The sampler's log-probability of each token, under the distribution it was really drawn from."""
    text: str
    """The decoded answer without special tokens, for people and reward functions."""
    stop: StopReason
    weight_version: int
    """Number of optimiser steps that the sampling weights had seen."""

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"{len(self.token_ids)} tokens but {len(self.logprobs)} log-probs")

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, kw_only=True)
class Group:
    """A prompt with its k completions: a type, not a convention about neighbouring rows."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    """The rendered prompt's tokens, shared by all completions."""
    completions: tuple[Completion, ...]
    judgements: tuple[Judgement, ...] = ()
    """One per completion, in order; empty until judged."""

    def __post_init__(self) -> None:
        if self.judgements and len(self.judgements) != len(self.completions):
            raise ValueError(f"{len(self.completions)} completions but {len(self.judgements)} judgements")

    def __len__(self) -> int:
        return len(self.completions)
