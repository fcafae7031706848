"""The loss of every token, as the algorithm's parts say, and what to report about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ventaja import functional as F
from ventaja.models import TokenScores
from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import Batch, Row
from ventaja.training.calling import call

Stats = dict[str, Tensor]
"""Sums over tokens, by metric name; `tokens` counts them."""


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """The weights of KL and entropy, which may adapt from round to round."""

    kl: float = 0.0
    entropy: float = 0.0


@dataclass(frozen=True)
class PolicyObjective:
    """surrogate(ratio, Â) + β·KL for each token of a row.

    Reads the batch's columns `advantage`, `old_logprob` (unless on-policy) and `ref_logprob` (if KL is used).
    """

    algorithm: Algorithm
    batch: Batch
    kl_coef: float
    old_logprob: str = "old_logprob"
    """The column of this epoch's old log-probs."""
    log_ratio_ST: Tensor | None = None
    """Where to write the log-ratio that multiplies each token's advantage, if anyone wants to look at it."""

    def __call__(self, row: Row, scores: TokenScores) -> tuple[Tensor, Stats]:
        """Loss [M] of each of the row's targets, and sums to report. Not weighted yet."""
        a, columns = self.algorithm, self.batch.columns
        logprob = scores.logprob_M
        device = logprob.device
        advantage = row.pick(columns["advantage"]).to(device)
        is_action = row.pick(self.batch.is_action_ST).to(device)
        if a.is_on_policy and self.old_logprob not in columns:
            old = logprob.detach()  # the ratio is 1, and its gradient that of log π
        else:
            old = row.pick(columns[self.old_logprob]).to(device)
        log_ratio = self._log_ratio(row, logprob - old)
        if self.log_ratio_ST is not None:
            self.log_ratio_ST[row.sequence_M, row.time_M] = log_ratio.detach().float().cpu()
        loss = call(
            a, "surrogate", logprob=logprob, old_logprob=old, log_ratio=log_ratio, advantage=advantage, is_action=is_action,
            clip_low=a.clip_low, clip_high=a.clip_high, dual_clip=a.dual_clip,
        )  # fmt: skip
        count = is_action.sum()
        gap = (old - row.pick(columns["sampler_logprob"]).to(device)).detach().abs()
        stats = {
            "tokens": count,
            "sampling/logprob_gap": (gap * is_action).sum(),
            "approx_kl": F.approx_kl((logprob - old).detach(), is_action) * count,
        }
        if a.reports_clip and not a.is_on_policy:
            # A detached clamp holds a ratio whatever its advantage's sign, but 0; PPO's only on one side.
            below, above = (advantage, advantage)
            if a.part("surrogate").clip == "both sides":
                below, above = (-advantage.abs(), advantage.abs())
            held = log_ratio.detach()
            stats["clip_ratio/low"] = count * F.clip_fraction_low(held, below, is_action, clip_low=a.clip_low)
            stats["clip_ratio/high"] = count * F.clip_fraction_high(
                held, above, is_action, clip_high=a.clip_high
            )
            if a.dual_clip is not None:
                stats["clip_ratio/dual"] = count * F.clip_fraction_dual(
                    held, advantage, is_action, dual_clip=a.dual_clip
                )
        if a.kl == "loss" and a.kl_estimator == "exact":
            assert scores.kl_M is not None
            stats["kl"] = (scores.kl_M.detach() * is_action).sum()
            loss = loss + self.kl_coef * scores.kl_M
        elif a.kl == "loss":
            ref_log_ratio = logprob - row.pick(columns["ref_logprob"]).to(device)
            stats["kl"] = (F.kl_k3(ref_log_ratio.detach()) * is_action).sum()
            kl = call(a, "kl_estimator", log_ratio=ref_log_ratio, old_log_ratio=logprob - old)
            loss = loss + self.kl_coef * kl
        if scores.entropy_M is not None:
            stats["entropy"] = (scores.entropy_M.detach() * is_action).sum()
        return loss, stats

    def _log_ratio(self, row: Row, log_ratio_M: Tensor) -> Tensor:
        """The log-ratio that multiplies each token's advantage: its own, or its sequence's value.

        A sequence's ratio keeps only each token's own gradient (GSPO-token, arXiv:2507.18071): summed over the
        tokens with equal advantages that is the gradient of the sequence's ratio, counted once. So does a user's ratio.
        """
        if self.algorithm.ratio in ("token", "none"):
            return log_ratio_M
        value_M = log_ratio_M.detach()
        sequences, local_M = row.sequence_M.to(value_M.device).unique(return_inverse=True)
        table = value_M.new_zeros(len(sequences), self.batch.longest)
        table[local_M, row.time_M.to(value_M.device)] = value_M
        is_action = self.batch.is_action_ST.to(value_M.device)[sequences]
        joint = call(self.algorithm, "ratio", log_ratio=table, is_action=is_action)
        joint_M = joint[local_M] if joint.dim() == 1 else joint[local_M, row.time_M.to(value_M.device)]
        return joint_M.detach() + log_ratio_M - value_M


def entropy_bonus(coefficient: float) -> Callable[[Row, TokenScores], tuple[Tensor, Stats]]:
    """−c·entropy [M] of each target: a term of its own, for its weight does not follow how the policy's tokens count."""

    def objective(row: Row, scores: TokenScores) -> tuple[Tensor, Stats]:
        assert scores.entropy_M is not None
        return -coefficient * scores.entropy_M, {}

    return objective


def supervised_objective(batch: Batch) -> Callable[[Row, TokenScores], tuple[Tensor, Stats]]:
    """Negative log-likelihood [M] of each target; the weights leave out what is not an answer."""

    def objective(row: Row, scores: TokenScores) -> tuple[Tensor, Stats]:
        return F.nll_loss(scores.logprob_M), {"tokens": row.pick(batch.is_action_ST).sum()}

    return objective


def token_weights(algorithm: Algorithm, is_action_ST: Tensor, *, max_tokens: int) -> Tensor:
    """How each token counts [S, T] in one update; `max_tokens` is the longest allowed answer."""
    weight = call(algorithm, "token_weight", is_action=is_action_ST, length=max_tokens)
    if algorithm.ramp_tokens:
        weight = weight * F.position_ramp(
            is_action_ST, start=algorithm.ramp_start, tokens=algorithm.ramp_tokens
        )
    return weight.detach()


def kl_in_reward(algorithm: Algorithm, log_ratio_ST: Tensor) -> Tensor:
    """The KL at each token [S, T] that the reward pays for, on samples of the policy itself."""
    return call(
        algorithm, "kl_estimator", log_ratio=log_ratio_ST, old_log_ratio=torch.zeros_like(log_ratio_ST)
    )
