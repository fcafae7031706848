"""One process writes a run folder; a second one is told who it is."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ventaja.disk import unwritable
from ventaja.errors import RunError

LOCK = ".lock"
HOLDER = ".lock.json"
"""Who holds the lock, for others to read: on Windows a locked file itself cannot be read."""


@contextmanager
def locked(folder: Path, *, command: str, advice: str | None = None) -> Iterator[None]:
    """Only this process writes to `folder` while the block runs; the folder is made if it is not there.

    The system holds the lock, on a file that is kept open, so a process that died holds none. Readers need no lock. A
    folder that the block leaves empty is removed again. Raises RunError, naming the process, if another one holds it,
    and if the folder cannot be made or locked. `advice` says what to do about that; left out, it is a run's.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        advice = advice or (
            "Wait for it, stop it, or choose another folder with --run.folder. To look at the run meanwhile: ventaja "
            f"report {folder}"
        )
        raise RunError(f"{folder}: {_holder(folder)} is writing to this folder. {advice}") from error
    except (OSError, NotImplementedError) as error:
        _remove_empty(missing)
        problem = error if isinstance(error, OSError) else OSError(str(error))
        raise RunError(unwritable(folder, problem)) from error
    try:
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": command,
        }
        with suppress(OSError):  # a full disk: the lock holds all the same
            (folder / HOLDER).write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            (folder / HOLDER).unlink(missing_ok=True)
            if [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
        lock.release()
        _remove_empty(missing)


def _remove_empty(folders: list[Path]) -> None:
    """Innermost first; what is not empty, or was never made, stays as it is."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        said = f" ({holder['command']})" if holder["command"] else ""
        return f"process {holder['pid']} on {holder['host']}{said}, begun {holder['since']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
