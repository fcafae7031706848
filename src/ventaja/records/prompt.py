"""What is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict


class Message(TypedDict):
    """One turn of a chat."""

    role: str
    content: str


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
