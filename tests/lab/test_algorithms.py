"""The bias of an algorithm as it trains agrees with that of its estimator, written out alone."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from ventaja.lab import ESTIMATORS, TabularPolicy, algorithm_bias, estimator_bias
from ventaja.training.algorithms import DR_GRPO, GRPO, PPO, PPO_CLIP, REINFORCE, REMAX, RLOO

POLICY, BEHAVIOUR = (TabularPolicy(vocabulary=3, length=2, seed=seed) for seed in (0, 1))
REWARD_N = torch.randn(9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
PLAIN = {"kl": "none", "kl_coef": 0.0, "token_weight": "sequence_sum"}
CLOSE = {"rtol": 1e-5, "atol": 1e-7}  # weights are float32


@pytest.mark.parametrize(
    ("algorithm", "estimator"),
    [
        (replace(REINFORCE, baseline="none", group_size=2), "reinforce"),
        (replace(RLOO, group_size=2, **PLAIN), "leave_one_out"),
        (replace(DR_GRPO, group_size=2, **PLAIN), "group_centred"),
        (replace(GRPO, group_size=2, **PLAIN), "group_standardised"),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_on_policy(algorithm, estimator):
    ours = algorithm_bias(algorithm, POLICY, REWARD_N)
    alone = estimator_bias(ESTIMATORS[estimator], POLICY, REWARD_N, size=2)
    assert_close(ours.expected, alone.expected, **CLOSE)
    assert_close(ours.exact, alone.exact)
    assert (ours.relative < 1e-6) == (estimator in ("reinforce", "leave_one_out"))


@pytest.mark.parametrize(
    ("ratio", "estimator"), [("trajectory", "trajectory_ratio"), ("token", "token_ratio")]
)
def test_off_policy(ratio, estimator):
    algorithm = replace(REINFORCE, baseline="none", ratio=ratio)
    ours = algorithm_bias(algorithm, POLICY, REWARD_N, behaviour=BEHAVIOUR)
    alone = estimator_bias(ESTIMATORS[estimator], POLICY, REWARD_N, behaviour=BEHAVIOUR)
    assert_close(ours.expected, alone.expected, **CLOSE)
    assert (ours.relative < 1e-6) == (ratio == "trajectory")


def test_rewards_from_here_on():
    """Credit to_go with the reward at the end is the whole answer's; one answer has nothing to be whitened with."""
    to_go = replace(PPO_CLIP, scale="none", epochs=1, minibatches=1, **PLAIN)
    assert algorithm_bias(to_go, POLICY, REWARD_N).relative < 1e-6


def test_a_minibatch_that_is_the_round_is_whitened_as_the_round_is():
    by_round = replace(PPO_CLIP, epochs=1, minibatches=1, group_size=2, **PLAIN)
    found, expected = (
        algorithm_bias(replace(by_round, scale=scale), POLICY, REWARD_N)
        for scale in ("minibatch_std", "batch_std")
    )
    assert expected.relative > 0.1  # whitening two answers is another objective
    assert_close(found.expected, expected.expected, **CLOSE)


# A critic ---------------------------------------------------------------------------------------------------

GAE = replace(PPO, scale="none", epochs=1, minibatches=1, **PLAIN)


LARGER = TabularPolicy(seed=0)
RIGHT_N = (torch.randn(64, generator=torch.Generator().manual_seed(2), dtype=torch.float64) > 0.3).double()
"""Right or wrong, and right with probability 0.40."""


def variance(algorithm, **how):
    return algorithm_bias(algorithm, LARGER, RIGHT_N, variance=True, **how)


def test_the_exact_values_are_conditional_means():
    value_NT = POLICY.values(REWARD_N)
    assert_close(value_NT[:, 0], POLICY.expected_reward(REWARD_N).detach().expand(9))
    # before the second token of the first three trajectories, which begin with token 0
    second = POLICY.logits_SV[1].softmax(0).detach()
    assert_close(value_NT[:3, 1], (second * REWARD_N[:3]).sum().expand(3))


def test_with_the_exact_values_gae_is_unbiased_and_varies_less():
    plain = variance(replace(REINFORCE, baseline="none"))
    mean = variance(replace(REINFORCE, baseline="constant", baseline_value=0.4))
    one, usual, half, td = (variance(replace(GAE, lambda_=x)) for x in (1.0, 0.95, 0.5, 0.0))
    for found in (plain, mean, one, usual, half, td):
        assert found.relative < 1e-6  # of the true value every λ is right
    # the numbers of docs/algorithms.md
    found = [round(x.variance, 2) for x in (plain, mean, one, usual, half, td)]
    assert found == [0.67, 0.39, 0.33, 0.31, 0.20, 0.17]


def test_with_wrong_values_only_lambda_one_is_unbiased():
    wrong = POLICY.values(REWARD_N) + torch.randn(
        9, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    # V may depend on the tokens before it alone
    wrong[:, 0] = wrong[0, 0]
    wrong[:, 1] = wrong[::3, 1].repeat_interleave(3)
    bias = {
        lambda_: algorithm_bias(replace(GAE, lambda_=lambda_), POLICY, REWARD_N, value_NT=wrong).relative
        for lambda_ in (0.0, 0.95, 1.0)
    }
    assert bias[1.0] < 1e-6
    assert bias[0.95] > 1e-3
    assert bias[0.0] > 10 * bias[0.95]


@pytest.mark.parametrize("credit", ["sequence", "to_go"])
def test_a_critic_as_reinforces_baseline(credit):
    plain = variance(replace(REINFORCE, baseline="none"))
    found = variance(replace(REINFORCE, baseline="critic", credit=credit))
    assert found.relative < 1e-6
    assert found.variance < plain.variance


def test_a_greedy_baseline_is_unbiased():
    assert algorithm_bias(replace(REMAX, **PLAIN), POLICY, REWARD_N).relative < 1e-6


def test_the_variance_is_that_of_the_gradients():
    # one step and two tokens: g is (e_a − p) Â, and E‖g‖² a sum of two terms
    policy = TabularPolicy(vocabulary=2, length=1, seed=0)
    reward = torch.tensor([1.0, 0.0], dtype=torch.float64)
    p = policy.probabilities().detach()
    found = algorithm_bias(replace(REINFORCE, baseline="none"), policy, reward, variance=True)
    # only the first is rewarded: g = (1 − p₀, −p₁) with probability p₀, whose square is 2 p₁²
    assert found.variance == pytest.approx(float(p[0] * 2 * p[1] ** 2 - 2 * (p[0] * p[1]) ** 2))
