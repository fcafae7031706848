"""What a round is summed up as. Names follow the field's (docs/metrics.md lists them)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev

import numpy as np
from torch import Tensor

from ventaja import functional as F
from ventaja.environments import broken_fraction
from ventaja.records import Group
from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import Batch
from ventaja.training.collecting import Collected
from ventaja.training.credit import return_of
from ventaja.training.evaluation import what_is_right
from ventaja.training.learner import UpdateReport
from ventaja.training.round import Round


def collected_metrics(
    found: Collected, algorithm: Algorithm, *, full_marks: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Of all that was sampled in a round, groups that were replaced included."""
    metrics = rollout_metrics(found.groups, spread=found.spread, full_marks=full_marks) | found.noted
    if found.greedy:
        metrics["reward_greedy"] = fmean(found.greedy)
    if algorithm.dynamic_sampling:
        metrics["replaced_groups"] = float(len(found.replaced))
    return metrics


def rollout_metrics(
    groups: Sequence[Group],
    *,
    spread: Sequence[bool],
    full_marks: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Rewards, lengths and endings of a round's trajectories; broken judgements count only as broken.

    Lengths count the tokens that the policy chose. `spread` says of each group whether its answers differ in what they
    earn, `full_marks` is what each reward function gives a right answer, as for `measure`.
    """
    pairs = [pair for group in groups for pair in group.judged()]
    valid = [judgement for _, judgement in pairs if judgement.is_valid]
    trajectories = [trajectory for trajectory, _ in pairs]
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
    if any(len(judgement.stream) > 1 for judgement in valid):  # steps were judged
        earned = [reward for judgement in valid for _, reward in judgement.stream]
        metrics["steps/per_answer"] = len(earned) / len(valid)
        metrics["steps/reward"] = fmean(earned)
    if groups and max(len(group) for group in groups) > 1:
        metrics["frac_reward_zero_std"] = fmean(not differs for differs in spread)
    lengths = [sum(trajectory.is_chosen) for trajectory in trajectories]
    metrics["completions/mean_length"] = fmean(lengths)
    metrics["completions/max_length"] = float(max(lengths))
    if is_right := what_is_right(full_marks, valid):
        for name, wanted in (("right", True), ("wrong", False)):
            those = [
                length
                for length, (_, judgement) in zip(lengths, pairs, strict=True)
                if judgement.is_valid and is_right(judgement) is wanted
            ]
            if those:
                metrics[f"completions/mean_length_{name}"] = fmean(those)
    metrics["completions/truncated_fraction"] = fmean(t.is_truncated for t in trajectories)
    logprobs = [x for trajectory in trajectories for x in trajectory.logprobs if x is not None]
    metrics["entropy"] = -fmean(logprobs)  # −log p of what was drawn: an unbiased estimate of the entropy
    return metrics


def credit_metrics(batch: Batch, algorithm: Algorithm, *, sampled: Mapping[str, float]) -> dict[str, float]:
    """The returns of a round, and what became of them: over what takes part; nothing if nothing does.

    A return is the sum of a sequence's rewards with every penalty, and with the KL where that is in the reward.
    `sampled` are the metrics of all that was sampled, of which some takes no part.
    """
    is_action = batch.is_action_ST
    if not is_action.any():
        return {}
    metrics = {}
    if algorithm.kl == "reward":
        log_ratio = (batch.columns["old_logprob"] - batch.columns["ref_logprob"])[is_action]
        metrics["kl"] = float(F.kl_k3(log_ratio).mean())
    advantage = batch.columns["advantage"][is_action]
    is_trained = is_action
    if not algorithm.trains_every_token:
        is_trained = is_trained & (batch.columns["advantage"] != 0)
    return metrics | {
        "return": float(return_of(batch.columns["token_reward"])[batch.takes_part_S].mean()),
        "advantages/mean": float(advantage.mean()),
        "advantages/std": float(advantage.std(correction=0)),
        "frac_tokens_trained": float(is_trained.sum()) / _sampled_tokens(sampled),
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
        some = per_sequence and algorithm.reports_clip and batch.takes_part_S[list(members)].any()
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
        metrics["clip_ratio/sequences"] = float(held_S.sum() / batch.takes_part_S[list(members)].sum())
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


def round_metrics(round_: Round, algorithm: Algorithm) -> dict[str, float]:
    """Of a round whose updates are made: what was sampled, what they did, and how long it took."""
    metrics = round_.sampled | update_metrics(round_.reports)
    if algorithm.max_approx_kl is not None:
        metrics["kl_early_stop"] = float(len(round_.reports) < algorithm.updates_per_round)
    metrics |= {f"seconds/{name}": value for name, value in round_.seconds.items()}
    metrics["tokens_per_second"] = _sampled_tokens(metrics) / sum(round_.seconds.values())
    return metrics


def _sampled_tokens(metrics: Mapping[str, float]) -> int:
    return round(metrics["completions/mean_length"] * metrics["samples"])
