"""What a run holds between rounds, and one round in progress; how both are kept in files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from ventaja.training.minibatches import Minibatch
from ventaja.training.objective import Coefficients
from ventaja.training.truncation import Truncation

UNWRITTEN = {"sampler_logprob", "is_rewarded", "end_value", "greedy_reward", MEASURED}
"""Columns of a batch that the rollouts' own records have already, or that are no token's."""


@dataclass(kw_only=True)
class Round:
    """One round in progress: its samples, their advantages, and the updates made on them so far."""

    number: int
    groups: list[Group]
    batch: Batch
    sampled: dict[str, float]
    """Metrics of all that was sampled, groups that dynamic sampling replaced included."""
    reports: list[UpdateReport] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    policy_moves: bool = True
    """False if it trains the critic alone."""

    @property
    def moved(self) -> bool:
        """True once a step has been made on its samples: the policy is no longer the one that sampled them."""
        return any(report.stepped for report in self.reports)

    def remaining(self, parts: Sequence[Minibatch], algorithm: Algorithm) -> Iterator[Minibatch]:
        """Those of the round's minibatches that are still to be learned from, each once the one before has its report."""
        while len(self.reports) < len(parts) and not self.went_too_far(algorithm):
            yield parts[len(self.reports)]

    def went_too_far(self, algorithm: Algorithm) -> bool:
        """True if the last update found the policy further from the one that sampled than `max_approx_kl`."""
        limit = algorithm.max_approx_kl
        return limit is not None and any(r.means.get("approx_kl", 0.0) > limit for r in self.reports[-1:])

    def write_rollouts(self, path: Path) -> None:
        """One row per trajectory, with the token-level columns; a trajectory that takes no part has none."""
        # The sampler's log-probs and the judgements' streams are there already, and old ones in other rows differ only by rounding.
        names = [name for name in self.batch.columns if name not in UNWRITTEN and "/" not in name]
        place: dict[tuple[int, int], int] = {}
        for g, group in enumerate(self.groups):
            for k in range(len(group)):
                place[g, k] = len(place)
        columns: dict[str, list[list[float | None] | None]] = {
            name: [None] * len(place) for name in sorted(names)
        }
        for s, sample in enumerate(self.batch.samples):
            for name, values in columns.items():
                values[place[sample.group, sample.index]] = self.batch.per_token(name, s)
        write_groups(path, self.groups, token_columns=columns)


@dataclass
class State:
    """What the rest of the run depends on, besides weights and optimiser."""

    rounds_done: int = 0
    prompts_taken: int = 0
    running: RunningMean = field(default_factory=RunningMean)
    kl_coef: float = 0.0
    entropy_coef: float = 0.0
    critic_is_ready: bool = False
    """True once the critic's values have explained as much as `critic.min_explained_variance` asks for."""
    round: Round | None = None
    """The round in progress; None between rounds."""

    @property
    def coefficients(self) -> Coefficients:
        """The weights of KL and entropy for the next updates."""
        return Coefficients(kl=self.kl_coef, entropy=self.entropy_coef)

    def files(self) -> dict[str, Any]:
        """The arguments of `save_checkpoint` that keep it."""
        state: dict[str, Any] = {
            "rounds_done": self.rounds_done,
            "prompts_taken": self.prompts_taken,
            "running": asdict(self.running),
            "kl_coef": self.kl_coef,
            "entropy_coef": self.entropy_coef,
            "critic_is_ready": self.critic_is_ready,
        }
        if self.round is None:
            return {"state": state}
        state["round"] = {
            "sampled": self.round.sampled,
            "reports": [asdict(report) for report in self.round.reports],
            "seconds": self.round.seconds,
            "policy_moves": self.round.policy_moves,
        }
        return {"state": state, "tables": self.round.batch.columns, "groups": self.round.groups}

    def over(self, number: int, metrics: Mapping[str, float], algorithm: Algorithm) -> None:
        """Round `number` is over, with these metrics: what adapts from round to round does so. The weights of KL and entropy
        stay as long as the policy stays, for they move nothing then."""
        moves = self.round is None or self.round.policy_moves
        if moves and "kl" in metrics and algorithm.kl_target is not None:
            # β grows while the KL is above its target and shrinks below (Ziegler et al., arXiv:1909.08593, 2.2)
            error = min(max(metrics["kl"] / algorithm.kl_target - 1, -0.2), 0.2)
            self.kl_coef *= 1 + 0.1 * error
        if moves and "entropy" in metrics and algorithm.entropy_target is not None:
            # the same rule the other way round: the bonus grows while the entropy is below its target
            error = min(max(1 - metrics["entropy"] / algorithm.entropy_target, -0.2), 0.2)
            self.entropy_coef *= 1 + 0.1 * error
        if "return" in metrics:
            self.running = self.running.update(metrics["return"])
        self.rounds_done, self.round = number, None

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint, algorithm: Algorithm, truncation: Truncation) -> State:
        saved: Mapping[str, Any] = checkpoint.state
        state = cls(
            rounds_done=saved["rounds_done"],
            prompts_taken=saved["prompts_taken"],
            running=RunningMean(**saved["running"]),
            kl_coef=saved["kl_coef"],
            entropy_coef=saved.get("entropy_coef", algorithm.entropy_coef),
            critic_is_ready=saved.get("critic_is_ready", False),
        )
        if groups := checkpoint.groups():
            batch = Batch.of_groups(groups, truncation)
            tables = {name: table for name, table in checkpoint.tables.items() if name != "is_action"}
            if "old_logprob" in tables:  # format 1 had one column for all epochs
                for epoch in range(algorithm.epochs):
                    tables.setdefault(epoch_column("old_logprob", algorithm, epoch), tables["old_logprob"])
            state.round = Round(
                number=state.rounds_done + 1,
                groups=groups,
                batch=batch.with_columns(**tables),
                sampled=saved["round"]["sampled"],
                reports=[UpdateReport(**report) for report in saved["round"]["reports"]],
                seconds=saved["round"]["seconds"],
                policy_moves=saved["round"].get("policy_moves", True),
            )
        return state
