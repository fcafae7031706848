"""Models that belong to another run, which removes its older checkpoints: kept for those who still need them."""

from __future__ import annotations

import shutil
from pathlib import Path

from ventaja.errors import ModelError

KEPT_BASE = "adapter-base"
"""In a run's folder: the base of its adapters, where that was a checkpoint of another run."""
KEPT_REFERENCE = "reference"
"""In a run's folder: the model that it measures a KL from, where that was a checkpoint of another run."""


def keep(model: Path, run: Path, place: str, *, what: str) -> Path | None:
    """Keep a model in `run` too, under the name `place`, if it belongs to another run; None if it does not.

    Its files are linked, so they take no room until the other run removes its own, or copied where the file system
    cannot link. Checkpoints are never written to, only replaced. Raises ModelError, which calls the model `what`, if
    it cannot be kept.
    """
    kept = run.resolve() / place
    folders = list(model.parents)[:2]  # it may be a checkpoint, or what another run has kept
    other_run = next(
        (p for p in folders if (p / "config.yaml").is_file() and (p / "checkpoints").is_dir()), None
    )
    if other_run is None or other_run == run.resolve() or not model.is_dir():  # it may be a hub's name
        return None
    work = kept.with_name(f".{kept.name}")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        for file in model.iterdir():
            if file.is_file():
                _link_or_copy(file, work / file.name)
        shutil.rmtree(kept, ignore_errors=True)  # of an earlier start that came to no checkpoint
        work.rename(kept)
    except OSError as error:
        raise ModelError(
            f"{what} {str(model)!r} belongs to the run {str(other_run)!r}, which may remove it, and it could not be kept "
            f"in {str(kept)!r}: {error.strerror or error}. Make room, or copy it out of that run and start from the copy."
        ) from error
    return kept


def _link_or_copy(file: Path, target: Path) -> None:
    try:
        target.hardlink_to(file)
    except OSError:
        shutil.copy2(file, target)
