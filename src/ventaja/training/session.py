"""What every training run shares: its folder, model, optimiser, checkpoints, trackers and signals."""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ventaja.errors import ConfigError, RunError
from ventaja.models import Policy, resolve_device, resolve_precision
from ventaja.models.adapters import keep_base
from ventaja.models.kept import KEPT_REFERENCE, keep
from ventaja.models.load import resolve_model
from ventaja.models.memory import check_memory_limit, memory_limit
from ventaja.records import Group
from ventaja.tracking import Progress, RunFolder, check_trackers, make_trackers
from ventaja.tracking.folder import held_out_cost
from ventaja.tracking.words import counted
from ventaja.training.checkpoint import (
    Checkpoint,
    recover_checkpoints,
    remove_old_checkpoints,
    save_checkpoint,
)
from ventaja.training.config import (
    Config,
    OptimiserConfig,
    RlConfig,
    SftConfig,
    parse,
    resolved,
)
from ventaja.training.critic import Critic, make_critic
from ventaja.training.interrupt import Interrupts
from ventaja.training.learner import Learner
from ventaja.training.model import load_model
from ventaja.training.ranking_config import DpoConfig, RewardModelConfig

Runnable = RlConfig | SftConfig | RewardModelConfig | DpoConfig


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins: its folder, and in it the checkpoint that it goes on from, or None.

    Whoever makes one holds the folder's lock (`RunFolder.locked`).
    """

    folder: RunFolder
    checkpoint: Checkpoint | None
    model: str
    """Where the run's first weights are: a run folder's last checkpoint may have moved on since."""
    compute: torch.dtype
    """What the model computes in."""

    @classmethod
    def of(cls, config: Runnable) -> Start:
        """Raises RunError if the folder holds a run that is not to be resumed, or was begun with other settings."""
        folder, checkpoint = _open_folder(config)
        return cls(
            folder=folder,
            checkpoint=checkpoint,
            model=_start_model(config, folder, checkpoint),
            compute=resolve_precision(config.model.precision, resolve_device(config.model.device)),
        )

    @property
    def begins_anew(self) -> bool:
        """True if an earlier run in the folder left nothing worth keeping."""
        return self.folder.is_unused

    def load(self, config: Runnable) -> Policy:
        """The network as the run has it so far, in float32."""
        torch.manual_seed(config.run.seed)  # new adapters are drawn from torch's generator
        return load_model(
            config.model, str(self.checkpoint.path) if self.checkpoint else self.model, precision="float32"
        )

    def learner(
        self, policy: Policy, config: OptimiserConfig, *, total_updates: int, note: Callable[[str], None]
    ) -> Learner:
        """The policy ready to be trained, as it begins."""
        return Learner(policy, config, compute=self.compute, total_updates=total_updates, note=note)

    def critic(self, config: RlConfig, policy: Learner, *, note: Callable[[str], None]) -> Critic:
        """The critic of the policy, as it begins. Raises ConfigError if its model does not fit the policy's."""
        folder = str(self.checkpoint.path / "critic") if self.checkpoint else None
        return make_critic(
            config.critic,
            policy,
            config.model,
            config.optimiser,
            folder=folder,
            compute=self.compute,
            note=note,
        )

    def restore(self, learners: Mapping[str, Learner]) -> None:
        """Bring optimisers, masters and random state back to where they were at the checkpoint, if there is one."""
        if self.checkpoint:
            self.checkpoint.restore(learners)

    def keep_models(self, config: Runnable, policy: Policy) -> None:
        """Keep in the run's folder what it needs of another run's checkpoints, which that run may remove."""
        keep_base(policy, self.folder.path)
        if self.checkpoint is None:  # what an earlier start has kept, which came to no checkpoint
            shutil.rmtree(self.folder.path / KEPT_REFERENCE, ignore_errors=True)
        is_its_own_reference = policy.has_adapters and policy.adapters_are_new(self.model)
        if _needs_reference(config) and not is_its_own_reference:
            keep(
                Path(self.model),
                self.folder.path,
                KEPT_REFERENCE,
                what="the model that a KL is measured from,",
            )

    def check_same_rows(self, token_ids: Sequence[Sequence[int]]) -> str:
        """A fingerprint of what is trained on; a resumed run must see the same rows in the same order."""
        fingerprint = hashlib.sha256(repr([tuple(ids) for ids in token_ids]).encode()).hexdigest()
        if self.checkpoint and self.checkpoint.state["rows"] != fingerprint:
            raise RunError(
                f"{self.folder.path}: the prompts or examples are not those that the run began with, so going on "
                "would not be the same run. Bring the old data and eval settings back, or begin a new run from its "
                f"weights with --model {self.folder.path} and another --run.folder."
            )
        return fingerprint


class Session:
    """A run that goes on: its record on disk and screen, its checkpoints, and how it ends.

    A new run is begun in the folder only here, when all else has turned out well: a mistake in the run file leaves
    nothing behind. `rows` is `Start.check_same_rows`; `setting` names what says how long the run is.
    """

    def __init__(
        self,
        start: Start,
        config: Runnable,
        learners: Mapping[str, Learner],
        progress: Progress,
        *,
        command: str,
        rows: str,
        setting: str,
    ) -> None:
        self.start, self.config, self.learners, self.progress, self.rows = (
            start,
            config,
            learners,
            progress,
            rows,
        )
        learner = self.learner = learners["policy"]
        self.folder = start.folder
        self.interrupts = Interrupts()
        self._is_stopping = False
        begins_anew = start.begins_anew
        is_resumed = self.folder.config_path.exists() and not begins_anew
        if config.run.max_memory is not None:
            check_memory_limit(learner.network.device, config.run.max_memory)
        if is_resumed:
            self.folder.rewind(progress.start)
        check_trackers(config.run.trackers)
        if not is_resumed:
            RunFolder.create(self.folder.path, resolved(config), command=command)
        start.keep_models(config, learner.network)
        self.trackers = make_trackers(
            config.run.trackers,
            self.folder.path,
            config.model_dump(mode="json"),
            first_step=progress.start + 1,
        )
        self._recorded = progress.start
        self._saved = self._place
        how = self._how_it_begins(setting, begins_anew=begins_anew, is_resumed=is_resumed)
        for note in (how, learner.network.fallback_note):
            if note:
                progress.note(note)

    def _how_it_begins(self, setting: str, *, begins_anew: bool, is_resumed: bool) -> str | None:
        path, done, total, unit = (
            self.folder.path,
            self.progress.start,
            self.progress.total,
            self.progress.unit,
        )
        checkpoint = self.start.checkpoint
        if begins_anew:
            return f"An earlier run in {path} ended before its first {unit} did; it is begun anew."
        if not is_resumed:
            return None
        if done >= total:
            fewer = "" if done == total else f", and {setting} asks for {total}"
            return (
                f"{path} has done {counted(done, unit)}{fewer}: there is nothing left to do, and nothing is changed. To go "
                f"on, raise {setting}."
            )
        if checkpoint is None:
            return f"{path} has no checkpoint yet: the run begins again from its first {unit}."
        return f"Going on after {unit} {done} of {total}, from {checkpoint.path}"

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
            with memory_limit(self.learner.network.device, limit):
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
        updates = self.steps
        # where no step was made, an earlier checkpoint may stand there already
        is_due = every is not None and updates % every == 0 and updates != self._saved[0]
        if last or best or asked_to_stop or is_due:
            save()
        if asked_to_stop and not last:
            self.stop()

    def is_best(self, metrics: Mapping[str, float]) -> bool:
        """True if held-out prompts say that no recorded round's weights were as good."""
        cost = held_out_cost(metrics)
        earlier = (held_out_cost(line) for line in self.folder.metrics()) if cost is not None else ()
        return cost is not None and all(other is None or cost < other for other in earlier)

    @property
    def steps(self) -> int:
        """Optimiser steps made: the policy's, or while it stays those of its critic."""
        return max(learner.steps for learner in self.learners.values())

    @property
    def _place(self) -> tuple[int, int]:
        """How far the run is: optimiser steps made, and rounds or steps recorded."""
        return self.steps, self._recorded

    @contextmanager
    def nothing_lost(
        self, save: Callable[[], None], *, is_whole: Callable[[], bool] = lambda: True
    ) -> Iterator[None]:
        """If anything at all ends the block, have `save` write what the last checkpoint lacks, then let it pass on.

        Whatever it is: an error of ours, a mistake in a user's function, memory, a second Ctrl-C. Nothing is written
        before the first update, nor for a run that was cut off in the middle of an optimiser step: its weights are
        neither those before nor those after, or (`is_whole`) the rest of the state does not know of the step yet.
        """
        try:
            yield
        except BaseException as error:
            if self.steps == 0 or self._is_stopping:
                raise
            if not (all(learner.is_whole for learner in self.learners.values()) and is_whole()):
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
        return f"{what}: {_resuming(self.folder, COMMANDS[type(self.config)])}"

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
        path = self.folder.checkpoint_path(self.steps)
        state = {**state, "start_model": self.start.model, "rows": self.rows}
        save_checkpoint(path, self.learners, state=state, tables=tables, groups=groups)
        self._saved = self._place
        remove_old_checkpoints(
            self.folder.checkpoints(),
            keep=self.config.run.keep_checkpoints,
            best=self.folder.best_checkpoint(),
        )


MAY_CHANGE = (
    "engine.max_batch", "eval.", "model.cpu", "model.device", "optimiser.gradient_checkpointing", "optimiser.max_tokens", "reward.max_broken_fraction", "reward.overlap", "reward.timeout",
    "run.checkpoint_every", "run.epochs", "run.folder", "run.keep_checkpoints", "run.max_memory",
    "run.resume", "run.rounds", "run.trackers", "run.updates",
)  # fmt: skip
"""Settings (or groups) that a resumed run may have other values of: how long, how fast, how watched."""


COMMANDS: Mapping[type[Config], str] = {
    RlConfig: "rl",
    SftConfig: "sft",
    RewardModelConfig: "reward",
    DpoConfig: "dpo",
}
"""The commands that begin runs, by the settings that each of them takes."""


def _needs_reference(config: Runnable) -> bool:
    if isinstance(config, RlConfig):
        return config.algorithm.resolve().needs_reference
    return isinstance(config, DpoConfig)


def _start_model(config: Runnable, folder: RunFolder, checkpoint: Checkpoint | None) -> str:
    """Where the weights are that the run began with. Raises RunError if they are needed still, and gone."""
    if checkpoint is None:
        return resolve_model(config.model.name)
    kept = folder.path.resolve() / KEPT_REFERENCE
    if kept.is_dir():
        return str(kept)
    model = str(checkpoint.state["start_model"])
    adds_adapters = config.model.lora is not None and (checkpoint.path / "adapter_config.json").exists()
    is_gone = Path(model).is_absolute() and not Path(model).exists()
    if is_gone and _needs_reference(config) and not adds_adapters:  # new adapters keep their base
        raise RunError(
            f"{folder.path}: the model that the run began with, {model}, is gone, and the run measures a KL from it. Bring "
            f"it back, or begin a new run from these weights with --model {folder.path} and another --run.folder."
        )
    return model


def _open_folder(config: Runnable) -> tuple[RunFolder, Checkpoint | None]:
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


def _check_same_run(config: Runnable, folder: RunFolder) -> None:
    values = folder.config()
    before_critics = _without_critic(values)
    try:
        begun = _flat(parse(type(config), values))
    except ConfigError as error:
        if command := _other_command(values):
            raise RunError(_of_another_command(folder, command, own=COMMANDS[type(config)])) from error
        raise RunError(f"{folder.config_path}: cannot be resumed by this version: {error}") from error
    now = _flat(config)
    differing = [
        f"{name} (was {begun.get(name)!r}, is {now.get(name)!r})"
        for name in sorted(begun.keys() | now.keys())
        if begun.get(name) != now.get(name) and not name.startswith(MAY_CHANGE)
    ]
    if differing and before_critics and isinstance(config, RlConfig) and config.algorithm.name == "ppo":
        raise RunError(
            f"{folder.path}: this run was begun when `ppo` had no critic; that algorithm is now called ppo_clip. Go on with "
            "--algorithm.name ppo_clip (in Python, algorithm='ppo_clip'), all else as it was."
        )
    if differing:
        raise RunError(
            f"{folder.path}: this run was begun with other settings: {'; '.join(differing)}. Resume it with its "
            "own, or begin a new one with --run.folder other."
        )


def _without_critic(values: dict[str, Any]) -> bool:
    """True for the settings of a run that was begun when `ppo` had no critic; its algorithm gets its name of today."""
    algorithm = values.get("algorithm")
    is_ppo = isinstance(algorithm, dict) and algorithm.get("name") == "ppo" and "critic" not in values
    if is_ppo:
        values["algorithm"] = {**values["algorithm"], "name": "ppo_clip"}
    return is_ppo


def _other_command(values: Mapping[str, Any]) -> str | None:
    """The command whose settings these are; None if they are no command's."""
    for kind, command in COMMANDS.items():
        with suppress(ConfigError):
            parse(kind, values)
            return command
    return None


def _of_another_command(folder: RunFolder, command: str, *, own: str) -> str:
    return (
        f"{folder.path}: this is a run of `ventaja {command}`, and `ventaja {own}` cannot go on with it. Go on with "
        f"{_resuming(folder, command)} or begin a new run from its weights with --model {folder.path} and another "
        "--run.folder."
    )


def _resuming(folder: RunFolder, command: str) -> str:
    """How a run of this command is gone on with, in the way in which it was begun."""
    if folder.command().startswith("ventaja."):
        return f"ventaja.{command}(…, folder={str(folder.path)!r}, run={{'resume': True}})"
    return f"ventaja {command} {shlex.quote(str(folder.config_path))} --run.resume true"


def _flat(config: Runnable) -> dict[str, Any]:
    """Every setting by its dotted name, the algorithm's parts written out."""
    values = config.model_dump(mode="json")
    if isinstance(config, RlConfig):
        values["algorithm"] = asdict(config.algorithm.resolve())
    return {
        f"{group}.{name}": value for group, settings in values.items() for name, value in settings.items()
    }
