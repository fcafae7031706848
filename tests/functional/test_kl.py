import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from ventaja.functional import kl_exact, kl_k1, kl_k2, kl_k3, kl_k3_plus, kl_k3_weighted

P, Q = torch.tensor([0.5, 0.25, 0.25]).double(), torch.tensor([0.25, 0.25, 0.5]).double()


def test_estimates_by_hand():
    # x = log 2: k1 = log 2, k2 = ½ log² 2, k3 = 1/2 − 1 + log 2
    x = torch.tensor([math.log(2)])
    assert_close(kl_k1(x), torch.tensor([math.log(2)]))
    assert_close(kl_k2(x), torch.tensor([math.log(2) ** 2 / 2]))
    assert_close(kl_k3(x), torch.tensor([math.log(2) - 0.5]))


def test_straight_through_by_hand():
    # at x = log 2: the value of k3, ½ − 1 + log 2, and the slope of k2, log 2 (k3's is 1 − ½)
    x = torch.tensor([math.log(2)], requires_grad=True)
    value = kl_k3_plus(x)
    assert_close(value, torch.tensor([math.log(2) - 0.5]))
    assert_close(torch.autograd.grad(value.sum(), x)[0], torch.tensor([math.log(2)]))


def test_weighted_by_hand():
    # r = 3 at x = log 2: 3·(log 2 − ½). Both arguments move with log π: 3·k3 + 3·(1 − ½)
    logprob = torch.tensor([-1.0], requires_grad=True)
    x, old = logprob + 1 + math.log(2), logprob + 1 + math.log(3)
    value = kl_k3_weighted(x, old)
    assert_close(value, torch.tensor([3 * (math.log(2) - 0.5)]))
    slope = torch.autograd.grad(value.sum(), logprob)[0]
    assert_close(slope, torch.tensor([3 * (math.log(2) - 0.5) + 1.5]))


E20 = math.exp(20)


@pytest.mark.parametrize(
    ("estimate", "values", "slopes"),
    [
        (kl_k1, [100.0, -100.0], [1.0, 1.0]),
        (kl_k2, [5000.0, 5000.0], [100.0, -100.0]),
        (kl_k3, [19.0, E20 - 21], [0.0, 0.0]),  # e^−20 − 1 + 20, and e^20 − 1 − 20
        (kl_k3_plus, [19.0, E20 - 21], [100.0, -100.0]),
        (lambda x: kl_k3_weighted(x, x), [19 * E20, 1.0], [0.0, 0.0]),
        (lambda x: kl_k3_weighted(x, x.detach()), [19 * E20, 1.0], [0.0, 0.0]),
    ],
)
def test_far_from_the_reference_all_is_finite(estimate, values, slopes):
    x = torch.tensor([100.0, -100.0], requires_grad=True)
    got = estimate(x)
    assert_close(got, torch.tensor(values))
    assert_close(torch.autograd.grad(got.sum(), x)[0], torch.tensor(slopes))


def test_exact_by_hand():
    # 0.5 log 2 + 0.25 log 1 + 0.25 log ½ = 0.25 log 2
    assert_close(kl_exact(P.log(), Q.log()), torch.tensor(0.25 * math.log(2)).double())


def test_which_estimates_are_unbiased():
    x = P.log() - Q.log()
    exact = kl_exact(P.log(), Q.log())
    assert_close((P * kl_k1(x)).sum(), exact)
    assert_close((P * kl_k3(x)).sum(), exact)
    # k2: ½ (0.5 + 0.25) log² 2 = 0.1802, against 0.1733
    assert_close((P * kl_k2(x)).sum(), torch.tensor(0.375 * math.log(2) ** 2).double())
    assert abs((P * kl_k2(x)).sum() - exact) > 5e-3


@given(st.floats(-8, 8))
def test_k3_is_never_negative(x):
    x = torch.tensor([x], dtype=torch.float64)
    assert (kl_k3(x) >= 0).all()
    # and near 0 it is k2: the next term of the series is −x³/6
    assert_close(kl_k3(x / 1000), kl_k2(x / 1000), rtol=0.01, atol=1e-16)


def test_the_same_policy_is_at_distance_zero():
    assert kl_exact(P.log(), P.log() + 3).abs() < 1e-15


def test_a_token_forbidden_to_both_adds_nothing():
    forbidden = torch.tensor([-torch.inf]).double()
    logits = torch.cat([P.log(), forbidden]).requires_grad_()
    kl = kl_exact(logits, torch.cat([Q.log(), forbidden]))
    assert_close(kl, kl_exact(P.log(), Q.log()))
    kl.backward()
    assert logits.grad.isfinite().all()
