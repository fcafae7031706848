"""What a run holds between rounds, and one round in progress; how both are kept in files."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ventaja.records import Group, write_groups
from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import Batch, epoch_column
from ventaja.training.checkpoint import Checkpoint
from ventaja.training.credit import RunningMean
from ventaja.training.learner import UpdateReport
from ventaja.training.left_out import MEASURED


@dataclass
class Round:
    """One round in progress: its samples, their advantages, and the updates made on them so far."""

    number: int
    groups: list[Group]
    batch: Batch
    sampled: dict[str, float]
    """Metrics of all that was sampled, groups that dynamic sampling replaced included."""
    reports: list[UpdateReport] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def write_rollouts(self, path: Path) -> None:
        """One row per completion, with the token-level columns; broken completions have none."""
        # The sampler's log-probs are there already, and old ones in other rows differ only by rounding.
        tables = {
            name: table
            for name, table in sorted(self.batch.columns.items())
            if name not in {"sampler_logprob", MEASURED} and "/" not in name
        }
        columns: dict[str, list[list[float] | None]] = {name: [] for name in tables}
        sequence = 0
        for group in self.groups:
            for completion, judgement in zip(group.completions, group.judgements, strict=True):
                for name, table in tables.items():
                    values = table[sequence, : len(completion)].tolist() if judgement.is_valid else [math.nan]
                    columns[name].append(None if math.isnan(values[0]) else values)
                sequence += judgement.is_valid
        write_groups(path, self.groups, token_columns=columns)


@dataclass
class State:
    """What the rest of the run depends on, besides weights and optimiser."""

    rounds_done: int = 0
    prompts_taken: int = 0
    running: RunningMean = field(default_factory=RunningMean)
    kl_coef: float = 0.0
    round: Round | None = None
    """The round in progress; None between rounds."""

    def files(self) -> dict[str, Any]:
        """The arguments of `save_checkpoint` that keep it."""
        state: dict[str, Any] = {
            "rounds_done": self.rounds_done,
            "prompts_taken": self.prompts_taken,
            "running": asdict(self.running),
            "kl_coef": self.kl_coef,
        }
        if self.round is None:
            return {"state": state}
        state["round"] = {
            "sampled": self.round.sampled,
            "reports": [asdict(report) for report in self.round.reports],
            "seconds": self.round.seconds,
        }
        batch = self.round.batch
        tables = batch.columns | {"is_action": batch.is_action_ST}
        return {"state": state, "tables": tables, "groups": self.round.groups}

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint, algorithm: Algorithm) -> State:
        saved: Mapping[str, Any] = checkpoint.state
        state = cls(
            rounds_done=saved["rounds_done"],
            prompts_taken=saved["prompts_taken"],
            running=RunningMean(**saved["running"]),
            kl_coef=saved["kl_coef"],
        )
        if groups := checkpoint.groups():
            batch = Batch.of_groups(groups)
            batch.is_action_ST = checkpoint.tables.pop("is_action")
            batch.columns = checkpoint.tables
            if "old_logprob" in batch.columns:  # format 1 had one column for all epochs
                for epoch in range(algorithm.epochs):
                    column = epoch_column("old_logprob", algorithm, epoch)
                    batch.columns.setdefault(column, batch.columns["old_logprob"])
            state.round = Round(
                state.rounds_done + 1,
                groups,
                batch,
                saved["round"]["sampled"],
                reports=[UpdateReport(**report) for report in saved["round"]["reports"]],
                seconds=saved["round"]["seconds"],
            )
        return state


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds that its block takes."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
