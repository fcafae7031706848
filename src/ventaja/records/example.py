"""One row of supervised tuning: a prompt, and the completion to learn."""

from __future__ import annotations

from dataclasses import dataclass

from ventaja.records.prompt import Message


@dataclass(frozen=True, kw_only=True)
class Example:
    """What is asked and what should be answered: both plain text, or both chat messages.

    An empty prompt means that the completion is learned as a whole: each token from those before it.

    In a chat every assistant turn of `completion` is learned, and nothing of `prompt` is. A conversation
    of several turns is cut before its first assistant turn, so that all its answers are learned.
    """

    id: str
    """Where it came from, e.g. `train.jsonl:12`; unique within its data set."""
    prompt: str | tuple[Message, ...]
    completion: str | tuple[Message, ...]
    """Not empty; in a chat the last turn is an assistant's."""
    weight: float = 1.0
    """How often it is used in a pass over the examples; above 0."""

    def __post_init__(self) -> None:
        if isinstance(self.prompt, str) != isinstance(self.completion, str):
            raise ValueError("prompt and completion must both be text, or both be chat messages")
        if not self.completion:
            raise ValueError("the completion is empty")
        if not isinstance(self.completion, str) and self.completion[-1]["role"] != "assistant":
            raise ValueError("a chat completion must end with an assistant turn")

    @property
    def is_chat(self) -> bool:
        return not isinstance(self.prompt, str)
