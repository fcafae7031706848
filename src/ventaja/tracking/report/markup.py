"""Words and numbers as HTML."""

from __future__ import annotations

import re
from html import escape
from typing import Any


def as_value(value: Any) -> str:
    """A number in few digits, None as a dash, all else as its text."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.5g}"
    return escaped(str(value))


def escaped(text: str) -> str:
    """Escaped for HTML; control characters, which HTML does not allow, become a mark."""
    return escape(re.sub("[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", text))
