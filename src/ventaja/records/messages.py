"""Chat messages as files hold them, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ventaja.errors import clipped, did_you_mean, kind, listed
from ventaja.records.prompt import Message

ROLES = ("system", "developer", "user", "assistant", "tool")
"""The roles that a chat message may have."""


def read_messages(value: Any, name: str, error: Callable[[str], Exception]) -> tuple[Message, ...]:
    """The messages of a column. `error` makes what is raised out of what is wrong; `name` is the column's, in its text.

    A message's content may be a list of parts, as long as all of them are text; they are joined.
    """
    if not isinstance(value, list | tuple):
        text = "text or " if name != "messages" else ""
        raise error(
            f"'{name}' is {kind(value)} ({clipped(repr(value), 60)}); it must be {text}a list of messages "
            '{"role": …, "content": …}.'
        )
    if not value:
        raise error(f"'{name}' is an empty list. Fill it, or drop the row.")
    return tuple(_message(message, f"{name}[{index}]", error) for index, message in enumerate(value))


def _message(message: Any, place: str, error: Callable[[str], Exception]) -> Message:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        have = f"has {listed(message)}" if isinstance(message, Mapping) else f"is {kind(message)}"
        raise error(f"{place} {have}; a message has 'role' and 'content'.")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise error(
            f"{place} has the role {role!r}.{did_you_mean(str(role), ROLES)} Roles are {listed(ROLES)}."
        )
    if message.get("tool_calls"):
        raise error(f"{place} has 'tool_calls', which are not supported. Write them into 'content'.")
    if isinstance(content, list | tuple):
        if not content:
            raise error(f"{place}: 'content' is an empty list. Fill it, or drop the row.")
        content = "".join(_part(part, f"{place}: content[{n}]", error) for n, part in enumerate(content))
    if not isinstance(content, str):
        raise error(f"{place}: 'content' is {kind(content)}; it must be text.")
    return {"role": role, "content": content}


def _part(part: Any, place: str, error: Callable[[str], Exception]) -> str:
    """The text of `{"type": "text", "text": …}`, one part of a message that is written as a list."""
    if not isinstance(part, Mapping) or "type" not in part:
        raise error(f'{place} is {kind(part)}; a part of a message is {{"type": "text", "text": …}}.')
    if part["type"] != "text":
        raise error(
            f"{place} is of type {part['type']!r}; models here read text alone. Drop the part, or the row."
        )
    if not isinstance(part.get("text"), str):
        raise error(f"{place}: 'text' is {kind(part.get('text'))}; it must be text.")
    return str(part["text"])
