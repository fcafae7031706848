"""The loss of every token, as the algorithm's parts say, and what to report about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ventaja import functional as F
from ventaja.models import TokenScores
from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import Batch, Row

Stats = dict[str, Tensor]
"""Sums over tokens, by metric name; `tokens` counts them."""

KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {"k1": F.kl_k1, "k2": F.kl_k2, "k3": F.kl_k3}


@dataclass(frozen=True)
class PolicyObjective:
    """surrogate(ratio, Â) + β·KL − c·entropy for each token of a row.

    Reads the batch's columns `advantage`, `old_logprob` (unless on-policy) and `ref_logprob` (if KL is used).
    """

    algorithm: Algorithm
    batch: Batch
    kl_coef: float

    def __call__(self, row: Row, scores: TokenScores) -> tuple[Tensor, Stats]:
        """Loss [M] of each of the row's targets, and sums to report. Not weighted yet."""
        a, columns = self.algorithm, self.batch.columns
        logprob = scores.logprob_M
        device = logprob.device
        advantage = row.pick(columns["advantage"]).to(device)
        is_action = row.pick(self.batch.is_action_ST).to(device)
        # On-policy the old log-prob is the new one: the ratio is 1, its gradient that of log π.
        old = row.pick(columns["old_logprob"]).to(device) if "old_logprob" in columns else logprob.detach()
        log_ratio = self._log_ratio(row, logprob - old)
        loss = self._surrogate(logprob, log_ratio, advantage)
        count = is_action.sum()
        gap = (old - row.pick(columns["sampler_logprob"]).to(device)).detach().abs()
        stats = {
            "tokens": count,
            "sampling/logprob_gap": (gap * is_action).sum(),
            "approx_kl": F.approx_kl((logprob - old).detach(), is_action) * count,
        }
        if a.uses_clip and not a.is_on_policy:
            stats["clip_ratio/low"] = count * F.clip_fraction_low(
                log_ratio.detach(), advantage, is_action, clip_low=a.clip_low
            )
            stats["clip_ratio/high"] = count * F.clip_fraction_high(
                log_ratio.detach(), advantage, is_action, clip_high=a.clip_high
            )
        if "ref_logprob" in columns:
            ref_log_ratio = logprob - row.pick(columns["ref_logprob"]).to(device)
            stats["kl"] = (F.kl_k3(ref_log_ratio.detach()) * is_action).sum()
            if a.kl == "loss":
                loss = loss + self.kl_coef * KL_ESTIMATORS[a.kl_estimator](ref_log_ratio)
        if scores.entropy_M is not None:
            stats["entropy"] = (scores.entropy_M.detach() * is_action).sum()
            loss = loss - a.entropy_coef * scores.entropy_M
        return loss, stats

    def _log_ratio(self, row: Row, log_ratio_M: Tensor) -> Tensor:
        """The log-ratio that multiplies each token's advantage: its own, or one for its whole sequence."""
        if self.algorithm.ratio in {"token", "none"}:
            return log_ratio_M
        sequences, local_M = row.sequence_M.to(log_ratio_M.device).unique(return_inverse=True)
        table = log_ratio_M.new_zeros(len(sequences), self.batch.longest)
        place = (local_M, row.time_M.to(log_ratio_M.device))
        table = table.index_put(place, log_ratio_M)
        is_action = self.batch.is_action_ST.to(log_ratio_M.device)[sequences]
        if self.algorithm.ratio == "sequence":
            return F.sequence_log_ratio(table, is_action)[local_M]
        return F.trajectory_log_ratio(table, is_action)[local_M]

    def _surrogate(self, logprob: Tensor, log_ratio: Tensor, advantage: Tensor) -> Tensor:
        a = self.algorithm
        if a.surrogate == "clipped":
            return F.clipped_surrogate_loss(log_ratio, advantage, clip_low=a.clip_low, clip_high=a.clip_high)
        if a.surrogate == "detached_clamp":
            return F.detached_clamp_loss(
                logprob, log_ratio, advantage, clip_low=a.clip_low, clip_high=a.clip_high
            )
        if a.ratio == "none":
            return F.policy_gradient_loss(logprob, advantage)
        return -log_ratio.exp() * advantage


def supervised_objective(batch: Batch) -> Callable[[Row, TokenScores], tuple[Tensor, Stats]]:
    """Negative log-likelihood [M] of each target; the weights leave out what is not an answer."""

    def objective(row: Row, scores: TokenScores) -> tuple[Tensor, Stats]:
        return F.nll_loss(scores.logprob_M), {"tokens": row.pick(batch.is_action_ST).sum()}

    return objective


def token_weights(algorithm: Algorithm, is_action_ST: Tensor, *, max_tokens: int) -> Tensor:
    """How each token counts [S, T] in one update; `max_tokens` is the longest allowed answer."""
    if algorithm.token_weight == "fixed_length":
        return F.fixed_length(is_action_ST, length=max_tokens)
    return {
        "sequence_sum": F.sequence_sum,
        "sequence_mean": F.sequence_mean,
        "token_mean": F.token_mean,
    }[algorithm.token_weight](is_action_ST)
