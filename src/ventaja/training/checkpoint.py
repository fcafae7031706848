"""Checkpoints: an ordinary Hugging Face folder that is the policy as it was sampled and measured, in its compute
precision, and beside it in `training/` all that the next step needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ventaja.disk import sync, sync_tree
from ventaja.errors import RunError
from ventaja.records import Group, read_groups, write_groups
from ventaja.training.learner import Learner

FORMAT = 3
"""Format 1 kept the float32 masters as the folder's own weights, so what other libraries loaded was not the policy; format
2 kept which tokens are actions, which follows from the rollouts and the settings."""
READABLE = (1, 2, FORMAT)
RANDOM = ("torch_rng", "cuda_rng")
"""The tensors with torch's random state."""
EARLIER = ".earlier"


def save_checkpoint(
    path: Path,
    learners: Mapping[str, Learner],
    *,
    state: Mapping[str, Any],
    tables: Mapping[str, Tensor] | None = None,
    groups: list[Group] | None = None,
) -> None:
    """Write a whole checkpoint beside `path`, then rename it into place: it is there entirely or not at all.

    That holds when the process is killed, and when the power is cut: every file is on the disk before the rename, the
    rename before an earlier checkpoint of that number is removed, and all of it before this returns.

    The folder is that of the learner `policy`; another learner has a folder of its name inside, and one in `training/`.
    `state` is JSON (floats keep every bit), `tables` are tensors and `groups` the rollouts of a round that is
    not over. Raises RunError if it cannot be written; earlier checkpoints stay as they are.
    """
    work = path.with_name(f".{path.name}")
    try:
        shutil.rmtree(work, ignore_errors=True)
        training = work / "training"
        training.mkdir(parents=True)
        for name, learner in learners.items():
            folders = [_of(folder, name) for folder in (work, training)]
            for folder in folders:
                folder.mkdir(exist_ok=True)
            learner.save(*folders)
        tensors = {"torch_rng": torch.get_rng_state(), **(tables or {})}
        if torch.cuda.is_available():
            tensors["cuda_rng"] = torch.cuda.get_rng_state()
        save_file(tensors, training / "tables.safetensors")
        if groups:
            write_groups(training / "groups.parquet", groups)
        (training / "state.json").write_text(json.dumps({"format": FORMAT, **state}, indent=1))
        _put_in_place(work, path)
    except (OSError, SafetensorError, RunError) as error:
        shutil.rmtree(work, ignore_errors=True)
        raise RunError(
            f"{path}: the checkpoint could not be written: {getattr(error, 'strerror', None) or error}. The last "
            "good one is untouched. Make room, then go on with --run.resume true."
        ) from error


def _of(folder: Path, learner: str) -> Path:
    return folder if learner == "policy" else folder / learner


def _put_in_place(work: Path, path: Path) -> None:
    """Rename `work` to `path`. An earlier checkpoint of that number is removed only after that.

    Each step is on the disk before the next begins; `recover_checkpoints` mends what a cut in between leaves.
    """
    sync_tree(work)
    earlier = path.with_name(f".{path.name}{EARLIER}")
    shutil.rmtree(earlier, ignore_errors=True)
    if path.exists():
        path.rename(earlier)
    work.rename(path)
    sync(path.parent)
    shutil.rmtree(earlier, ignore_errors=True)


def recover_checkpoints(folder: Path) -> None:
    """Undo what a process left that was killed while it wrote: half-made checkpoints go, and one that was
    about to be replaced comes back."""
    for leftover in folder.glob(".*"):
        path = leftover.with_name(leftover.name.removeprefix(".").removesuffix(EARLIER))
        if leftover.name.endswith(EARLIER) and not path.exists():
            leftover.rename(path)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


class Checkpoint:
    """A checkpoint to resume from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.state: dict[str, Any] = json.loads((path / "training" / "state.json").read_text())
            tables = load_file(path / "training" / "tables.safetensors")
            self._random = {name: tables.pop(name) for name in RANDOM if name in tables}
            self.tables = tables
        except (OSError, ValueError, SafetensorError) as error:
            raise RunError(_nothing_to_resume(path, error)) from error
        found = self.state.get("format") if isinstance(self.state, dict) else None
        if found not in READABLE:
            raise RunError(
                f"{path}: its training state has format {found}, and this version reads up to {FORMAT}. Resume it "
                "with a newer version, or start a new run from its weights by giving it as model.name."
            )

    def groups(self) -> list[Group]:
        """The rollouts of the round that was not over, or an empty list."""
        file = self.path / "training" / "groups.parquet"
        return read_groups(file) if file.exists() else []

    def restore(self, learners: Mapping[str, Learner]) -> None:
        """Put every learner's training state and torch's random state back."""
        for name, learner in learners.items():
            folder = _of(self.path / "training", name)
            try:
                learner.load(folder)
            except (OSError, SafetensorError) as error:
                raise RunError(_nothing_to_resume(self.path, error)) from error
        torch.set_rng_state(self._random["torch_rng"])
        if (cuda := self._random.get("cuda_rng")) is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(cuda)


def _nothing_to_resume(path: Path, error: Exception) -> str:
    return (
        f"{path}: has no training state to resume from ({error}). To start a new run from its weights, give it as "
        "model.name."
    )


def remove_old_checkpoints(folder: Mapping[int, Path], *, keep: int, best: int | None = None) -> None:
    """Remove all but the `keep` newest checkpoints and the `best` one."""
    for number in sorted(folder)[:-keep]:
        if number != best:
            shutil.rmtree(folder[number], ignore_errors=True)
