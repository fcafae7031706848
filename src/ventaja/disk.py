"""Files that are written whole or not at all, and are on the disk when this says so."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ventaja.errors import RunError


@contextmanager
def atomic_file(path: str | Path, *, flag: str | None = "--run.folder") -> Iterator[Path]:
    """Gives a temporary path beside `path` to write to, and renames it to `path` if the block ends well.

    A reader, a process killed in the middle, or a machine whose power is cut sees the earlier file or the new one and
    never half of it: the file is on the disk before the rename, and the rename before this returns. Raises RunError
    when the system refuses to write (disk full, no permission); the earlier file then stays. `flag` is the one that
    names another place, for the advice; None where there is none.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise RunError(unwritable(path, error, flag=flag)) from error
    finally:
        # Tidying up must not hide the error that brought us here.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the system put a file's contents, or a folder's list of names, on the disk before this returns.

    As far as `fsync` reaches: a drive may still keep what it was told to write in a memory of its own. Windows, and
    some network file systems, have no such call for folders; there a rename is as safe as they make it.
    """
    is_folder = path.is_dir()
    if os.name == "nt" and is_folder:
        return
    # Windows flushes only what is open for writing, and elsewhere a folder can be opened only for reading.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (is_folder and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """`sync` for everything in a folder, and for the folder itself."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent) / name)
        sync(Path(parent))


def unwritable(path: Path, error: OSError, *, flag: str | None = "--run.folder") -> str:
    """The sentence for a file that the system refused to write."""
    elsewhere = f", or choose another place with {flag}" if flag else ""
    return (
        f"{path}: cannot be written: {error.strerror or error}. What was there before is untouched. "
        f"Make room or mend the permissions{elsewhere}."
    )
