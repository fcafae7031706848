"""Words for error messages: short lists of names, and long texts made short."""

from __future__ import annotations

from typing import Any

from ventaja.errors import listed

__all__ = ["clipped", "kind", "listed"]


def clipped(text: str, limit: int) -> str:
    """At most `limit` characters of the text, saying how many are left out."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"


def kind(value: Any) -> str:
    """What JSON calls such a value."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(
        type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}"
    )
