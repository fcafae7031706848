"""Numbers and texts as people read them."""

from __future__ import annotations

import math
from typing import Any


def number(value: Any) -> int | float | None:
    """A finite number, from NumPy and tensors of one element too; None for all else."""
    if hasattr(value, "item"):
        value = value.item()
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def counted(count: int, thing: str) -> str:
    """`1 round`, `2 rounds`."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def shortened(text: str, limit: int) -> str:
    """About the first and last half of `limit` characters, and how many are left out between them."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
