import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from ventaja.functional import (
    bradley_terry_loss,
    clipped_surrogate_loss,
    clipped_value_loss,
    detached_clamp_loss,
    nll,
    nll_loss,
    plackett_luce_loss,
    policy_gradient_loss,
    surrogate_loss,
    value_loss,
)

tensor = torch.tensor


def test_policy_gradient_by_hand():
    # −2 · log ½ = 2 log 2
    logprob = tensor([0.5]).log().requires_grad_()
    loss = policy_gradient_loss(logprob, tensor([2.0]))
    assert_close(loss, tensor([2 * math.log(2)]))
    assert_close(torch.autograd.grad(loss.sum(), logprob)[0], tensor([-2.0]))


RATIO = [0.5, 0.9, 1.2, 2.0]


@pytest.mark.parametrize(
    ("advantage", "loss", "slope"),
    [
        # −min(r, clip(r, 0.8, 1.3)): only 2.0 is clipped, to 1.3
        (1.0, [-0.5, -0.9, -1.2, -1.3], [-0.5, -0.9, -1.2, 0.0]),
        # −min(−2r, −2 clip(r)) = 2 max(r, clip(r)): only 0.5 is clipped, to 0.8
        (-2.0, [1.6, 1.8, 2.4, 4.0], [0.0, 1.8, 2.4, 4.0]),
    ],
)
def test_clipped_surrogate_by_hand(advantage, loss, slope):
    log_ratio = tensor(RATIO).log().requires_grad_()
    got = clipped_surrogate_loss(log_ratio, torch.full((4,), advantage), clip_low=0.2, clip_high=0.3)
    assert_close(got, tensor(loss))
    # d r / d log r = r, and 0 where the clip holds
    assert_close(torch.autograd.grad(got.sum(), log_ratio)[0], tensor(slope))


def test_detached_clamp_by_hand():
    old = tensor([0.2, 0.2, 0.2]).log()
    logprob = tensor([0.05, 0.2, 0.8]).log().requires_grad_()
    advantage = tensor([1.0, -1.0, 2.0])
    # ratios 1/4, 1, 4 become 1/2, 1, 3/2
    got = detached_clamp_loss(logprob, logprob - old, advantage, clip_low=0.5, clip_high=0.5)
    expected = tensor([-0.5 * math.log(0.05), math.log(0.2), -3 * math.log(0.8)])
    assert_close(got, expected)
    # the clipped tokens keep a gradient, −clip(r) · Â
    assert_close(torch.autograd.grad(got.sum(), logprob)[0], tensor([-0.5, 1.0, -3.0]))


def test_surrogate_by_hand():
    # −r·Â, and its slope by log r is the same
    log_ratio = tensor(RATIO).log().requires_grad_()
    got = surrogate_loss(log_ratio, torch.full((4,), -2.0))
    assert_close(got, tensor([1.0, 1.8, 2.4, 4.0]))
    assert_close(torch.autograd.grad(got.sum(), log_ratio)[0], tensor([1.0, 1.8, 2.4, 4.0]))


@pytest.mark.parametrize(
    ("advantage", "loss", "slope"),
    [
        # c = 1.5 leaves tokens that are to become likelier alone
        (1.0, [-0.5, -0.9, -1.2, -1.3], [-0.5, -0.9, -1.2, 0.0]),
        # −max(min(−2r, −2 clip(r)), −2·1.5): the loss 4 of r = 2 becomes 3, without a slope
        (-2.0, [1.6, 1.8, 2.4, 3.0], [0.0, 1.8, 2.4, 0.0]),
    ],
)
def test_dual_clip_by_hand(advantage, loss, slope):
    log_ratio = tensor(RATIO).log().requires_grad_()
    clips = {"clip_low": 0.2, "clip_high": 0.3, "dual_clip": 1.5}
    got = clipped_surrogate_loss(log_ratio, torch.full((4,), advantage), **clips)
    assert_close(got, tensor(loss))
    assert_close(torch.autograd.grad(got.sum(), log_ratio)[0], tensor(slope))


SURROGATES = {
    "unclipped": lambda _, x, advantage: surrogate_loss(x, advantage),
    "clipped": lambda _, x, advantage: clipped_surrogate_loss(x, advantage, clip_low=0.2, clip_high=0.3),
    "dual clip": lambda _, x, advantage: clipped_surrogate_loss(
        x, advantage, clip_low=0.2, clip_high=0.3, dual_clip=3.0
    ),
    "detached clamp": lambda logprob, x, advantage: detached_clamp_loss(
        logprob, x, advantage, clip_low=1.0, clip_high=4.0
    ),
}
E20 = math.exp(20)
FAR = {  # losses for log r = ±100 and Â = 1, −1, 0: the ratio is held at e^±20; a detached clamp times log π = −7
    "unclipped": [-E20, E20, 0.0, -1 / E20, 1 / E20, 0.0],
    "clipped": [-1.3, E20, 0.0, -1 / E20, 0.8, 0.0],
    "dual clip": [-1.3, 3.0, 0.0, -1 / E20, 0.8, 0.0],
    "detached clamp": [35.0, -35.0, 0.0, 7 / E20, -7 / E20, 0.0],
}


@pytest.mark.parametrize("name", SURROGATES)
def test_a_ratio_beyond_all_bounds_is_finite_and_so_is_its_gradient(name):
    logprob = torch.full((6,), -7.0, requires_grad=True)
    old = logprob.detach() - tensor([100.0] * 3 + [-100.0] * 3)
    loss = SURROGATES[name](logprob, logprob - old, tensor([1.0, -1.0, 0.0] * 2))
    assert_close(loss, tensor(FAR[name]))
    gradient = torch.autograd.grad(loss.sum(), logprob)[0]
    # only a detached clamp has a gradient there: −clip(r)·Â
    there = {"detached clamp": [-5.0, 5.0, 0.0, -1 / E20, 1 / E20, 0.0]}
    assert_close(gradient, tensor(there.get(name, [0.0] * 6)))


@given(st.lists(st.tuples(st.floats(-3, -0.1), st.floats(-2, 2)), min_size=1, max_size=8))
def test_on_policy_all_surrogates_have_one_gradient(pairs):
    value, advantage = (torch.tensor(x, dtype=torch.float64) for x in zip(*pairs, strict=True))
    clip = {"clip_low": 0.2, "clip_high": 0.2}

    def gradient(loss_of):
        logprob = value.clone().requires_grad_()
        return torch.autograd.grad(loss_of(logprob, logprob - value).sum(), logprob)[0]

    reinforce = gradient(lambda logprob, _: policy_gradient_loss(logprob, advantage))
    assert_close(gradient(lambda _, x: clipped_surrogate_loss(x, advantage, **clip)), reinforce)
    assert_close(gradient(lambda lp, x: detached_clamp_loss(lp, x, advantage, **clip)), reinforce)


def test_value_losses_by_hand():
    value, old, target = tensor([3.0, 3.0, 0.0]), tensor([1.0, 1.0, 1.0]), tensor([0.0, 4.0, 0.0])
    # ½ 3², ½ 1², 0
    assert_close(value_loss(value, target), tensor([4.5, 0.5, 0.0]))
    # limited values 1.5, 1.5, 0.5: ½ max(9, 2.25), ½ max(1, 6.25), ½ max(0, 0.25)
    assert_close(clipped_value_loss(value, old, target, clip=0.5), tensor([4.5, 3.125, 0.125]))
    # out of reach of the clip it is the plain loss
    assert_close(clipped_value_loss(value, old, target, clip=5.0), value_loss(value, target))


def test_nll_by_hand():
    assert_close(nll_loss(tensor([0.25]).log()), tensor([math.log(4)]))
    assert nll is nll_loss


def test_bradley_terry_by_hand():
    # σ(log 3) = 3/4
    assert_close(bradley_terry_loss(tensor([math.log(3)]), tensor([0.0])), tensor([math.log(4 / 3)]))
    assert_close(bradley_terry_loss(tensor([1.0]), tensor([1.0])), tensor([math.log(2)]))
    # far on the wrong side the loss is the difference, not infinity
    assert_close(bradley_terry_loss(tensor([0.0]), tensor([1000.0])), tensor([1000.0]))


def test_plackett_luce_by_hand():
    # strengths 3, 2, 1 in this order: 3/6 · 2/3 · 1/1 = 1/3
    score = tensor([[3.0, 2.0, 1.0], [1.0, 1.0, 1.0]]).log()
    # equal strengths: each of the 3! orders has probability 1/6
    assert_close(plackett_luce_loss(score), tensor([math.log(3), math.log(6)]))
    assert_close(plackett_luce_loss(score + 800), tensor([math.log(3), math.log(6)]), atol=5e-4, rtol=0)


@given(st.floats(-30, 30), st.floats(-30, 30))
def test_two_items_ranked_are_one_comparison(chosen, rejected):
    score = torch.tensor([[chosen, rejected]], dtype=torch.float64)
    pair = bradley_terry_loss(score[:, 0], score[:, 1])
    assert_close(plackett_luce_loss(score), pair, atol=1e-12, rtol=1e-9)


def test_the_orders_of_three_items_are_all_the_outcomes():
    score = tensor([0.3, -1.2, 0.7]).double()
    orders = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    probability = (-plackett_luce_loss(score[orders])).exp()
    assert_close(probability.sum(), tensor(1.0).double())
