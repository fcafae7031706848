"""One row of a file that somebody's ranking is in, and the two ways in which it may be no use."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from math import isfinite
from typing import Any

from ventaja.errors import DataError, clipped, kind
from ventaja.records import Answer, Message, read_messages


class Unusable(Exception):
    """A row that is well made, and says nothing that could be learned or contradicts itself: it is set aside."""


@dataclass(frozen=True)
class Row:
    """One row, and what to call it."""

    id: str
    where: str
    """For messages: the file as it was given, and the line."""
    columns: Mapping[str, Any]

    def has(self, *names: str) -> bool:
        """True if there is something in each of these columns."""
        return all(self.columns.get(name) is not None for name in names)

    def error(self, text: str) -> DataError:
        """What ends the reading."""
        return DataError(f"{self.where}: {text}")

    def text(self, name: str, default: str = "") -> str:
        """What stands in a column of text. Raises DataError if that is something else."""
        value = self.columns.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.error(f"'{name}' is {kind(value)} ({clipped(repr(value), 60)}); it must be text.")
        return value

    def name(self, name: str) -> str:
        """What a column names something by: text or a whole number; the row's own id where there is nothing in it."""
        value = self.columns.get(name)
        return str(value) if type(value) is int else self.text(name, self.id)

    def weight(self) -> float:
        """What stands in the column `weight`; 1 where there is nothing in it. Raises DataError if that is no number."""
        value = self.columns.get("weight")
        if value is None:
            return 1.0
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise self.error(f"'weight' is {value!r:.60}; it must be a number.")
        return float(value)

    def content(self, name: str) -> str | tuple[Message, ...]:
        """Text or chat messages. Raises DataError if it is neither."""
        value = self.columns[name]
        return value if isinstance(value, str) else self.messages(name)

    def messages(self, name: str) -> tuple[Message, ...]:
        """Chat messages. Raises DataError if they are something else."""
        return read_messages(self.columns[name], name, self.error)

    def others(self, used: Collection[str]) -> dict[str, Any]:
        """The columns that were not used, which travel on with the prompt; dates as text, for JSON knows none."""
        return {name: _plain(value) for name, value in self.columns.items() if name not in used}


def chat(content: str | tuple[Message, ...]) -> tuple[Message, ...]:
    """A text as what a user says."""
    return ({"role": "user", "content": content},) if isinstance(content, str) else content


def split(
    first: tuple[Message, ...], second: tuple[Message, ...]
) -> tuple[tuple[Message, ...], Answer, Answer]:
    """What two chats have in common from their beginning, and the one answer that each of them ends with.

    Raises Unusable if they are the same, or differ in more than one answer.
    """
    pairs = zip(first, second, strict=False)
    shared = next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))
    ends = (first[shared:], second[shared:])
    if not any(ends):
        raise Unusable("both answers are the same")
    if any(len(end) != 1 or end[0]["role"] != "assistant" for end in ends):
        raise Unusable(
            "the chats differ in more than their last answer, and a ranking compares single answers"
        )
    return first[:shared], Answer(text=ends[0][0]["content"]), Answer(text=ends[1][0]["content"])


def from_json(value: Any) -> Any:
    """What a cell of CSV holds as JSON, or the value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, date):  # a datetime is one
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value
