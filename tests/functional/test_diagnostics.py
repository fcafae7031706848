import math

import torch
from torch.testing import assert_close

from ventaja.functional import (
    approx_kl,
    clip_fraction_dual,
    clip_fraction_high,
    clip_fraction_low,
    clipped_surrogate_loss,
    explained_variance,
    kl_exact,
)

tensor = torch.tensor
LOG_RATIO = tensor([0.5, 0.5, 1.0, 1.5, 1.5, 0.5]).log()
ADVANTAGE = tensor([-1.0, 1.0, 1.0, 1.0, -1.0, -1.0])


def test_clip_fractions_by_hand():
    # low and Â < 0: the first and the last; high and Â > 0: the fourth
    assert_close(clip_fraction_low(LOG_RATIO, ADVANTAGE, clip_low=0.2), tensor(2 / 6))
    assert_close(clip_fraction_high(LOG_RATIO, ADVANTAGE, clip_high=0.2), tensor(1 / 6))
    # without the last token: one of 5
    is_action = tensor([True, True, True, True, True, False])
    assert_close(clip_fraction_low(LOG_RATIO, ADVANTAGE, is_action, clip_low=0.2), tensor(1 / 5))
    assert_close(clip_fraction_high(LOG_RATIO, ADVANTAGE, is_action, clip_high=0.2), tensor(1 / 5))


def test_clip_fractions_count_the_tokens_without_a_gradient():
    log_ratio = torch.linspace(-1, 1, 21).requires_grad_()
    for sign in (-1.0, 1.0):
        advantage = torch.full((21,), sign)
        loss = clipped_surrogate_loss(log_ratio, advantage, clip_low=0.2, clip_high=0.3).sum()
        still = (torch.autograd.grad(loss, log_ratio)[0] == 0).float().mean()
        low = clip_fraction_low(log_ratio, advantage, clip_low=0.2)
        high = clip_fraction_high(log_ratio, advantage, clip_high=0.3)
        assert_close(low + high, still)
        assert still > 0.2
        assert not low.requires_grad


def test_the_dual_clips_fraction_by_hand():
    # Â < 0 and r > 1.4: the fifth alone, of six or of the last two
    assert_close(clip_fraction_dual(LOG_RATIO, ADVANTAGE, dual_clip=1.4), tensor(1 / 6))
    last = tensor([False, False, False, False, True, True])
    assert_close(clip_fraction_dual(LOG_RATIO, ADVANTAGE, last, dual_clip=1.4), tensor(1 / 2))
    assert clip_fraction_dual(LOG_RATIO, ADVANTAGE, dual_clip=1.6) == 0


def test_no_token_gives_zero():
    none = torch.zeros(6, dtype=torch.bool)
    assert clip_fraction_low(LOG_RATIO, ADVANTAGE, none, clip_low=0.2) == 0
    assert approx_kl(LOG_RATIO, none) == 0


def test_approx_kl_by_hand():
    # r = 2: 2 − 1 − log 2;  r = ½: ½ − 1 + log 2;  the mean is ¼
    assert_close(approx_kl(tensor([2.0, 0.5]).log()), tensor(0.25))
    assert_close(approx_kl(tensor([2.0, 0.5]).log(), tensor([True, False])), tensor(1 - math.log(2)))


def test_approx_kl_is_that_of_the_old_policy_from_the_new():
    # one token of each kind in exact proportion to the old policy: 2 of A, 1 of B, 1 of C
    old, new = tensor([0.5, 0.25, 0.25]).double(), tensor([0.1, 0.1, 0.8]).double()
    sample = torch.tensor([0, 0, 1, 2])
    log_ratio = (new.log() - old.log())[sample]
    assert_close(approx_kl(log_ratio), kl_exact(old.log(), new.log()))
    assert abs(approx_kl(log_ratio) - kl_exact(new.log(), old.log())) > 0.01


def test_explained_variance_by_hand():
    return_ = tensor([1.0, 2.0, 3.0])
    assert_close(explained_variance(return_ + 5, return_), tensor(1.0))
    assert_close(explained_variance(torch.ones(3), return_), tensor(0.0))
    # V = 2R leaves −R, with all of its variance
    assert_close(explained_variance(2 * return_, return_), tensor(0.0))
    # V = −R leaves 2R: 1 − 4
    assert_close(explained_variance(-return_, return_), tensor(-3.0))
    assert explained_variance(return_, torch.ones(3)).isnan()
