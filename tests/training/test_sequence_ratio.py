"""A ratio of the whole sequence, through the trainer's own objective, against its formula."""

import pytest
import torch
from tiny_task import group

from ventaja import functional as F
from ventaja.models import TokenScores
from ventaja.training.algorithms import REINFORCE, replace
from ventaja.training.batch import Batch, Row
from ventaja.training.objective import PolicyObjective, token_weights


def batch_of(advantage: list[float], lengths: list[int]) -> Batch:
    groups = [group((1,), [tuple(range(1, n + 1))], [0.0]) for n in lengths]
    batch = Batch.of_groups(groups)
    rows = [[a] * n for a, n in zip(advantage, lengths, strict=True)]
    return batch.with_columns(advantage=batch.table(rows))


def gradient(batch: Batch, row: Row, algorithm, logprob_M: torch.Tensor) -> torch.Tensor:
    logprob_M = logprob_M.clone().requires_grad_()
    loss_M, _ = PolicyObjective(algorithm, batch, 0.0)(row, TokenScores(logprob_M, None))
    weight_ST = token_weights(algorithm, batch.is_action_ST, max_tokens=8)
    (loss_M * row.pick(weight_ST)).sum().backward()
    assert logprob_M.grad is not None
    return logprob_M.grad


def test_at_ratio_one_the_trajectory_ratio_is_reinforce() -> None:
    batch = batch_of([1.0, -0.5], [3, 1])
    (row,) = batch.rows([0, 1], max_tokens=100)
    logprob_M = torch.tensor([-0.3, -1.2, -0.7, -2.0])
    batch.columns["sampler_logprob"] = torch.zeros(2, 3)
    batch.columns["old_logprob"] = torch.zeros(2, 3).index_put((row.sequence_M, row.time_M), logprob_M)
    several = replace(REINFORCE, ratio="trajectory", epochs=2)
    plain = gradient(batch, row, replace(REINFORCE, name="on-policy"), logprob_M)
    torch.testing.assert_close(gradient(batch, row, several, logprob_M), plain)


@pytest.mark.parametrize("ratio", ["sequence", "trajectory"])
def test_off_policy_each_tokens_gradient_carries_the_sequences_ratio(ratio: str) -> None:
    # ratios of two answers: exp of the mean (or sum) of (0.2, -0.1, 0.5) and of (0.3)
    batch = batch_of([1.0, -0.5], [3, 1])
    (row,) = batch.rows([0, 1], max_tokens=100)
    order = row.sequence_M * 3 + row.time_M
    step = torch.tensor([0.2, -0.1, 0.5, 0.3])[order]
    logprob_M = torch.tensor([-0.3, -1.2, -0.7, -2.0])
    batch.columns["sampler_logprob"] = torch.zeros(2, 3)
    batch.columns["old_logprob"] = torch.zeros(2, 3).index_put((row.sequence_M, row.time_M), logprob_M - step)
    algorithm = replace(REINFORCE, ratio=ratio, epochs=2)
    joint = {"sequence": [0.2, 0.3], "trajectory": [0.6, 0.3]}[ratio]
    factor = torch.tensor([1.0, -0.5]) * torch.tensor(joint).exp()  # advantage · ratio
    expected = -factor[row.sequence_M] / 2  # sequence_sum over two answers
    torch.testing.assert_close(gradient(batch, row, algorithm, logprob_M), expected)


def test_its_value_is_the_functions() -> None:
    log_ratio_BT = torch.tensor([[0.2, -0.1, 0.5], [0.3, 0.0, 0.0]])
    is_action_BT = torch.tensor([[True] * 3, [True, False, False]])
    torch.testing.assert_close(F.sequence_log_ratio(log_ratio_BT, is_action_BT), torch.tensor([0.2, 0.3]))
    torch.testing.assert_close(F.trajectory_log_ratio(log_ratio_BT, is_action_BT), torch.tensor([0.6, 0.3]))
