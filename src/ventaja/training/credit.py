"""From judgements to one advantage per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ventaja import functional as F
from ventaja.records import Group, StopReason
from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import Batch
from ventaja.training.config import RewardConfig
from ventaja.training.parts import group_advantage

AS_JUDGED = RewardConfig()
"""Rewards without any penalty of ours."""


@dataclass(frozen=True)
class RunningMean:
    """An exponential mean of the returns of past rounds (the metric `return`): the baseline `running_mean`."""

    value: float = 0.0
    rounds: int = 0

    def update(self, mean: float, *, memory: float = 0.9) -> RunningMean:
        """After a round with this mean return; the first rounds count evenly."""
        keep = min(memory, self.rounds / (self.rounds + 1))
        return RunningMean(keep * self.value + (1 - keep) * mean, self.rounds + 1)


def judged_batch(groups: Sequence[Group], how: RewardConfig, *, max_tokens: int) -> tuple[Batch, Tensor]:
    """The validly judged answers of the groups, and their rewards [S, T] with every penalty.

    With `truncated: mask` a truncated answer has no action: it takes no part in loss, baseline or scale.
    """
    batch = Batch.of_groups(groups)
    if how.truncated == "mask":
        stops = [
            c.stop for g in groups for c, j in zip(g.completions, g.judgements, strict=True) if j.is_valid
        ]
        is_truncated = torch.tensor([stop is StopReason.LENGTH for stop in stops], dtype=torch.bool)
        batch.is_action_ST[is_truncated] = False
    return batch, reward_table(groups, batch, how, max_tokens=max_tokens)


def takes_part(batch: Batch) -> Tensor:
    """[S], True for the sequences with an action: the others are masked."""
    return batch.is_action_ST.any(dim=1)


def has_spread(group: Group, how: RewardConfig, *, max_tokens: int) -> bool:
    """True if the answers that take part differ in their reward, penalties included, so that comparing them
    teaches something. A KL in the reward is not looked at: it is known only later."""
    batch, reward_ST = judged_batch([group], how, max_tokens=max_tokens)
    return len(reward_ST.sum(dim=1)[takes_part(batch)].unique()) > 1


def reward_table(
    groups: Sequence[Group], batch: Batch, how: RewardConfig = AS_JUDGED, *, max_tokens: int | None = None
) -> Tensor:
    """[S, T]: every reward at the token that earned it, and the penalties for length at an answer's last token.

    `max_tokens`, the longest allowed answer, is needed for `overlong_buffer` only.
    """
    valid = [
        (completion, judgement)
        for group in groups
        for completion, judgement in zip(group.completions, group.judgements, strict=True)
        if judgement.is_valid
    ]
    table = torch.zeros(batch.sequences, batch.longest)
    for s, (completion, judgement) in enumerate(valid):
        for t, reward in judgement.stream:
            table[s, t] += reward
        if how.truncation_penalty is not None and completion.stop is StopReason.LENGTH:
            table[s, len(completion) - 1] -= how.truncation_penalty
    if how.overlong_buffer is not None and valid:
        assert max_tokens is not None
        length_S = torch.tensor([len(completion) for completion, _ in valid])
        punishment_S = F.soft_overlong_punishment(length_S, max_length=max_tokens, buffer=how.overlong_buffer)
        table[torch.arange(len(valid)), length_S - 1] += how.overlong_penalty * punishment_S
    return table


def assign_advantages(batch: Batch, reward_ST: Tensor, algorithm: Algorithm, running: RunningMean) -> Tensor:
    """The advantage [S, T] of every token, by the algorithm's credit, baseline and scale.

    `reward_ST` already holds the KL penalty per token where the algorithm puts it into the reward. Whatever
    is not an action gets 0, and takes no part in the statistics of the others.
    """
    if algorithm.credit == "to_go":
        advantage_ST = _less_baseline(F.returns_to_go(reward_ST), algorithm, running, batch.is_action_ST)
    else:
        advantage_ST = _sequence_advantage(batch, reward_ST.sum(dim=1), algorithm, running)[:, None].expand(
            -1, batch.longest
        )
    if algorithm.scale == "batch_std":
        advantage_ST = F.whiten(advantage_ST.contiguous(), is_valid=batch.is_action_ST)
    return advantage_ST.where(batch.is_action_ST, 0.0)


def _sequence_advantage(batch: Batch, reward_S: Tensor, algorithm: Algorithm, running: RunningMean) -> Tensor:
    reward_S = _less_baseline(reward_S, algorithm, running, takes_part(batch))
    if not algorithm.compares_groups:
        return reward_S
    _, group_S = batch.group_S.unique(return_inverse=True)
    member_S = torch.zeros_like(group_S)
    for group in range(int(group_S.max()) + 1 if len(group_S) else 0):
        rows = (group_S == group).nonzero()[:, 0]
        member_S[rows] = torch.arange(len(rows))
    P = int(group_S.max()) + 1 if len(group_S) else 0
    reward_PG = reward_S.new_zeros(P, algorithm.group_size)
    is_valid = torch.zeros(reward_PG.shape, dtype=torch.bool)
    reward_PG[group_S, member_S] = reward_S
    is_valid[group_S, member_S] = takes_part(batch)
    advantage_PG = group_advantage(algorithm, reward_PG, is_valid)
    return advantage_PG[group_S, member_S]


def _less_baseline(reward: Tensor, algorithm: Algorithm, running: RunningMean, is_valid: Tensor) -> Tensor:
    if algorithm.baseline == "batch_mean":
        return F.batch_centred(reward, is_valid=is_valid)
    if algorithm.baseline == "constant":
        return reward - algorithm.baseline_value
    if algorithm.baseline == "running_mean":
        return reward - running.value
    return reward
