"""Words for error messages: short lists of names, and long texts made short."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def listed(names: Iterable[str], *, limit: int = 12) -> str:
    """`'a', 'b' and 3 more`, or `none`."""
    quoted = [repr(name) for name in names]
    if not quoted:
        return "none"
    more = f" and {len(quoted) - limit} more" if len(quoted) > limit else ""
    return ", ".join(quoted[:limit]) + more


def clipped(text: str, limit: int) -> str:
    """At most `limit` characters of the text, saying how many are left out."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"


def kind(value: Any) -> str:
    """What JSON calls such a value."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(
        type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}"
    )
