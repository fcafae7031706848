"""The best of n, and the curves of gold reward over distance."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import tensor

from ventaja.functional import (
    best_of_n,
    best_of_n_kl,
    gold_by_distance,
    gold_by_distance_best_of_n,
)


def test_kl_of_the_best_of_n_is_that_of_the_order_statistic():
    assert best_of_n_kl(1) == 0.0
    assert best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)
    # the best of n equally likely scores x in (0, 1) has density n xⁿ⁻¹; its KL from the uniform one by quadrature
    x = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for n in (2, 4, 16):
        density = n * x ** (n - 1)
        assert best_of_n_kl(n) == pytest.approx(float((density * density.log()).mean()), abs=1e-4)
    with pytest.raises(ValueError, match="n must be at least 1"):
        best_of_n_kl(0)


def test_best_of_two_by_hand():
    # of three answers the pairs are {a, b}, {a, c}, {b, c}; the proxy's order is a < b < c, so b wins once and c twice
    got = best_of_n(tensor([[0.1, 0.5, 0.9]]), tensor([[7.0, 1.0, 4.0]]), n=2)
    assert got == pytest.approx((1 + 4 + 4) / 3)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5)), min_size=2, max_size=6), st.integers(1, 6))
def test_it_is_the_mean_over_all_subsets(answers, n):
    n = min(n, len(answers))
    expected = 0.0
    for chosen in itertools.combinations(answers, n):
        top = max(proxy for proxy, _ in chosen)
        best = [gold for proxy, gold in chosen if proxy == top]
        expected += sum(best) / len(best)
    expected /= math.comb(len(answers), n)
    proxy, gold = (tensor([column], dtype=torch.float64) for column in zip(*answers, strict=True))
    assert best_of_n(proxy, gold, n=n) == pytest.approx(expected, abs=1e-9)


def test_fits_find_what_made_the_points():
    d = tensor([0.0, 0.5, 1.0, 2.0, 4.0, 6.0], dtype=torch.float64)
    away = d.clamp(min=1e-9)
    assert gold_by_distance(d, d * (0.8 - 0.3 * away.log())) == pytest.approx((0.8, 0.3))
    assert gold_by_distance_best_of_n(d, d * (0.8 - 0.1 * d)) == pytest.approx((0.8, 0.1))
    with pytest.raises(ValueError, match="two different distances"):
        gold_by_distance(tensor([0.0, 1.0, 1.0]), tensor([0.0, 1.0, 2.0]))
