"""The bias of an algorithm as it trains agrees with that of its estimator, written out alone."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from ventaja.lab import ESTIMATORS, TabularPolicy, algorithm_bias, estimator_bias
from ventaja.training.algorithms import DR_GRPO, GRPO, PPO_CLIP, REINFORCE, RLOO

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
