"""Drawing a token: by the inverse of the distribution function, cut-offs by hand, and the log-prob reported."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor
from torch.testing import assert_close

from ventaja.rollouts import Sampling
from ventaja.rollouts.draw import BLOCK, cut_off, draw, inverse_distribution

ALMOST_ONE = math.nextafter(1.0, 0.0)
INF = math.inf


def rows(logits_V: Tensor, uniforms: list[float]) -> tuple[Tensor, Tensor]:
    """The same logits for every uniform number, as a batch that may be overwritten."""
    return logits_V.float().repeat(len(uniforms), 1), tensor(uniforms, dtype=torch.float64)


def check_inverse(logits_V: Tensor, uniforms: list[float]) -> None:
    """Against softmax and cumulative sum in float64. A number within 1e-6 of a step may fall on
    either side, since single probabilities carry float32's rounding."""
    log_p = logits_V.double().log_softmax(-1)
    upper = log_p.exp().cumsum(-1)
    lower = upper - log_p.exp()
    for token_B, logprob_B in (
        inverse_distribution(*rows(logits_V, uniforms)),
        draw(*rows(logits_V, uniforms), Sampling()),
    ):
        assert_close(logprob_B, log_p[token_B].float(), rtol=1e-6, atol=1e-5)
        assert logprob_B.isfinite().all()
        for token, u in zip(token_B.tolist(), uniforms, strict=True):
            assert lower[token] - 1e-6 <= u <= upper[token] + 1e-6


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_logits_in_bfloat16_are_drawn_from_as_they_are(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(200, 3 * BLOCK + 5, generator=generator)).bfloat16()
    uniform = torch.rand(200, generator=generator, dtype=torch.float64)
    plain_token_B, plain_logprob_B = inverse_distribution(logits.float() / temperature, uniform)
    token_B, logprob_B = draw(logits, uniform, Sampling(temperature=temperature))
    assert torch.equal(token_B, plain_token_B)
    assert_close(logprob_B, plain_logprob_B, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 103, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 5 * BLOCK + 77])
@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0])
def test_draws_are_the_inverse_of_the_distribution_function(size: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(size)
    logits = spread * torch.randn(size, generator=generator)
    uniforms = torch.rand(300, generator=generator, dtype=torch.float64).tolist()
    check_inverse(logits, [0.0, 1e-300, 0.5, ALMOST_ONE, *uniforms])


def test_draws_at_the_borders_of_blocks() -> None:
    size = 4 * BLOCK + 3
    edges = [n / size for n in (BLOCK, 2 * BLOCK, 3 * BLOCK, 4 * BLOCK)]
    near = [math.nextafter(e, way) for e in edges for way in (0.0, 1.0)]
    check_inverse(torch.zeros(size), edges + near)
    # equal weights are exact: number k/size is where word k begins
    token_B, _ = inverse_distribution(*rows(torch.zeros(1024), [0.0, 256 / 1024, 511 / 1024, 512 / 1024]))
    assert token_B.tolist() == [0, 256, 511, 512]


@given(seed=st.integers(0, 10_000), kept=st.integers(1, 40))
@settings(max_examples=60)
def test_words_without_probability_are_never_drawn(seed: int, kept: int) -> None:
    """Also at the borders of what is left, where a sum's rounding could step beside it."""
    random = np.random.default_rng(seed)
    size = 3 * BLOCK + 11
    logits = np.full(size, -INF, dtype=np.float32)
    words = random.choice(size, kept, replace=False)
    logits[words] = random.normal(0, 20, kept)
    weight = np.exp(logits.astype(np.float64) - logits.max())
    edges = np.unique(np.cumsum(weight) / weight.sum()).clip(0, ALMOST_ONE)
    uniforms = [0.0, ALMOST_ONE, *edges, *np.nextafter(edges, 0), *np.nextafter(edges, 1).clip(0, ALMOST_ONE)]
    check_inverse(torch.from_numpy(logits), [float(u) for u in uniforms])


def test_a_fine_grid_of_numbers_gives_each_word_its_share() -> None:
    logits = tensor([1.0, -INF, 0.0, 3.0, 2.0, -2.0])
    grid = 20_000
    token_B, _ = inverse_distribution(*rows(logits, [(i + 0.5) / grid for i in range(grid)]))
    share = torch.bincount(token_B, minlength=6) / grid
    # an interval of length p holds p · grid points of the grid, give or take one
    assert_close(share, logits.softmax(-1), rtol=0, atol=1.01 / grid)


def test_rows_do_not_touch_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(7, 600, generator=generator)
    uniform = torch.rand(7, generator=generator, dtype=torch.float64)
    together = inverse_distribution(logits.clone(), uniform)
    for b in range(7):
        token, logprob = inverse_distribution(logits[b : b + 1].clone(), uniform[b : b + 1])
        assert token.item() == together[0][b]
        assert_close(logprob[0], together[1][b])


P = [0.4, 0.3, 0.15, 0.1, 0.05]


def kept(sampling: Sampling, probabilities: list[float] = P) -> list[int]:
    logits = tensor([probabilities]).log()
    cut_off(logits, sampling)
    return [i for i, value in enumerate(logits[0].tolist()) if value > -INF]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"top_k": 1}, [0]),
        ({"top_k": 3}, [0, 1, 2]),
        ({"top_k": 9}, [0, 1, 2, 3, 4]),
        # before the words in order stand 0, .4, .7, .85, .95: a word stays while that is below top_p
        ({"top_p": 0.39}, [0]),
        ({"top_p": 0.41}, [0, 1]),
        ({"top_p": 0.71}, [0, 1, 2]),
        ({"top_p": 0.96}, [0, 1, 2, 3, 4]),
        # at least min_p · .4: .3 → .12, .5 → .2
        ({"min_p": 0.3}, [0, 1, 2]),
        ({"min_p": 0.5}, [0, 1]),
        # top-k leaves .4, .3, .15 of .85, so before the third stands .7 / .85 = .82
        ({"top_k": 3, "top_p": 0.81}, [0, 1]),
        ({"top_k": 3, "top_p": 0.83}, [0, 1, 2]),
        # min-p leaves .4, .3 of .7: before the second stands .57
        ({"min_p": 0.5, "top_p": 0.56}, [0]),
        ({"top_k": 4, "min_p": 0.3, "top_p": 0.99}, [0, 1, 2]),
    ],
)
def test_cut_offs_by_hand(settings: dict[str, float], expected: list[int]) -> None:
    assert kept(Sampling(**settings)) == expected


def test_cut_offs_do_not_depend_on_the_order_of_words() -> None:
    assert kept(Sampling(top_p=0.71), [0.05, 0.3, 0.1, 0.4, 0.15]) == [1, 3, 4]


def test_ties_at_the_edge_of_top_k_stay() -> None:
    assert kept(Sampling(top_k=2), [0.4, 0.2, 0.2, 0.2]) == [0, 1, 2, 3]


def test_the_logprob_is_that_of_what_was_left() -> None:
    logits, uniform = rows(tensor(P).log(), [0.1, 0.9])
    token_B, logprob_B = draw(logits, uniform, Sampling(top_k=2))
    # .4 and .3 of .7: the first ends at .571
    assert token_B.tolist() == [0, 1]
    assert_close(logprob_B.exp(), tensor([4 / 7, 3 / 7]))


def test_temperature_divides_the_logits_before_anything_is_cut() -> None:
    # at temperature 1/2 the probabilities are squared: .16, .09, .0225, .01, .0025, of .285
    logits, uniform = rows(tensor(P).log(), [0.0, 0.57, 0.9, 0.999])
    token_B, logprob_B = draw(logits, uniform, Sampling(temperature=0.5))
    assert token_B.tolist() == [0, 1, 2, 4]
    assert_close(logprob_B.exp(), tensor([0.16, 0.09, 0.0225, 0.0025]) / 0.285)
    logits, uniform = rows(tensor(P).log(), [0.999])
    # of which top-p .8 keeps the first two: before the second stands .561, before the third .877
    assert draw(logits, uniform, Sampling(temperature=0.5, top_p=0.8))[0].tolist() == [1]


def test_greedy_takes_the_likeliest_with_certainty() -> None:
    logits, uniform = rows(tensor([0.0, 3.0, 1.0]), [0.0, ALMOST_ONE])
    token_B, logprob_B = draw(logits, uniform, Sampling(temperature=0))
    assert token_B.tolist() == [1, 1]
    assert logprob_B.tolist() == [0.0, 0.0]
