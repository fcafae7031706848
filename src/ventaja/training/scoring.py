"""What the networks think of a round's samples before its first update: the numbers that credit and ratios need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ventaja.models import Policy
from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import Batch, epoch_column
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

    def for_credit(self, batch: Batch, *, seed: Sequence[int]) -> Batch:
        """With what credit reads: `ref_logprob`, and `old_logprob` where the KL to the reference is in the reward.

        `seed` is that of the round's minibatches.
        """
        if self.reference is None:
            return batch
        first_epoch = [part for part in minibatches(batch, self.algorithm, seed=seed) if part.epoch == 0]
        batch = batch.with_columns(ref_logprob=self._score(first_epoch, network=self.reference))
        return self._with_old(batch, seed=seed) if self.algorithm.kl == "reward" else batch

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
        """Column `old_logprob`, and one more for each later epoch that meets the samples in other rows."""
        parts = minibatches(batch, self.algorithm, seed=seed)
        columns = {}
        for epoch in range(self.algorithm.epochs):
            column = epoch_column("old_logprob", self.algorithm, epoch)
            if column not in columns:
                columns[column] = self._score([part for part in parts if part.epoch == epoch])
        return batch.with_columns(**columns)

    def _score(self, parts: Sequence[Minibatch], *, network: Policy | None = None) -> Tensor:
        """Log-probs [S, T] of an epoch's minibatches."""
        return self.policy.score(
            parts[0].batch,
            lambda tokens: [row for part in parts for row in part.rows(self.algorithm, tokens)],
            temperature=self.temperature,
            network=network,
        )
