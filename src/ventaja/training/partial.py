"""What is sampled so far, block by block, until all of it is there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ventaja.disk import atomic_file
from ventaja.errors import RunError
from ventaja.records import Group, read_groups, write_groups
from ventaja.tracking.lock import locked

BEGUN = "begun.json"
NOTED = "noted.json"


class Partial:
    """The folder `OUTPUT.partial`: what was asked for, and a file of groups for each block of prompts and each candidate.

    A file is there whole or not at all, so whatever ends the process, what is there can be relied on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    @contextmanager
    def open(cls, output: Path, begun: Mapping[str, Any], *, command: str) -> Iterator[Partial]:
        """The folder beside `output`, which only this process writes to while the block runs.

        Raises RunError if another one does, or if what is in the folder was begun with other settings than `begun`.
        """
        folder = output.with_name(f"{output.name}.partial")
        advice = "Wait for it, stop it, or choose another file with --output."
        with locked(folder, command=command, advice=advice):
            partial = cls(folder)
            before = partial._read(BEGUN)
            if before is None:
                partial._write(BEGUN, begun)
            elif differing := [
                f"{name} was {before.get(name)!r} and is {value!r}"
                for name, value in begun.items()
                if before.get(name) != value
            ]:
                raise RunError(
                    f"{folder}: what is here was begun with other settings: {'; '.join(differing)}. Go on with its own, remove the "
                    "folder to begin anew, or choose another file with --output."
                )
            yield partial
        if not (folder / BEGUN).exists():
            with suppress(OSError):
                folder.rmdir()

    def noted(self) -> dict[str, Any]:
        """What `note` has kept."""
        return self._read(NOTED) or {}

    def note(self, **values: Any) -> None:
        """Keep plain values for whoever goes on."""
        self._write(NOTED, {**self.noted(), **values})

    def has(self, candidate: int, block: int) -> bool:
        """True if this block is there."""
        return self._path(candidate, block).exists()

    def write(self, candidate: int, block: int, groups: Sequence[Group]) -> None:
        """Raises RunError when it cannot be written."""
        write_groups(self._path(candidate, block), groups, flag="--output")

    def read(self, candidate: int, block: int) -> list[Group]:
        """Raises DataError when the file is damaged."""
        return read_groups(self._path(candidate, block))

    def remove(self) -> None:
        """All of it is somewhere else now. What asks for it goes first, so that half of the rest is not taken for a beginning."""
        for path in sorted(self.folder.glob("*.parquet")):
            path.unlink(missing_ok=True)
        for name in (NOTED, BEGUN):
            (self.folder / name).unlink(missing_ok=True)

    def _path(self, candidate: int, block: int) -> Path:
        return self.folder / f"candidate-{candidate:02d}-block-{block:06d}.parquet"

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{path}: cannot be read: {error}. Remove the folder to begin anew.") from error

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        with atomic_file(self.folder / name, flag="--output") as temporary:
            temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
