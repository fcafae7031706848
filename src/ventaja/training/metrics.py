"""What a round is summed up as. Names follow the field's (docs/metrics.md lists them)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev

from ventaja.environments import broken_fraction
from ventaja.records import Group, StopReason
from ventaja.rollouts import has_spread
from ventaja.training.step import UpdateReport


def rollout_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Rewards, lengths and endings of a round's completions; broken judgements count only as broken."""
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
    metrics["completions/truncated_fraction"] = fmean(c.stop is StopReason.LENGTH for c in completions)
    logprobs = [logprob for completion in completions for logprob in completion.logprobs]
    metrics["entropy"] = -fmean(logprobs)  # −log p of what was drawn: an unbiased estimate of the entropy
    return metrics


def update_metrics(reports: Sequence[UpdateReport]) -> dict[str, float]:
    """Means over a round's optimiser steps; the learning rate is the last one's."""
    metrics = {
        "loss": fmean(r.loss for r in reports),
        "grad_norm": fmean(r.grad_norm for r in reports),
        "learning_rate": reports[-1].learning_rate,
    }
    for name in sorted({name for report in reports for name in report.means}):
        metrics[name] = fmean(r.means[name] for r in reports if name in r.means)
    return metrics
