"""What the networks think of a round's samples before its first update: the numbers that credit and ratios need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ventaja.models import Policy, Wanted
from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import Batch, epoch_column
from ventaja.training.critic import Critic
from ventaja.training.learner import Learner
from ventaja.training.left_out import measure_left_out
from ventaja.training.minibatches import Minibatch, minibatches

LEFT_OUT = 0x10
"""Names the random stream that draws which of the answers that are not trained on are measured."""


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Scores samples in the rows that the updates will have, so that the ratio of an unchanged policy is 1 to the last bit:
    in bfloat16 another packing moves a log-prob by some 0.04, and GSPO's whole clipping range is 0.0007."""

    policy: Learner
    reference: Policy | None
    """The network that a KL is measured from; None if none is."""
    algorithm: Algorithm
    temperature: float
    critic: Critic | None = None

    @property
    def ends(self) -> bool:
        """True if the rows of updates have the last tokens of truncated sequences, after which a value is read."""
        return self.critic is not None and self.critic.rows_have_ends

    def for_credit(self, batch: Batch, *, seed: Sequence[int]) -> Batch:
        """With what credit reads: `ref_logprob`, `old_logprob` where the KL to the reference is in the reward, and a
        critic's `value` and `end_value`.

        `seed` is that of the round's minibatches.
        """
        if self.reference is not None and self.algorithm.kl_estimator != "exact":
            batch = batch.with_columns(ref_logprob=self._score(self._epoch(batch, 0, seed), self.reference))
        with_values = self.critic is not None and self.critic.shares_trunk
        if self.algorithm.kl == "reward" or (with_values and not self.algorithm.is_on_policy):
            batch = self._with_old(batch, seed=seed)
        if self.critic is not None and "value" not in batch.columns:
            wanted = Wanted(logprob=False, value=True, into_trunk=False)
            ends = self.critic.config.bootstrap_truncated
            tables = self._read(self._epoch(batch, 0, seed), wanted, self.critic.learner, ends=ends)
            batch = batch.with_columns(**tables)
        return batch

    def for_updates(self, batch: Batch, *, seed: Sequence[int]) -> Batch:
        """With what updates read: `old_logprob`, unless the ratio is 1 by construction, and what is left out of them."""
        if not self.algorithm.is_on_policy and "old_logprob" not in batch.columns:
            batch = self._with_old(batch, seed=seed)
        parts = minibatches(batch, self.algorithm, seed=seed)
        return measure_left_out(
            batch,
            self.algorithm,
            lambda chosen: self.score(batch, chosen),
            seed=[seed[0], LEFT_OUT, *seed[1:]],
            epochs=[[p.members for p in parts if p.epoch == e] for e in range(self.algorithm.epochs)],
        )

    def score(self, batch: Batch, sequences: Sequence[int]) -> Tensor:
        """Log-probs [S, T] of these sequences under the policy as it is; NaN for all others."""
        return self.policy.score(
            batch, lambda tokens: batch.rows(sequences, max_tokens=tokens), temperature=self.temperature
        )

    def _with_old(self, batch: Batch, *, seed: Sequence[int]) -> Batch:
        """Column `old_logprob`, and one more for each later epoch that meets the samples in other rows. In the first
        epoch's pass, values that come from the policy's network are read too."""
        columns: dict[str, Tensor] = {}
        for epoch in range(self.algorithm.epochs):
            column = epoch_column("old_logprob", self.algorithm, epoch)
            if column in columns:
                continue
            parts = self._epoch(batch, epoch, seed)
            is_shared = self.critic is not None and self.critic.shares_trunk
            if epoch == 0 and is_shared and "value" not in batch.columns:
                wanted = Wanted(temperature=self.temperature, value=True)
                columns |= self._read(parts, wanted, self.policy, ends=self.ends)
                columns[column] = columns.pop("logprob")
            else:
                columns[column] = self._score(parts)
        return batch.with_columns(**columns)

    def _epoch(self, batch: Batch, epoch: int, seed: Sequence[int]) -> list[Minibatch]:
        return [part for part in minibatches(batch, self.algorithm, seed=seed) if part.epoch == epoch]

    def _score(self, parts: Sequence[Minibatch], network: Policy | None = None) -> Tensor:
        """Log-probs [S, T] of an epoch's minibatches."""
        return self.policy.score(
            parts[0].batch,
            lambda tokens: [
                row for part in parts for row in part.rows(self.algorithm, tokens, ends=self.ends)
            ],
            temperature=self.temperature,
            network=network,
        )

    def _read(
        self, parts: Sequence[Minibatch], wanted: Wanted, learner: Learner, *, ends: bool
    ) -> dict[str, Tensor]:
        """Tables [S, T] of an epoch's minibatches."""
        return learner.read(
            parts[0].batch,
            lambda tokens: [row for part in parts for row in part.rows(self.algorithm, tokens, ends=ends)],
            wanted,
        )
