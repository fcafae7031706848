"""A run, opened by its folder: what training returns, and what every tool that looks at runs begins with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ventaja.errors import RunError, did_you_mean
from ventaja.records import Group
from ventaja.records.files import read_groups, read_rollouts
from ventaja.tracking.folder import RunFolder, numbers
from ventaja.tracking.report import write_report
from ventaja.tracking.words import counted

if TYPE_CHECKING:
    import pyarrow


class Run:
    """A run's folder, to read. It comes from the files, so a run that still goes on can be looked at.

        run = Run("runs/sums")
        run.column("reward")[-1]          # the last round's mean reward
        run.rollouts(3)[0].trajectories   # what the model said in round 3

    Raises RunError if there is no run in the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = RunFolder.open(path)
        self._read: tuple[tuple[int, int], list[dict[str, Any]]] | None = None

    @property
    def path(self) -> Path:
        return self.folder.path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config, as plain values."""
        return self.folder.config()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict per round written so far, oldest first; a value that was NaN is None."""
        try:
            status = self.folder.metrics_path.stat()
        except FileNotFoundError:
            return []
        version = (status.st_mtime_ns, status.st_size)
        if self._read is None or self._read[0] != version:
            self._read = (version, self.folder.metrics())
        return self._read[1]

    def column(self, name: str) -> list[float]:
        """One metric over the rounds, in step with `metrics`; NaN where a round has no number for it.

        Raises RunError if no round has it.
        """
        metrics = self.metrics
        known = dict.fromkeys(key for line in metrics for key in line)
        if name not in known:
            hint = did_you_mean(name, known) or f" It has: {', '.join(known) or 'none yet'}."
            raise RunError(f"{self.path}: no round has the metric {name!r}.{hint}")
        return numbers(metrics, name)

    @property
    def rollout_rounds(self) -> list[int]:
        """The rounds whose rollouts are kept, ascending."""
        return self.folder.rollout_rounds()

    def rollouts(self, round: int) -> list[Group]:
        """What was asked, said and judged in a round."""
        return read_groups(self._rollout_path(round))

    def rollout_table(self, round: int) -> pyarrow.Table:
        """The same as a table, one row per completion, with what training added (advantages, …)."""
        return read_rollouts(self._rollout_path(round))

    @property
    def checkpoints(self) -> list[Path]:
        """The checkpoints' folders, oldest first; each loads in transformers as it is."""
        return list(self.folder.checkpoints().values())

    @property
    def last_checkpoint(self) -> Path:
        """The newest checkpoint. Raises RunError if there is none yet."""
        checkpoints = self.checkpoints
        if not checkpoints:
            raise RunError(f"{self.path}: there is no checkpoint yet.")
        return checkpoints[-1]

    @property
    def best_checkpoint(self) -> Path:
        """The checkpoint with the lowest `eval/loss` on held-out examples, or the highest `eval/gold` on held-out prompts; it
        is kept beside the newest ones.

        Raises RunError if no checkpoint has one: runs measure it with `eval.every`, those of `ventaja rl` where
        `reward.gold` is set.
        """
        best = self.folder.best_checkpoint()
        if best is None:
            raise RunError(
                f"{self.path}: no checkpoint has an eval/loss or eval/gold, so none is the best. Supervised runs measure it "
                "with eval.every, and ventaja rl with eval.every and reward.gold; the newest checkpoint is last_checkpoint."
            )
        return self.folder.checkpoint_path(best)

    def report(self) -> Path:
        """Writes `report.html` anew, a page that needs no network, and returns its path."""
        return write_report(self.path)

    def __repr__(self) -> str:
        metrics = self.metrics
        facts = [counted(len(metrics), "round")]
        for name in ("reward", "loss"):
            values = [line[name] for line in metrics if line.get(name) is not None]
            if values:
                facts.append(f"{name} {values[0]:.4g} → {values[-1]:.4g}")
                break
        facts.append(counted(len(self.checkpoints), "checkpoint"))
        return f"Run({str(self.path)!r}: {', '.join(facts)})"

    def _rollout_path(self, round: int) -> Path:
        path = self.folder.rollout_path(round)
        if not path.exists():
            kept = self.rollout_rounds
            there = "None are kept."
            if kept:
                several = f"{counted(len(kept), 'round')}, {kept[0]} to {kept[-1]}"
                there = f"Kept: {several if len(kept) > 1 else f'round {kept[0]}'}."
            raise RunError(f"{self.path}: there are no rollouts of round {round}. {there}")
        return path
