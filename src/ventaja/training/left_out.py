"""Answers that cannot change an update are not trained on; what an update reports is about them too.

An answer whose advantages are all 0 changes nothing (unless a KL or an entropy is in the loss), so it gets no forward
pass with a gradient. Reported over the others alone, `approx_kl`, `clip_ratio/*` and `sampling/logprob_gap` would move
with the share of such answers. So they are counted:

- the clip holds none of their tokens, for it holds an advantage back, and theirs is 0: exact;
- at a round's first step their ratio to the sampling weights is 1, so their approx_kl is 0: exact;
- what needs their log-probs is measured without gradient, on all of them if there are few, else on a sample that
  stands for all: unbiased, and cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ventaja.functional import kl_k3
from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import Batch, epoch_column

FEW = 8
"""So many are all measured, and at least so many of more."""
SHARE = 8
"""Of many, one in so many is measured."""
MEASURED = "left_out_logprob"
"""The column [S, T] with the log-probs, under the sampling weights, of those that are measured; NaN at all others."""

Score = Callable[[Sequence[int]], Tensor]
"""Log-probs [S, T] of the given sequences under the current weights, without gradient."""


def teaches(batch: Batch, algorithm: Algorithm) -> Tensor:
    """[S], True for the sequences that an update computes: those that can change it.

    With a KL in the reward advantages are known only after scoring, and hardly any is 0. There all sequences stay in,
    so that they are scored in the rows that the updates have. A critic learns from every sequence, and whitening by
    minibatch moves advantages away from 0.
    """
    is_known = "advantage" in batch.columns and algorithm.scale != "minibatch_std"
    if algorithm.trains_every_token or algorithm.has_critic or not is_known:
        return batch.takes_part_S
    moves = (batch.is_action_ST & (batch.columns["advantage"] != 0)).any(dim=1)
    return batch.takes_part_S if algorithm.kl == "reward" and moves.any() else moves


def measure_left_out(
    batch: Batch,
    algorithm: Algorithm,
    score: Score,
    *,
    seed: Sequence[int],
    epochs: Sequence[Sequence[Sequence[int]]],
) -> Batch:
    """Before a round's first step: score those that will be left out, or a sample of them drawn from `seed`.

    The batch that is returned holds their log-probs. `epochs` are the minibatches of each epoch. What an update will score is scored now in the same rows, so that
    approx_kl of an unchanged policy is 0.
    """
    left_out = (batch.takes_part_S & ~teaches(batch, algorithm)).nonzero()[:, 0].numpy()
    if not len(left_out):
        return batch
    count = min(len(left_out), max(FEW, len(left_out) // SHARE))
    chosen = set(np.random.default_rng(seed).choice(left_out, count, replace=False).tolist())
    by_column = {
        epoch_column(MEASURED, algorithm, e): parts for e, parts in reversed(list(enumerate(epochs)))
    }
    for column, minibatches in by_column.items():
        table = torch.full(batch.is_action_ST.shape, torch.nan)
        for members in minibatches:
            if here := sorted(chosen.intersection(members)):
                table[here] = score(here)[here]
        batch = batch.with_columns(**{column: table})
    return batch


def left_out_sums(
    batch: Batch, members: Sequence[int], algorithm: Algorithm, score: Score, *, moved: bool, epoch: int = 0
) -> dict[str, float]:
    """Sums over the tokens of `members`, a minibatch, that are left out, named as the objective's.

    `moved` says that a step has been made since the round was sampled. Each measured sequence stands for as many as
    there are left out for one measured, in the whole round.
    """
    is_left_out = batch.takes_part_S & ~teaches(batch, algorithm)
    here = torch.zeros_like(is_left_out)
    here[list(members)] = True
    here &= is_left_out
    column = epoch_column(MEASURED, algorithm, epoch)
    if not here.any() or column not in batch.columns:
        return {}
    old_ST = batch.columns[column]
    is_measured = is_left_out & ~old_ST[:, 0].isnan()
    stands_for = float(is_left_out.sum() / is_measured.sum())
    measured = (here & is_measured).nonzero()[:, 0].tolist()
    is_action = batch.is_action_ST[measured]
    gap = (old_ST - batch.columns["sampler_logprob"]).abs()[measured]
    sums = {
        "tokens": float(batch.is_action_ST[here].sum()),
        "sampling/logprob_gap": stands_for * float(gap[is_action].sum()),
        "approx_kl": 0.0,
    }
    if algorithm.reports_clip and not algorithm.is_on_policy:  # it holds none of them
        sums |= {f"clip_ratio/{side}": 0.0 for side in ("low", "high")}
        if algorithm.dual_clip is not None:
            sums["clip_ratio/dual"] = 0.0
    if moved and measured:
        log_ratio = (score(measured) - old_ST)[measured]
        sums["approx_kl"] = stands_for * float(kl_k3(-log_ratio)[is_action].sum())
    return sums
