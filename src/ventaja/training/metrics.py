"""What a round is summed up as. Names follow the field's (docs/metrics.md lists them)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev

import numpy as np
from torch import Tensor

from ventaja import functional as F
from ventaja.environments import broken_fraction
from ventaja.records import Group, StopReason
from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import Batch
from ventaja.training.credit import takes_part
from ventaja.training.evaluation import what_is_right
from ventaja.training.learner import UpdateReport


def rollout_metrics(
    groups: Sequence[Group],
    *,
    has_spread: Callable[[Group], bool],
    full_marks: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Rewards, lengths and endings of a round's completions; broken judgements count only as broken.

    `full_marks` is what each reward function gives a right answer, as for `measure`.
    """
    pairs = [
        (completion, judgement)
        for group in groups
        for completion, judgement in zip(group.completions, group.judgements, strict=True)
    ]
    valid = [judgement for _, judgement in pairs if judgement.is_valid]
    completions = [completion for completion, _ in pairs]
    metrics = {"samples": float(len(pairs)), "broken_fraction": broken_fraction(groups)}
    if valid:
        rewards = [judgement.reward for judgement in valid]
        metrics["reward"] = fmean(rewards)
        metrics["reward_std"] = pstdev(rewards)
    for name in sorted({name for judgement in valid for name in judgement.components}):
        scores = [s for judgement in valid if (s := judgement.components.get(name)) is not None]
        if scores:
            metrics[f"rewards/{name}/mean"] = fmean(scores)
            metrics[f"rewards/{name}/std"] = pstdev(scores)
    if groups and max(len(group) for group in groups) > 1:
        metrics["frac_reward_zero_std"] = fmean(not has_spread(group) for group in groups)
    lengths = [len(completion) for completion in completions]
    metrics["completions/mean_length"] = fmean(lengths)
    metrics["completions/max_length"] = float(max(lengths))
    if is_right := what_is_right(full_marks, valid):
        for name, wanted in (("right", True), ("wrong", False)):
            those = [len(c) for c, j in pairs if j.is_valid and is_right(j) is wanted]
            if those:
                metrics[f"completions/mean_length_{name}"] = fmean(those)
    metrics["completions/truncated_fraction"] = fmean(c.stop is StopReason.LENGTH for c in completions)
    logprobs = [logprob for completion in completions for logprob in completion.logprobs]
    metrics["entropy"] = -fmean(logprobs)  # −log p of what was drawn: an unbiased estimate of the entropy
    return metrics


def credit_metrics(
    batch: Batch, return_S: Tensor, algorithm: Algorithm, *, sampled_tokens: int
) -> dict[str, float]:
    """The returns of a round, and what became of them: over what takes part; nothing if nothing does.

    `return_S` are the rewards with every penalty, and with the KL where that is in the reward. `sampled_tokens`
    counts all of the round's, those that take no part as well.
    """
    if not batch.is_action_ST.any():
        return {}
    advantage = batch.columns["advantage"][batch.is_action_ST]
    is_trained = batch.is_action_ST
    if not algorithm.trains_every_token:
        is_trained = is_trained & (batch.columns["advantage"] != 0)
    return {
        "return": float(return_S[takes_part(batch)].mean()),
        "advantages/mean": float(advantage.mean()),
        "advantages/std": float(advantage.std(correction=0)),
        "frac_tokens_trained": float(is_trained.sum()) / sampled_tokens,
    }


def ratio_metrics(
    batch: Batch, members: Sequence[int], log_ratio_ST: Tensor, algorithm: Algorithm
) -> dict[str, float]:
    """Of the ratios by which an update multiplied advantages other than 0, one per token or per sequence.

    `log_ratio_ST` is NaN where nothing was scored. Nothing is said on-policy, where the ratio is 1.
    """
    advantage_ST = batch.columns["advantage"]
    counts_ST = batch.is_action_ST & (advantage_ST != 0) & ~log_ratio_ST.isnan()
    if algorithm.is_on_policy:
        return {}
    per_sequence = algorithm.part("ratio").per_sequence
    if not counts_ST.any():  # no advantage but 0: no ratio multiplies one, and the clip holds no answer
        some = per_sequence and algorithm.reports_clip and takes_part(batch)[list(members)].any()
        return {"clip_ratio/sequences": 0.0} if some else {}
    if per_sequence:  # all tokens of a sequence have the same: take the first that counts
        one_ST = counts_ST & (counts_ST.cumsum(dim=1) == 1)
        log_ratio = log_ratio_ST[one_ST]
    else:
        log_ratio = log_ratio_ST[counts_ST]
    ratio = F.importance_ratio(log_ratio)
    low, high = np.quantile(ratio.numpy(), [0.01, 0.99]).tolist()
    metrics = {
        "ratio/min": float(ratio.min()),
        "ratio/p01": low,
        "ratio/p99": high,
        "ratio/max": float(ratio.max()),
        "ratio/effective_sample_size": float(F.effective_sample_size(log_ratio)) / len(log_ratio),
    }
    if per_sequence and algorithm.reports_clip:
        ratio_ST = F.importance_ratio(log_ratio_ST)
        below, above = (ratio_ST < 1 - algorithm.clip_low, ratio_ST > 1 + algorithm.clip_high)
        if algorithm.part("surrogate").clip == "one side":
            below, above = (below & (advantage_ST < 0), above & (advantage_ST > 0))
        held_S = (counts_ST & (below | above)).any(dim=1)
        metrics["clip_ratio/sequences"] = float(held_S.sum() / takes_part(batch)[list(members)].sum())
    return metrics


def update_metrics(reports: Sequence[UpdateReport]) -> dict[str, float]:
    """A round's updates summed up: loss and gradient over the steps made, the rest over all of them.

    A name that ends in `/max` or `/min` gets the largest or smallest, any other its mean; the learning rate is the
    last one's.
    """
    steps = [report for report in reports if report.stepped]
    metrics = {
        "updates": float(len(steps)),
        "loss": fmean(r.loss for r in steps) if steps else 0.0,
        "grad_norm": fmean(r.grad_norm for r in steps) if steps else 0.0,
        "learning_rate": reports[-1].learning_rate,
    }
    for name in sorted({name for report in reports for name in report.means}):
        values = [r.means[name] for r in reports if name in r.means]
        sum_up = max if name.endswith("/max") else min if name.endswith("/min") else fmean
        metrics[name] = sum_up(values)
    return metrics
