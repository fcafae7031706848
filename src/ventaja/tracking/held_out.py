"""What was measured on held-out rankings: a JSON file in the run's folder, and pictures of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ventaja.disk import atomic_file
from ventaja.errors import RunError

HELD_OUT = "held_out.json"
UNUSED = "set_aside.jsonl"
"""The rankings that nothing could be learned from, and why."""


def write_held_out(run: Path, found: Mapping[str, Any]) -> Path:
    """Writes the last measurement of a run, in place of an earlier one."""
    path = run / HELD_OUT
    with atomic_file(path) as temporary:
        temporary.write_text(
            json.dumps(found, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return path


def read_held_out(run: Path) -> dict[str, Any] | None:
    """The last measurement; None if there is none. Raises RunError if the file is damaged."""
    path = run / HELD_OUT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: cannot be read: {error}. Remove it: the run's next measurement writes it anew."
        ) from error
    return found if isinstance(found, dict) else None
