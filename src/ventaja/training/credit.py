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


@dataclass(frozen=True)
class RunningMean:
    """An exponential mean of the rewards of past rounds: the baseline `running_mean`."""

    value: float = 0.0
    rounds: int = 0

    def update(self, mean: float, *, memory: float = 0.9) -> RunningMean:
        """After a round with this mean reward; the first rounds count evenly."""
        keep = min(memory, self.rounds / (self.rounds + 1))
        return RunningMean(keep * self.value + (1 - keep) * mean, self.rounds + 1)


def reward_table(groups: Sequence[Group], batch: Batch, *, truncation_penalty: float = 0.0) -> Tensor:
    """[S, T]: every reward at the token that earned it; truncated answers lose the penalty at their last."""
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
        if truncation_penalty and completion.stop is StopReason.LENGTH:
            table[s, len(completion) - 1] -= truncation_penalty
    return table


def assign_advantages(batch: Batch, reward_ST: Tensor, algorithm: Algorithm, running: RunningMean) -> Tensor:
    """The advantage [S, T] of every token, by the algorithm's credit, baseline and scale.

    `reward_ST` already holds the KL penalty per token where the algorithm puts it into the reward. Whatever
    is not an action gets 0.
    """
    inside = inside_answers(batch)
    if algorithm.credit == "to_go":
        advantage_ST = _less_baseline(F.returns_to_go(reward_ST), algorithm, running, inside)
    else:
        advantage_ST = _sequence_advantage(batch, reward_ST.sum(dim=1), algorithm, running)[:, None].expand(
            -1, batch.longest
        )
    if algorithm.scale == "batch_std":
        advantage_ST = F.whiten(advantage_ST.contiguous(), is_valid=batch.is_action_ST)
    return advantage_ST.where(batch.is_action_ST, 0.0)


def inside_answers(batch: Batch) -> Tensor:
    """[S, T], True up to each answer's end, whether or not its tokens take part in the loss."""
    length_S = torch.tensor([len(answer) for answer in batch.answers])
    return torch.arange(batch.longest) < length_S[:, None]


def _sequence_advantage(batch: Batch, reward_S: Tensor, algorithm: Algorithm, running: RunningMean) -> Tensor:
    if algorithm.baseline not in {"leave_one_out", "group_mean"}:
        return _less_baseline(reward_S, algorithm, running, torch.ones_like(reward_S, dtype=torch.bool))
    _, group_S = batch.group_S.unique(return_inverse=True)
    member_S = torch.zeros_like(group_S)
    for group in range(int(group_S.max()) + 1 if len(group_S) else 0):
        rows = (group_S == group).nonzero()[:, 0]
        member_S[rows] = torch.arange(len(rows))
    P = int(group_S.max()) + 1 if len(group_S) else 0
    reward_PG = torch.zeros(P, max(algorithm.group_size, 2))
    is_valid = torch.zeros(reward_PG.shape, dtype=torch.bool)
    reward_PG[group_S, member_S] = reward_S
    is_valid[group_S, member_S] = True
    if algorithm.scale == "group_std":
        advantage_PG = F.group_standardised(reward_PG, is_valid=is_valid)
    elif algorithm.baseline == "leave_one_out":
        advantage_PG = F.leave_one_out(reward_PG, is_valid=is_valid)
    else:
        advantage_PG = F.group_centred(reward_PG, is_valid=is_valid)
    return advantage_PG[group_S, member_S]


def _less_baseline(reward: Tensor, algorithm: Algorithm, running: RunningMean, is_valid: Tensor) -> Tensor:
    if algorithm.baseline == "batch_mean":
        return F.batch_centred(reward, is_valid=is_valid)
    if algorithm.baseline == "constant":
        return reward - algorithm.baseline_value
    if algorithm.baseline == "running_mean":
        return reward - running.value
    return reward
