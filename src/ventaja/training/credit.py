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
    Credit `process` and `process_min`, and a discount per step, read `is_rewarded` too. Whatever is not an action gets 0, and takes no part in the
    statistics of the others.
    """
    reward_ST = batch.columns["token_reward"]
    if algorithm.kl == "reward":
        log_ratio_ST = batch.columns["old_logprob"] - batch.columns["ref_logprob"]
        log_ratio_ST = log_ratio_ST.where(batch.is_action_ST, 0.0)  # what is no action was not scored
        reward_ST = reward_ST - kl_coef * kl_in_reward(algorithm, log_ratio_ST)
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


def return_of(reward_ST: Tensor) -> Tensor:
    """[S], the sum of each sequence's rewards. Summed in float64: the same rewards in another order are the same return."""
    return reward_ST.double().sum(dim=1).to(reward_ST.dtype)


def has_spread(batch: Batch, algorithm: Algorithm) -> dict[int, bool]:
    """Of each group with a sample: True if those of its answers that take part differ in their rewards, penalties
    included, so that comparing them teaches something. A KL in the reward is not looked at: it is known only later.

    Compared are the sums of answers' rewards or, with credit `process` and `process_min`, the rewards of all their steps.
    """
    reward_ST, is_step_ST = batch.columns["token_reward"], _is_step(batch)
    reward_S = return_of(reward_ST)
    spread = {}
    for group in batch.group_S.unique().tolist():
        is_here = (batch.group_S == group) & batch.takes_part_S
        compared = reward_ST[is_here][is_step_ST[is_here]] if algorithm.compares_steps else reward_S[is_here]
        spread[group] = len(compared.unique()) > 1
    return spread


def _advantages(batch: Batch, reward_ST: Tensor, algorithm: Algorithm, running: RunningMean) -> Tensor:
    if algorithm.credit == "gae":
        advantage_ST = _gae(batch, reward_ST, algorithm, _policy_lambda(batch, algorithm))
    elif algorithm.credit == "to_go" and algorithm.has_critic:
        advantage_ST = _gae(batch, reward_ST, algorithm, 1.0)
    elif algorithm.credit == "to_go":
        to_go_ST = _to_go(batch, reward_ST, algorithm)
        advantage_ST = _less_baseline(batch, to_go_ST, algorithm, running, batch.is_action_ST)
    elif algorithm.credit == "process":
        advantage_ST = _to_go(batch, _step_advantage(batch, reward_ST, algorithm), algorithm)
    elif algorithm.credit == "process_min":
        step_ST = _step_advantage(batch, reward_ST, algorithm)
        advantage_ST = F.minimum_to_go(step_ST, _is_step(batch))
    elif algorithm.has_critic:
        advantage_ST = return_of(reward_ST)[:, None] - batch.columns["value"]
    else:
        advantage_S = _sequence_advantage(batch, return_of(reward_ST), algorithm, running)
        advantage_ST = advantage_S[:, None].expand(-1, batch.longest)
    if algorithm.scale == "batch_std":
        advantage_ST = F.whiten(advantage_ST.contiguous(), is_valid=batch.is_action_ST)
    return advantage_ST


def _is_step(batch: Batch) -> Tensor:
    """[S, T], True at the tokens that earned a reward, of the sequences that take part."""
    return batch.columns["is_rewarded"] & batch.takes_part_S[:, None]


def _to_go(batch: Batch, reward_ST: Tensor, algorithm: Algorithm) -> Tensor:
    if algorithm.discount == 1:
        return F.returns_to_go(reward_ST)
    return F.discounted_to_go(reward_ST, _counts(batch, algorithm), discount=algorithm.discount)


def _counts(batch: Batch, algorithm: Algorithm) -> Tensor:
    """[S, T], True at the tokens that γ and λ count."""
    return _is_step(batch) if algorithm.discount_per == "step" else batch.is_action_ST


def _step_advantage(batch: Batch, reward_ST: Tensor, algorithm: Algorithm) -> Tensor:
    """Each step's reward less its baseline and scaled: compared with all steps of all answers to its prompt."""
    s_N, t_N = _is_step(batch).nonzero(as_tuple=True)
    groups, group_N, count_P = batch.group_S[s_N].unique(return_inverse=True, return_counts=True)
    size = max(2, *count_P.tolist()) if len(groups) else 2
    index_N = torch.empty_like(group_N)  # each step's place among its group's
    order = group_N.argsort(stable=True)
    index_N[order] = torch.arange(len(order)) - (count_P.cumsum(0) - count_P)[group_N[order]]
    reward_PK = reward_ST.new_zeros(len(groups), size)
    is_valid = torch.zeros(reward_PK.shape, dtype=torch.bool)
    reward_PK[group_N, index_N] = reward_ST[s_N, t_N]
    is_valid[group_N, index_N] = True
    step_ST = torch.zeros_like(reward_ST)
    step_ST[s_N, t_N] = group_advantage(algorithm, reward_PK, is_valid)[group_N, index_N]
    return step_ST


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


def _gae(batch: Batch, reward_ST: Tensor, algorithm: Algorithm, lambda_: float | Tensor) -> Tensor:
    return F.gae_over_actions(
        reward_ST,
        batch.columns["value"],
        batch.columns["end_value"][:, 0] if batch.longest else reward_ST.sum(dim=1),
        batch.is_action_ST,
        counts_BT=_counts(batch, algorithm),
        discount=algorithm.discount if algorithm.credit != "sequence" else 1.0,
        lambda_=lambda_,
    )


def _policy_lambda(batch: Batch, algorithm: Algorithm) -> float | Tensor:
    if algorithm.adaptive_lambda is None:
        return algorithm.lambda_
    length_S = _counts(batch, algorithm).sum(dim=1)
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
