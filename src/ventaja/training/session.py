"""What every training run shares: its folder, model, optimiser, checkpoints, trackers and signals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from ventaja.errors import ConfigError, RunError
from ventaja.models import Policy, load_policy, resolve_device, resolve_precision
from ventaja.models.adapters import keep_base
from ventaja.models.load import resolve_model
from ventaja.models.memory import check_memory_limit, memory_limit
from ventaja.records import Group
from ventaja.settings import Precision
from ventaja.tracking import Column, Progress, RunFolder, check_trackers, make_trackers
from ventaja.training.checkpoint import (
    Checkpoint,
    recover_checkpoints,
    remove_old_checkpoints,
    save_checkpoint,
)
from ventaja.training.config import ModelConfig, RlConfig, SftConfig, parse, resolved
from ventaja.training.interrupt import Interrupts
from ventaja.training.optimiser import Optimiser
from ventaja.training.row_budget import RowBudget


class Session:
    """A run folder opened for training, fresh or resumed, with the model and optimiser as they should be.

    `checkpoint` is what it resumes from, or None. After restoring its own state the caller calls `start`. The caller
    holds the folder's lock all the while (`RunFolder.locked`).
    """

    def __init__(self, config: RlConfig | SftConfig, *, command: str) -> None:
        self.config, self.command = config, command
        self.folder, self.checkpoint = _open_folder(config)
        self.begins_anew = self.folder.is_unused
        self.is_resumed = self.folder.config_path.exists() and not self.begins_anew
        self.compute = resolve_precision(config.model.precision, resolve_device(config.model.device))
        self.start_model: str = (
            self.checkpoint.state["start_model"] if self.checkpoint else resolve_model(config.model.name)
        )
        """Where the run's first weights are: a run folder's last checkpoint may have moved on since."""
        self.fingerprint = ""
        start = str(self.checkpoint.path) if self.checkpoint else self.start_model
        torch.manual_seed(config.run.seed)  # new adapters are drawn from torch's generator
        self.policy = load(config.model, start, precision="float32")
        self.interrupts = Interrupts()
        self._is_stopping = False

    def make_optimiser(self, *, total_updates: int) -> None:
        """The optimiser, from the checkpoint if there is one. From here on the policy computes in its precision."""
        self.optimiser = Optimiser(
            self.policy, self.config.optimiser, total_updates=total_updates, compute=self.compute
        )
        if self.checkpoint:
            self.checkpoint.restore(self.optimiser)
        if self.config.optimiser.gradient_checkpointing and not self.policy.can_recompute:
            raise ConfigError(
                f"optimiser.gradient_checkpointing: {self.policy.name} does not say what its layers are, so they "
                "cannot be computed again. Leave it out, or lower optimiser.max_tokens."
            )
        self.policy.recomputes = self.config.optimiser.gradient_checkpointing
        self.budget = RowBudget(
            self.config.optimiser.max_tokens, self.policy, note=lambda text: self.progress.note(text)
        )

    def check_same_rows(self, token_ids: Sequence[Sequence[int]]) -> None:
        """Remember what is trained on; a resumed run must see the same rows in the same order."""
        self.fingerprint = hashlib.sha256(repr([tuple(ids) for ids in token_ids]).encode()).hexdigest()
        if self.checkpoint and self.checkpoint.state["rows"] != self.fingerprint:
            raise RunError(
                f"{self.folder.path}: the prompts or examples are not those that the run began with, so going on "
                "would not be the same run. Bring the old data and eval settings back, or begin a new run from its "
                f"weights with --model {self.folder.path} and another --run.folder."
            )

    def start(
        self,
        *,
        done: int,
        total: int,
        setting: str,
        columns: Sequence[Column],
        unit: str,
        console: Console | None,
    ) -> None:
        """Begin to show and track progress after `done` of `total` rounds or steps; `setting` names the total.

        A new run is begun in the folder only here, when all else has turned out well: a mistake in the run file
        leaves nothing behind.
        """
        if self.config.run.max_memory is not None:
            check_memory_limit(self.policy.device, self.config.run.max_memory)
        if self.is_resumed:
            self.folder.rewind(done)
        check_trackers(self.config.run.trackers)
        if not self.is_resumed:
            RunFolder.create(self.folder.path, resolved(self.config), command=self.command)
        keep_base(self.policy, self.folder.path)
        self.trackers = make_trackers(
            self.config.run.trackers,
            self.folder.path,
            self.config.model_dump(mode="json"),
            first_step=done + 1,
        )
        self.progress = Progress(total, columns, unit=unit, start=done, console=console)
        self._recorded = done
        self._saved = self._place
        if note := self._how_it_begins(done, total, setting, unit):
            self.progress.note(note)
        if note := self.policy.fallback_note:
            self.progress.note(note)

    def _how_it_begins(self, done: int, total: int, setting: str, unit: str) -> str | None:
        path = self.folder.path
        if self.begins_anew:
            return f"An earlier run in {path} ended before its first {unit} did; it is begun anew."
        if not self.is_resumed:
            return None
        if done >= total:
            fewer = "" if done == total else f", and {setting} asks for {total}"
            return (
                f"{path} has done {done} {unit}s{fewer}: there is nothing left to do, and nothing is changed. To go "
                f"on, raise {setting}."
            )
        if self.checkpoint is None:
            return f"{path} has no checkpoint yet: the run begins again from its first {unit}."
        return f"Going on after {unit} {done} of {total}, from {self.checkpoint.path}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Progress and signal handling while the run goes on; trackers are closed whatever happens."""
        try:
            with self.interrupts, self.progress, self._limited_memory():
                yield
        finally:
            for tracker in self.trackers:
                tracker.close()

    @contextmanager
    def _limited_memory(self) -> Iterator[None]:
        limit = self.config.run.max_memory
        if limit is None:
            yield
        else:
            with memory_limit(self.policy.device, limit):
                yield

    def record(self, number: int, metrics: Mapping[str, float]) -> None:
        """One line of metrics, to the folder, the trackers and the screen."""
        self.folder.append_metrics(number, metrics)
        self._recorded = number
        for tracker in self.trackers:
            tracker.log(metrics, number)
        self.progress.update(number, metrics)

    def pause(self, save: Callable[[], None], *, last: bool = False, best: bool = False) -> None:
        """A safe place between updates: checkpoint if one is due or these weights are the best, stop if asked to."""
        every = self.config.run.checkpoint_every
        asked_to_stop = self.interrupts.received is not None
        updates = self.optimiser.updates
        # where no step was made, an earlier checkpoint may stand there already
        is_due = every is not None and updates % every == 0 and updates != self._saved[0]
        if last or best or asked_to_stop or is_due:
            save()
        if asked_to_stop and not last:
            self.stop()

    @property
    def _place(self) -> tuple[int, int]:
        """How far the run is: optimiser steps made, and rounds or steps recorded."""
        return self.optimiser.updates, self._recorded

    @contextmanager
    def nothing_lost(self, save: Callable[[], None]) -> Iterator[None]:
        """If anything at all ends the block, have `save` write what the last checkpoint lacks, then let it pass on.

        Whatever it is: an error of ours, a mistake in a user's function, memory, a second Ctrl-C. Nothing is written
        before the first update, nor for a run that was cut off in the middle of an optimiser step: its weights are
        neither those before nor those after.
        """
        try:
            yield
        except BaseException as error:
            if self.optimiser.updates == 0 or self._is_stopping:
                raise
            if not self.optimiser.is_whole:
                self.progress.note(
                    "The run ended in the middle of an optimiser step, so its weights were not saved. The last "
                    f"checkpoint is as it was. {self._go_on('From there, go on')}"
                )
                raise
            try:
                if self._place != self._saved:
                    save()
                how = "Go on" if isinstance(error, KeyboardInterrupt) else "Mend what is wrong, then go on"
                self.progress.note(f"The work so far is in a checkpoint. {self._go_on(how)}")
            except Exception as second:
                self.progress.note(f"No checkpoint could be written: {second}")
            raise

    def _go_on(self, what: str) -> str:
        return f"{what} with --run.folder {self.folder.path} --run.resume true"

    def stop(self) -> None:
        """End after a signal; the checkpoint has been written."""
        self._is_stopping = True
        self.progress.note(f"Stopped as asked; the checkpoint is written. {self._go_on('Go on')}")
        self.interrupts.stop()

    def save(
        self,
        state: Mapping[str, Any],
        *,
        tables: Mapping[str, Tensor] | None = None,
        groups: list[Group] | None = None,
    ) -> None:
        """Write a checkpoint named after the number of updates, and remove those no longer kept.

        Whatever a power cut leaves of the run afterwards, the rounds before a checkpoint have their metrics.
        """
        self.progress.phase("writing a checkpoint")
        self.folder.sync()
        path = self.folder.checkpoint_path(self.optimiser.updates)
        state = {**state, "start_model": self.start_model, "rows": self.fingerprint}
        save_checkpoint(path, self.policy, self.optimiser, state=state, tables=tables, groups=groups)
        self._saved = self._place
        remove_old_checkpoints(
            self.folder.checkpoints(),
            keep=self.config.run.keep_checkpoints,
            best=self.folder.best_checkpoint(),
        )


def load(config: ModelConfig, name: str, *, precision: Precision) -> Policy:
    """The policy `name`, dressed up as the config says."""
    return load_policy(
        name,
        device=config.device,
        precision=precision,
        lora=config.lora,
        trust_remote_code=config.trust_remote_code,
        chat_template=config.chat_template,
        cpu=config.cpu,
    )


MAY_CHANGE = (
    "eval.", "model.cpu", "model.device", "optimiser.gradient_checkpointing", "optimiser.max_tokens", "reward.max_broken_fraction", "reward.overlap", "reward.timeout",
    "run.checkpoint_every", "run.epochs", "run.folder", "run.keep_checkpoints", "run.max_batch", "run.max_memory",
    "run.resume", "run.rounds", "run.trackers", "run.updates",
)  # fmt: skip
"""Settings (or groups) that a resumed run may have other values of: how long, how fast, how watched."""


def _open_folder(config: RlConfig | SftConfig) -> tuple[RunFolder, Checkpoint | None]:
    """The run's folder, and with `resume` its last checkpoint if it has any.

    Raises RunError if it holds a run that is not to be resumed, or was begun with other settings.
    """
    folder = RunFolder(config.run.folder)
    if not config.run.resume:
        folder.check_is_free()
    if folder.is_unused or not folder.config_path.exists():
        return folder, None
    _check_same_run(config, folder)
    recover_checkpoints(folder.checkpoints_path)
    checkpoints = folder.checkpoints()
    return folder, Checkpoint(checkpoints[max(checkpoints)]) if checkpoints else None


def _check_same_run(config: RlConfig | SftConfig, folder: RunFolder) -> None:
    try:
        begun = _flat(parse(type(config), folder.config()))
    except ConfigError as error:
        raise RunError(f"{folder.config_path}: cannot be resumed by this version: {error}") from error
    now = _flat(config)
    differing = [
        f"{name} (was {begun.get(name)!r}, is {now.get(name)!r})"
        for name in sorted(begun.keys() | now.keys())
        if begun.get(name) != now.get(name) and not name.startswith(MAY_CHANGE)
    ]
    if differing:
        raise RunError(
            f"{folder.path}: this run was begun with other settings: {'; '.join(differing)}. Resume it with its "
            "own, or begin a new one with --run.folder other."
        )


def _flat(config: RlConfig | SftConfig) -> dict[str, Any]:
    """Every setting by its dotted name, the algorithm's parts written out."""
    values = config.model_dump(mode="json")
    if isinstance(config, RlConfig):
        values["algorithm"] = asdict(config.algorithm.resolve())
    return {
        f"{group}.{name}": value for group, settings in values.items() for name, value in settings.items()
    }
