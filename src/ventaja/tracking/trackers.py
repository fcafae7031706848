"""Trackers: the same metrics, shown in a tool of your choice. The run folder is complete without any."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from ventaja.disk import atomic_file
from ventaja.errors import ConfigError, did_you_mean
from ventaja.tracking.words import number


@runtime_checkable
class Tracker(Protocol):
    """Takes each round's metrics as they come."""

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Shows the finite numbers among `metrics` at `step`; all else is left out."""

    def close(self) -> None:
        """Hands over what is still kept back. Safe to call twice."""


class TensorBoardTracker:
    """Event files in `folder/tensorboard`, read by `tensorboard --logdir`.

    On resume, `first_step` is the first step that will be logged again: TensorBoard then drops the steps from
    there on that an earlier process wrote, so none is shown twice.
    """

    def __init__(self, folder: str | Path, *, first_step: int | None = None) -> None:
        # Half a second of imports, which only those who asked for it should wait for.
        from torch.utils.tensorboard import SummaryWriter

        # Looked at while it grows, so it is not kept back for the two minutes of the default.
        self._writer: Any = SummaryWriter(
            str(Path(folder) / "tensorboard"), purge_step=first_step, flush_secs=10
        )

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        for name, value in _numbers(metrics).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandbTracker:
    """Weights & Biases. A resumed run goes on in the same W&B run."""

    def __init__(
        self, folder: str | Path, config: Mapping[str, Any] | None = None, *, project: str = "ventaja"
    ) -> None:
        wandb = _import("wandb")
        self._memory = _Memory(Path(folder), "wandb")
        self._run: Any = wandb.init(
            project=project,
            name=Path(folder).resolve().name,
            id=self._memory.id,
            resume="allow",
            dir=str(folder),
            config=dict(config or {}),
        )

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        if self._memory.is_new(step):
            self._run.log(_numbers(metrics), step=step)
            self._memory.keep(step)

    def close(self) -> None:
        self._run.finish()


class TrackioTracker:
    """Trackio, which keeps its runs on this machine. A resumed run goes on in the same Trackio run."""

    def __init__(
        self, folder: str | Path, config: Mapping[str, Any] | None = None, *, project: str = "ventaja"
    ) -> None:
        trackio = _import("trackio")
        self._memory = _Memory(Path(folder), "trackio")
        # Trackio knows runs by name, so the name carries the id: two folders may share a name.
        name = f"{Path(folder).resolve().name}-{self._memory.id}"
        self._run: Any = trackio.init(project=project, name=name, resume="allow", config=dict(config or {}))

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        if self._memory.is_new(step):
            self._run.log(_numbers(metrics), step=step)
            self._memory.keep(step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None


TRACKERS = ("tensorboard", "wandb", "trackio")
"""The names that `make_trackers` knows."""


def make_trackers(
    names: Iterable[str],
    folder: str | Path,
    config: Mapping[str, Any] | None = None,
    *,
    first_step: int | None = None,
    project: str = "ventaja",
) -> list[Tracker]:
    """The trackers called `names`, writing for the run in `folder`.

    `first_step` is for a resumed run: the first step that will be logged again. Raises ConfigError for an
    unknown name, or a tracker whose package is not installed, before any tracker has begun.
    """
    names = list(dict.fromkeys(names))
    check_trackers(names)
    made: list[Tracker] = []
    for name in names:
        if name == "tensorboard":
            made.append(TensorBoardTracker(folder, first_step=first_step))
        elif name == "wandb":
            made.append(WandbTracker(folder, config, project=project))
        else:
            made.append(TrackioTracker(folder, config, project=project))
    return made


def check_trackers(names: Iterable[str]) -> None:
    """Raises ConfigError for an unknown name, or a tracker whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            hint = did_you_mean(name, TRACKERS)
            raise ConfigError(f"There is no tracker {name!r}.{hint} Ventaja knows {', '.join(TRACKERS)}.")
        if name != "tensorboard":
            _import(name)


class _Memory:
    """What a tracker that cannot take steps back must remember for later: its run and the last step.

    The steps that a resumed run plays again are then left out.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{name}.json"
        self.id = uuid.uuid4().hex[:8]
        self._last_step: int | None = None
        if self._path.exists():
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            self.id, self._last_step = kept["id"], kept["last_step"]
        else:
            self._write()

    def is_new(self, step: int) -> bool:
        return self._last_step is None or step > self._last_step

    def keep(self, step: int) -> None:
        self._last_step = step
        self._write()

    def _write(self) -> None:
        with atomic_file(self._path) as temporary:
            temporary.write_text(json.dumps({"id": self.id, "last_step": self._last_step}), encoding="utf-8")


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigError(f"The tracker {name!r} is not installed: pip install 'ventaja[{name}]'") from error


def _numbers(metrics: Mapping[str, Any]) -> dict[str, int | float]:
    return {name: found for name, value in metrics.items() if (found := number(value)) is not None}
