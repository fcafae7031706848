"""Partial orders against the sum over all orders that agree with them, by hand and by counting."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from ventaja.functional import (
    bradley_terry_loss,
    centring_loss,
    crowd_ranking_loss,
    dpo_reward,
    partial_order_loss,
    plackett_luce_loss,
)

tensor = torch.tensor
SCORES = st.floats(-8, 8)


def loss(scores, tiers, **more):
    return float(partial_order_loss(tensor([scores], dtype=torch.float64), tensor([tiers]), **more)[0])


def by_counting(scores, tiers):
    """−log of the sum of the probabilities of every order of all items in which no tier comes before a better one."""
    items = [i for i, tier in enumerate(tiers) if tier >= 0]
    total = 0.0
    for order in itertools.permutations(items):
        if [tiers[i] for i in order] == sorted(tiers[i] for i in order):
            left, chance = [math.exp(scores[i]) for i in order], 1.0
            while left:
                chance *= left[0] / sum(left)
                left.pop(0)
            total += chance
    return -math.log(total)


def by_subsets(scores, tied):
    """−log P that the first `tied` items come before the others: f(S) = Σ_i f(S − i) w_i / (W − w(S − i))."""
    w = np.exp(np.array(scores))
    reached = {0: 1.0}
    for subset in range(1, 2**tied):
        members = [i for i in range(tied) if subset >> i & 1]
        reached[subset] = sum(
            reached[subset ^ (1 << i)] * w[i] / (w.sum() - sum(w[j] for j in members if j != i))
            for i in members
        )
    return -math.log(reached[2**tied - 1])


def test_a_tie_by_hand():
    # w = 1, 2, 3. Both of 1, 2 before 3: 1/6 · 2/5 + 2/6 · 1/4 = 1/15 + 1/12 = 3/20
    assert loss([0.0, math.log(2), math.log(3)], [0, 0, 1]) == pytest.approx(-math.log(3 / 20), abs=1e-12)
    # and 1, 2 tied behind 3: 3/6, whatever comes next
    assert loss([0.0, math.log(2), math.log(3)], [1, 1, 0]) == pytest.approx(math.log(2), abs=1e-12)


@given(st.lists(st.tuples(SCORES, st.integers(0, 3)), min_size=1, max_size=6))
def test_partial_orders_are_the_sum_over_their_orders(items):
    scores, tiers = [score for score, _ in items], [tier for _, tier in items]
    present = sorted(set(tiers))
    tiers = [present.index(tier) for tier in tiers]
    assert loss(scores, tiers) == pytest.approx(by_counting(scores, tiers), rel=1e-10, abs=1e-11)


@pytest.mark.parametrize("tied", [2, 7, 12])
def test_large_ties_are_the_sum_over_subsets(tied):
    scores = np.random.default_rng(tied).normal(0, 3, size=tied + 3).tolist()
    expected = by_subsets(scores, tied)
    assert loss(scores, [0] * tied + [1] * 3) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_scores_far_apart_do_not_overflow():
    # the second of 100, 0 must come before −100 as well: all but certain, both ways
    assert loss([100.0, 0.0, -100.0], [0, 0, 1]) == pytest.approx(math.exp(-100), abs=1e-12)
    # −100 before 0 and 100 costs 200; −100 and 0 before 100 costs 200 + 100 in either order, so 300 − log 2
    assert loss([-100.0, 0.0, 100.0], [0, 1, 1]) == pytest.approx(200.0, abs=1e-9)
    assert loss([-100.0, 0.0, 100.0], [0, 0, 1]) == pytest.approx(300.0 - math.log(2), abs=1e-9)
    scores = tensor([[-100.0, 0.0, 100.0, 700.0]], dtype=torch.float64, requires_grad=True)
    partial_order_loss(scores, tensor([[0, 0, 1, -1]])).sum().backward()
    # each of the tied wants to rise with slope 1, at the cost of the one that beats them by far
    assert_close(scores.grad, tensor([[-1.0, -1.0, 2.0, 0.0]], dtype=torch.float64))


@given(SCORES, SCORES)
def test_two_items_are_bradley_terry(better, worse):
    pair = tensor([[worse, better]])
    got = partial_order_loss(pair, tensor([[1, 0]]))
    assert_close(got, bradley_terry_loss(pair[:, 1], pair[:, 0]), rtol=1e-6, atol=1e-6)


@given(st.lists(SCORES, min_size=2, max_size=6))
def test_a_full_order_is_plackett_luce(scores):
    row = tensor([scores], dtype=torch.float64)
    tiers = torch.arange(len(scores))[None]
    assert_close(partial_order_loss(row, tiers), plackett_luce_loss(row))


@given(st.lists(st.tuples(SCORES, st.integers(0, 2)), min_size=2, max_size=5), st.floats(-50, 50))
def test_a_constant_changes_nothing(items, constant):
    scores, tiers = [score for score, _ in items], [tier for _, tier in items]
    present = sorted(set(tiers))
    tiers = [present.index(tier) for tier in tiers]
    moved = loss([score + constant for score in scores], tiers)
    assert moved == pytest.approx(loss(scores, tiers), rel=1e-9, abs=1e-9)


def test_what_a_top_k_order_leaves_out_is_in_no_order():
    # w = 4, 1, 1, 2: 4 of 8 first, and then nobody asked
    scores = [math.log(4), 0.0, 0.0, math.log(2)]
    assert loss(scores, [0, 1, 1, 1]) == pytest.approx(math.log(2), abs=1e-12)


def test_rows_of_a_batch_do_not_know_of_each_other():
    scores = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    tiers = tensor([[0, 1, 1, 2, 2], [0, 0, 0, 0, 0], [1, 1, 0, -1, -1], [-1, -1, -1, -1, -1]])
    together = partial_order_loss(scores, tiers)
    alone = torch.cat([partial_order_loss(scores[[b]], tiers[[b]]) for b in range(4)])
    assert_close(together, alone)
    assert together[1:].tolist()[0] == 0.0
    assert together[3] == 0.0
    assert loss(scores[2, :3].tolist(), [1, 1, 0]) == pytest.approx(float(together[2]))


def test_gradients():
    scores = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * 2
    tiers = tensor([[0, 0, 0, 1, 1], [0, 1, 1, 2, -1], [3, 2, 1, 0, 4]])
    margin = tensor([0.0, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, m: partial_order_loss(s, tiers, margin_B=m), (scores, margin))


def test_a_margin_by_hand():
    # −log σ(2 − 1 − 0.5)
    got = loss([2.0, 1.0], [0, 1], margin_B=tensor([0.5], dtype=torch.float64))
    assert got == pytest.approx(math.log1p(math.exp(-0.5)), abs=1e-12)


@given(SCORES, SCORES, st.floats(-4, 4))
def test_a_careless_rater_of_pairs_is_crowd_bt(better, worse, logit):
    eta, p = 1 / (1 + math.exp(-logit)), 1 / (1 + math.exp(worse - better))
    got = crowd_ranking_loss(
        tensor([[better, worse]], dtype=torch.float64),
        tensor([[0, 1]]),
        reliability_logit_B=tensor([logit], dtype=torch.float64),
    )
    assert float(got[0]) == pytest.approx(-math.log(eta * p + (1 - eta) * (1 - p)), abs=1e-9)


def test_a_rater_who_tosses_a_coin_says_nothing_of_a_pair():
    scores = tensor([[3.0, -1.0]], requires_grad=True)
    loss = crowd_ranking_loss(scores, tensor([[0, 1]]), reliability_logit_B=tensor([0.0]))
    loss.sum().backward()
    assert_close(loss, tensor([math.log(2)]))
    assert_close(scores.grad, torch.zeros(1, 2))


def test_turning_over_keeps_missing_items_missing():
    # 2 > 1 > 0, upside down 0 > 1 > 2: of an unreliable rater (η → 0) that is what counts
    scores = tensor([[1.0, 0.3, -0.5, 9.0]], dtype=torch.float64)
    got = crowd_ranking_loss(
        scores, tensor([[2, 1, 0, -1]]), reliability_logit_B=tensor([-40.0], dtype=torch.float64)
    )
    assert float(got[0]) == pytest.approx(loss([1.0, 0.3, -0.5], [0, 1, 2]), abs=1e-9)


def test_centring_by_hand():
    # ((1 + 2) / 2)² and 4²; the place without an item does not count
    got = centring_loss(
        tensor([[1.0, 2.0, 7.0], [4.0, 0, 0]]), tensor([[True, True, False], [True, False, False]])
    )
    assert_close(got, tensor([2.25, 16.0]))


def test_dpo_reward_by_hand():
    # 0.1 · (log ½ − log ¼) = 0.1 log 2
    got = dpo_reward(tensor([0.5]).log(), tensor([0.25]).log(), beta=0.1)
    assert_close(got, tensor([0.1 * math.log(2)]))
