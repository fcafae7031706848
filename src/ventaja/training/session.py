"""What every training run shares: its folder, model, optimiser, checkpoints, trackers and signals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from torch import Tensor

from ventaja.models import Policy, Precision, load_policy, resolve_device, resolve_precision
from ventaja.records import Group
from ventaja.tracking import Column, Progress, RunFolder, make_trackers
from ventaja.training.checkpoint import Checkpoint, remove_old_checkpoints, save_checkpoint
from ventaja.training.config import ModelConfig, RlConfig, SftConfig
from ventaja.training.interrupt import Interrupts
from ventaja.training.optimiser import Optimiser


class Session:
    """A run folder opened for training, fresh or resumed, with the model and optimiser as they should be.

    `checkpoint` is what it resumes from, or None. After restoring its own state the caller calls `start`.
    """

    def __init__(self, config: RlConfig | SftConfig, *, command: str) -> None:
        self.config = config
        self.folder, self.checkpoint = _open_folder(config, command)
        self.compute = resolve_precision(config.model.precision, resolve_device(config.model.device))
        start = str(self.checkpoint.path) if self.checkpoint else config.model.name
        self.policy = load(config.model, start, precision="float32")
        self.interrupts = Interrupts()

    def make_optimiser(self, *, total_updates: int) -> None:
        """The optimiser, from the checkpoint if there is one. From here on the policy computes in its precision."""
        self.optimiser = Optimiser(
            self.policy, self.config.optimiser, total_updates=total_updates, compute=self.compute
        )
        if self.checkpoint:
            self.checkpoint.restore(self.optimiser)

    def start(
        self, *, done: int, total: int, columns: Sequence[Column], unit: str, console: Console | None
    ) -> None:
        """Begin to show and track progress after `done` of `total` rounds or steps."""
        if self.checkpoint:
            self.folder.rewind(done)
        self.trackers = make_trackers(
            self.config.run.trackers,
            self.folder.path,
            self.config.model_dump(mode="json"),
            first_step=done + 1,
        )
        self.progress = Progress(total, columns, unit=unit, start=done, console=console)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Progress and signal handling while the run goes on; trackers are closed whatever happens."""
        try:
            with self.interrupts, self.progress:
                yield
        finally:
            for tracker in self.trackers:
                tracker.close()

    def record(self, number: int, metrics: Mapping[str, float]) -> None:
        """One line of metrics, to the folder, the trackers and the screen."""
        self.folder.append_metrics(number, metrics)
        for tracker in self.trackers:
            tracker.log(metrics, number)
        self.progress.update(number, metrics)

    def pause(self, save: Callable[[], None], *, last: bool = False) -> None:
        """A safe place between updates: checkpoint if one is due, stop if asked to."""
        every = self.config.run.checkpoint_every
        asked_to_stop = self.interrupts.received is not None
        if last or asked_to_stop or (every and self.optimiser.updates % every == 0):
            save()
        if asked_to_stop and not last:
            self.stop()

    def stop(self) -> None:
        """End after a signal; the checkpoint has been written."""
        self.progress.note(
            "Stopped as asked; the checkpoint is written. Go on with "
            f"--run.folder {self.folder.path} --run.resume true"
        )
        self.interrupts.stop()

    def save(
        self,
        state: Mapping[str, Any],
        *,
        tables: Mapping[str, Tensor] | None = None,
        groups: list[Group] | None = None,
    ) -> None:
        """Write a checkpoint named after the number of updates, and remove those no longer kept."""
        self.progress.phase("writing a checkpoint")
        path = self.folder.checkpoint_path(self.optimiser.updates)
        save_checkpoint(path, self.policy, self.optimiser, state=state, tables=tables, groups=groups)
        remove_old_checkpoints(self.folder.checkpoints(), keep=self.config.run.keep_checkpoints)


def load(config: ModelConfig, name: str, *, precision: Precision) -> Policy:
    """The policy `name`, dressed up as the config says."""
    return load_policy(
        name,
        device=config.device,
        precision=precision,
        lora=config.lora,
        trust_remote_code=config.trust_remote_code,
        chat_template=config.chat_template,
    )


def _open_folder(config: RlConfig | SftConfig, command: str) -> tuple[RunFolder, Checkpoint | None]:
    """A new run folder, or with `resume` the existing one and its last checkpoint, if it has any."""
    path = config.run.folder
    if not (config.run.resume and (path / "config.yaml").exists()):
        values = config.model_dump(mode="json", exclude_none=True)
        return RunFolder.create(path, values, command=command), None
    folder = RunFolder.open(path)
    checkpoints = folder.checkpoints()
    if not checkpoints:
        folder.rewind(0)
        return folder, None
    return folder, Checkpoint(checkpoints[max(checkpoints)])
