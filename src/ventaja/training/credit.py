"""From rewards to one advantage per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ventaja import functional as F
from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import Batch
from ventaja.training.calling import group_advantage
from ventaja.training.objective import kl_in_reward


@dataclass(frozen=True)
class RunningMean:
    """An exponential mean of the returns of past rounds (the metric `return`): the baseline `running_mean`."""

    value: float = 0.0
    rounds: int = 0

    def update(self, mean: float, *, memory: float = 0.9) -> RunningMean:
        """After a round with this mean return; the first rounds count evenly."""
        keep = min(memory, self.rounds / (self.rounds + 1))
        return RunningMean(keep * self.value + (1 - keep) * mean, self.rounds + 1)


NOTHING_YET = RunningMean()


def credit(
    batch: Batch,
    algorithm: Algorithm,
    *,
    running: RunningMean = NOTHING_YET,
    kl_coef: float = 0.0,
    monte_carlo: bool = False,
) -> Batch:
    """The batch with the `advantage` [S, T] of every token, by the algorithm's credit, baseline and scale.

    With a critic it reads the columns `value` (of the state before each token) and `end_value` (after the last token of
    a truncated sequence, in each of its places; 0 of one that ended), and gives `value_target` too: what the critic is
    to learn, by `critic_lambda`, or with `monte_carlo` the returns themselves. With baseline `greedy` it reads `greedy_reward`.

    It reads the column `token_reward`, and where the algorithm puts the KL into the reward, `old_logprob` and
    `ref_logprob`: β = `kl_coef` times the KL is then taken off each token's reward, in the batch that is returned too.
    Whatever is not an action gets 0, and takes no part in the statistics of the others.
    """
    reward_ST = batch.columns["token_reward"]
    if algorithm.kl == "reward":
        kl_ST = kl_in_reward(algorithm, batch.columns["old_logprob"] - batch.columns["ref_logprob"])
        reward_ST = reward_ST - kl_coef * kl_ST.where(batch.is_action_ST, 0.0)
    advantage_ST = _advantages(batch, reward_ST, algorithm, running).where(batch.is_action_ST, 0.0)
    batch = batch.with_columns(token_reward=reward_ST, advantage=advantage_ST)
    if not algorithm.has_critic:
        return batch
    lambda_ = 1.0 if monte_carlo else algorithm.critic_lambda
    target_ST = _gae(batch, reward_ST, algorithm, lambda_) + batch.columns["value"]
    return batch.with_columns(value_target=target_ST.where(batch.is_action_ST, 0.0))


def whitened(batch: Batch, sequences: Sequence[int]) -> Batch:
    """With advantages centred and scaled over the tokens of these sequences: scale `minibatch_std`."""
    inside = torch.zeros_like(batch.is_action_ST)
    inside[list(sequences)] = batch.is_action_ST[list(sequences)]
    return batch.with_columns(advantage=F.whiten(batch.columns["advantage"], is_valid=inside))


def has_spread(batch: Batch) -> dict[int, bool]:
    """Of each group with a sample: True if those of its answers that take part differ in their rewards, penalties
    included, so that comparing them teaches something. A KL in the reward is not looked at: it is known only later."""
    reward_S = batch.columns["token_reward"].sum(dim=1)
    return {
        group: len(reward_S[(batch.group_S == group) & batch.takes_part_S].unique()) > 1
        for group in batch.group_S.unique().tolist()
    }


def _advantages(batch: Batch, reward_ST: Tensor, algorithm: Algorithm, running: RunningMean) -> Tensor:
    if algorithm.credit == "gae":
        advantage_ST = _gae(batch, reward_ST, algorithm, _policy_lambda(batch, algorithm))
    elif algorithm.credit == "to_go" and algorithm.has_critic:
        advantage_ST = _gae(batch, reward_ST, algorithm, 1.0)
    elif algorithm.credit == "to_go":
        returns_ST = _returns(batch, reward_ST, algorithm.discount)
        advantage_ST = _less_baseline(batch, returns_ST, algorithm, running, batch.is_action_ST)
    elif algorithm.has_critic:
        advantage_ST = reward_ST.sum(dim=1, keepdim=True) - batch.columns["value"]
    else:
        advantage_S = _sequence_advantage(batch, reward_ST.sum(dim=1), algorithm, running)
        advantage_ST = advantage_S[:, None].expand(-1, batch.longest)
    if algorithm.scale == "batch_std":
        advantage_ST = F.whiten(advantage_ST.contiguous(), is_valid=batch.is_action_ST)
    return advantage_ST


def _sequence_advantage(batch: Batch, reward_S: Tensor, algorithm: Algorithm, running: RunningMean) -> Tensor:
    reward_S = _less_baseline(batch, reward_S, algorithm, running, batch.takes_part_S)
    if not algorithm.compares_groups:
        return reward_S
    groups, group_S = batch.group_S.unique(return_inverse=True)
    index_S = torch.tensor([sample.index for sample in batch.samples], dtype=torch.long)
    size = max((1 + sample.index for sample in batch.samples), default=0)
    reward_PG = reward_S.new_zeros(len(groups), max(algorithm.group_size, size))
    is_valid = torch.zeros(reward_PG.shape, dtype=torch.bool)
    reward_PG[group_S, index_S] = reward_S
    is_valid[group_S, index_S] = batch.takes_part_S
    return group_advantage(algorithm, reward_PG, is_valid)[group_S, index_S]


def _returns(batch: Batch, reward_ST: Tensor, discount: float) -> Tensor:
    """Rewards from each token onwards, each chosen token that lies between discounting them once."""
    if discount == 1:
        return F.returns_to_go(reward_ST)
    zero_ST, zero_S = torch.zeros_like(reward_ST), torch.zeros_like(reward_ST.sum(dim=1))
    return F.gae_over_actions(reward_ST, zero_ST, zero_S, batch.is_action_ST, discount=discount, lambda_=1.0)


def _gae(batch: Batch, reward_ST: Tensor, algorithm: Algorithm, lambda_: float | Tensor) -> Tensor:
    return F.gae_over_actions(
        reward_ST,
        batch.columns["value"],
        batch.columns["end_value"][:, 0] if batch.longest else reward_ST.sum(dim=1),
        batch.is_action_ST,
        discount=algorithm.discount if algorithm.credit != "sequence" else 1.0,
        lambda_=lambda_,
    )


def _policy_lambda(batch: Batch, algorithm: Algorithm) -> float | Tensor:
    if algorithm.adaptive_lambda is None:
        return algorithm.lambda_
    length_S = batch.is_action_ST.sum(dim=1)
    return F.length_adaptive_lambda(length_S, alpha=algorithm.adaptive_lambda, lowest=algorithm.lambda_)


def _less_baseline(
    batch: Batch, reward: Tensor, algorithm: Algorithm, running: RunningMean, is_valid: Tensor
) -> Tensor:
    """Less a baseline that is not a group's: of [S] returns of sequences, or of [S, T] of tokens."""
    if algorithm.baseline == "greedy":
        greedy_ST = batch.columns["greedy_reward"]
        return reward - (greedy_ST if reward.dim() == 2 else greedy_ST[:, 0])
    if algorithm.baseline == "batch_mean":
        return F.batch_centred(reward, is_valid=is_valid)
    if algorithm.baseline == "constant":
        return reward - algorithm.baseline_value
    if algorithm.baseline == "running_mean":
        return reward - running.value
    return reward
