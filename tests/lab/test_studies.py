import pytest
import torch

from ventaja.functional import kl_k1, kl_k2, kl_k3, kl_k3_plus, kl_k3_weighted
from ventaja.lab import ESTIMATORS, TabularPolicy, estimator_bias, kl_gradient_bias

POLICY, BEHAVIOUR = TabularPolicy(seed=0), TabularPolicy(seed=1)
REWARD_N = torch.randn(64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def bias(name, **how):
    return estimator_bias(ESTIMATORS[name], POLICY, REWARD_N, **how)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("reinforce", {"size": 1}),
        ("reinforce", {"size": 2}),
        ("leave_one_out", {"size": 2}),
        ("trajectory_ratio", {"behaviour": BEHAVIOUR}),
        ("trajectory_ratio", {}),
        ("token_ratio", {}),
    ],
)
def test_unbiased(name, how):
    found = bias(name, **how)
    assert found.exact.norm() > 0.1
    assert (found.expected - found.exact).abs().max() < 1e-10


def test_the_mean_that_includes_oneself_halves_the_gradient_of_a_pair():
    found = bias("group_centred", size=2)
    # (G − 1) / G = 1/2, and the direction is right
    assert (found.expected - found.exact / 2).abs().max() < 1e-10
    assert found.relative == pytest.approx(0.5, abs=1e-10)
    assert found.direction < 1e-6


def test_dividing_by_the_deviation_bends_the_gradient():
    found = bias("group_standardised", size=2)
    assert found.relative > 0.1
    assert found.direction == pytest.approx(0.1368, abs=1e-4)


def test_token_ratios_bend_the_gradient_off_policy():
    found = bias("token_ratio", behaviour=BEHAVIOUR)
    assert found.relative > 0.1
    assert found.direction == pytest.approx(0.6972, abs=1e-4)


def test_ignoring_the_ratio_bends_it_too():
    assert bias("reinforce", behaviour=BEHAVIOUR).direction > 0.1


def test_of_the_kl_estimates_only_k2_is_a_loss():
    assert kl_gradient_bias(kl_k2, POLICY, BEHAVIOUR).relative < 1e-10
    # k1's expected gradient is 0, so all of the true one is missing
    assert kl_gradient_bias(kl_k1, POLICY, BEHAVIOUR).relative == pytest.approx(1, abs=1e-10)
    assert kl_gradient_bias(kl_k3, POLICY, BEHAVIOUR).direction == pytest.approx(0.4220, abs=1e-4)


def test_k3s_value_with_k2s_gradient_is_a_loss():
    assert kl_gradient_bias(kl_k3_plus, POLICY, BEHAVIOUR).relative < 1e-10


def test_weighted_k3_is_a_loss_on_anyones_samples():
    reference, trajectory_NT = TabularPolicy(seed=3), POLICY.enumerate()

    def weighted(behaviour):
        old_log_ratio_NT = POLICY.logprobs(trajectory_NT) - behaviour.logprobs(trajectory_NT).detach()
        return lambda log_ratio_NT: kl_k3_weighted(log_ratio_NT, old_log_ratio_NT)

    for behaviour in (POLICY, BEHAVIOUR):
        found = kl_gradient_bias(weighted(behaviour), POLICY, reference, behaviour=behaviour)
        assert found.exact.norm() > 0.1
        assert found.relative < 1e-10
    # without the ratio not even k2 is one there
    assert kl_gradient_bias(kl_k2, POLICY, reference, behaviour=BEHAVIOUR).relative > 0.1
