"""What `ventaja sample` prints."""

from __future__ import annotations

import shlex

from ventaja.tracking.words import counted
from ventaja.training import Sampled

MOST_NAMED = 5
"""Prompts that are named where they are left out."""


def sampled_text(sampled: Sampled) -> str:
    """What was written, what was dropped, and what to do with it."""
    lines = [
        f"{sampled.path}: {counted(sampled.prompts, 'prompt')} with {counted(sampled.answers, 'answer')}, in "
        f"{sampled.seconds:.1f} seconds."
    ]
    if sampled.alike:
        lines.append(
            f"Dropped: {counted(sampled.alike, 'answer')} too much like another one to the same prompt."
        )
    if sampled.left_out:
        more = len(sampled.left_out) - MOST_NAMED
        named = ", ".join(sampled.left_out[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
        lines.append(
            f"Left out: {counted(len(sampled.left_out), 'prompt')} without two distinct answers: {named}."
        )
    lines.append(f"To rank them: {shlex.join(['ventaja', 'rank', str(sampled.path)])}")
    return "\n".join(lines)
