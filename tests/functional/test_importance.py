import math

import pytest
import torch
from torch.testing import assert_close

from ventaja.functional import (
    effective_sample_size,
    importance_ratio,
    masked_weight,
    self_normalised_weight,
    sequence_log_ratio,
    token_log_ratio,
    trajectory_log_ratio,
    truncated_weight,
)

tensor = torch.tensor
LOG_RATIO = tensor([[2.0, 8.0, 1.0], [0.5, 3.0, 0.5]]).log()
IS_ACTION = tensor([[True, True, False], [True, False, True]])


def test_token_log_ratio_is_new_minus_old():
    new, old = tensor([0.6]).log().requires_grad_(), tensor([0.2]).log().requires_grad_()
    log_ratio = token_log_ratio(new, old)
    # 0.6 / 0.2 = 3
    assert_close(log_ratio.exp(), tensor([3.0]))
    log_ratio.sum().backward()
    assert new.grad == 1
    assert old.grad is None


def test_sequence_ratios_by_hand():
    # products 2 · 8 = 16 and 0.5 · 0.5 = 1/4; geometric means √16 = 4 and √(1/4) = 1/2
    assert_close(trajectory_log_ratio(LOG_RATIO, IS_ACTION).exp(), tensor([16.0, 0.25]))
    assert_close(sequence_log_ratio(LOG_RATIO, IS_ACTION).exp(), tensor([4.0, 0.5]))


@pytest.mark.parametrize("ratio", [sequence_log_ratio, trajectory_log_ratio])
def test_what_is_not_an_action_is_not_read(ratio):
    padded = torch.cat([LOG_RATIO, torch.full((2, 2), torch.nan)], 1)
    is_action = torch.cat([IS_ACTION, torch.zeros(2, 2, dtype=torch.bool)], 1)
    assert_close(ratio(padded, is_action), ratio(LOG_RATIO, IS_ACTION))
    assert torch.equal(ratio(padded, torch.zeros_like(is_action)), torch.zeros(2))


def test_truncated_and_masked_weights_by_hand():
    log_ratio = tensor([0.25, 0.5, 1.0, 2.0, 4.0]).log()
    assert_close(truncated_weight(log_ratio, cap=2.0), tensor([0.25, 0.5, 1.0, 2.0, 2.0]))
    assert_close(masked_weight(log_ratio, low=0.4, high=3.0), tensor([0.0, 0.5, 1.0, 2.0, 0.0]))


def test_a_ratio_is_held_within_twenty_nats_and_has_no_gradient_beyond():
    log_ratio = tensor([-100.0, -20.0, 0.0, 19.0, 100.0], requires_grad=True)
    ratio = importance_ratio(log_ratio)
    assert_close(ratio, tensor([math.exp(-20), math.exp(-20), 1.0, math.exp(19), math.exp(20)]))
    slope = torch.autograd.grad(ratio.sum(), log_ratio)[0]
    assert_close(slope, tensor([0.0, math.exp(-20), 1.0, math.exp(19), 0.0]))
    for weight in (
        truncated_weight(log_ratio, cap=2.0),
        masked_weight(log_ratio, low=0.5, high=3.0),
    ):
        assert torch.autograd.grad(weight.sum(), log_ratio)[0].isfinite().all()


def test_self_normalised_weights_by_hand():
    # 1, 2, 5 of 8
    log_ratio = tensor([1.0, 2.0, 5.0]).log()
    assert_close(self_normalised_weight(log_ratio), tensor([1 / 8, 2 / 8, 5 / 8]))
    # a common factor cancels, however large
    assert_close(self_normalised_weight(log_ratio + 500), tensor([1 / 8, 2 / 8, 5 / 8]), atol=1e-5, rtol=0)


def test_effective_sample_size_by_hand():
    # (1 + 2 + 5)² / (1 + 4 + 25) = 64 / 30
    log_ratio = tensor([1.0, 2.0, 5.0]).log()
    assert_close(effective_sample_size(log_ratio), tensor(64 / 30))
    # n equal weights are worth n samples, one weight above all others is worth 1
    assert_close(effective_sample_size(torch.full((7,), math.log(3))), tensor(7.0))
    assert_close(effective_sample_size(tensor([300.0, 0.0, 0.0])), tensor(1.0))
