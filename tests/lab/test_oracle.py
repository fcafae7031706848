import pytest
import torch
from torch.testing import assert_close

from ventaja.functional import kl_k1, kl_k2, kl_k3, policy_gradient_loss, trajectory_log_ratio
from ventaja.lab import TabularPolicy, expected_gradient, group_outcomes, trajectory_kl

EXACT = {"rtol": 0.0, "atol": 1e-10}


@pytest.fixture
def policy():
    return TabularPolicy(seed=0)


@pytest.fixture
def other():
    return TabularPolicy(seed=1)


@pytest.fixture
def reward_N():
    return torch.randn(64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_a_policy_by_hand():
    policy = TabularPolicy(vocabulary=2, length=2)
    # rows: the empty prefix, then after 0, then after 1
    with torch.no_grad():
        policy.logits_SV.copy_(torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.1, 0.9]]).log())
    assert policy.enumerate().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert policy.states(policy.enumerate()).tolist() == [[0, 1], [0, 1], [0, 2], [0, 2]]
    # 0.25·0.5, 0.25·0.5, 0.75·0.1, 0.75·0.9
    expected = torch.tensor([0.125, 0.125, 0.075, 0.675]).double()
    assert_close(policy.probabilities(), expected, rtol=0, atol=1e-7)
    # 4·0.125 − 2·0.675 = −0.85
    reward = torch.tensor([4.0, 0.0, 0.0, -2.0]).double()
    assert policy.expected_reward(reward).item() == pytest.approx(-0.85, abs=1e-6)


def test_trajectories_are_all_different_and_their_probabilities_sum_to_one(policy):
    trajectory_NT = policy.enumerate()
    assert len({tuple(row) for row in trajectory_NT.tolist()}) == 64
    assert policy.logits_SV.shape == (1 + 4 + 16, 4)
    assert sorted(set(policy.states(trajectory_NT).flatten().tolist())) == list(range(21))
    assert_close(policy.probabilities().sum(), torch.tensor(1.0).double(), **EXACT)


def test_the_seed_makes_the_policy(policy, other):
    assert torch.equal(policy.logits_SV, TabularPolicy(seed=0).logits_SV)
    assert not torch.equal(policy.logits_SV, other.logits_SV)


def test_the_exact_gradient_by_finite_differences(policy, reward_N):
    gradient = policy.exact_gradient(reward_N)
    step = 1e-6
    for row, column in [(0, 1), (3, 2), (20, 0)]:
        ends = []
        for sign in (1, -1):
            moved = TabularPolicy(seed=0)
            with torch.no_grad():
                moved.logits_SV[row, column] += sign * step
            ends.append(moved.expected_reward(reward_N).item())
        assert gradient[row, column].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-8)


def test_the_entropy_of_a_trajectory_is_minus_its_mean_logprob(policy):
    probability = policy.probabilities()
    assert_close(policy.entropy(), -(probability * probability.log()).sum(), **EXACT)


def test_groups_of_two(policy):
    index_MG, probability_M = group_outcomes(policy, size=2)
    assert index_MG.shape == (4096, 2)
    assert_close(probability_M.sum(), torch.tensor(1.0).double(), **EXACT)
    # each member alone is distributed as a single draw
    alone = torch.zeros(64, dtype=torch.float64).index_add(0, index_MG[:, 1], probability_M)
    assert_close(alone, policy.probabilities().detach(), **EXACT)


@pytest.mark.parametrize("baseline", [0.0, 1.7, -30.0])
def test_a_constant_baseline_leaves_reinforce_unbiased(policy, reward_N, baseline):
    logprob_N = policy.logprobs(policy.enumerate()).sum(1)

    def loss(index_MG):
        index_M = index_MG[:, 0]
        return policy_gradient_loss(logprob_N[index_M], reward_N[index_M] - baseline)

    assert_close(-expected_gradient(policy, loss), policy.exact_gradient(reward_N), **EXACT)


def test_a_baseline_may_depend_on_what_came_before_but_not_on_the_token(policy, reward_N):
    trajectory_NT = policy.enumerate()
    logprob_NT = policy.logprobs(trajectory_NT)
    exact = policy.exact_gradient(reward_N)
    value_S = torch.linspace(-2, 3, 21, dtype=torch.float64)
    state_NT = policy.states(trajectory_NT)

    def bias(baseline_NT):
        loss_N = policy_gradient_loss(logprob_NT, reward_N[:, None] - baseline_NT).sum(1)
        return (-expected_gradient(policy, lambda index_MG: loss_N[index_MG[:, 0]]) - exact).norm()

    assert bias(value_S[state_NT]) < 1e-10
    assert bias(trajectory_NT.double()) > 0.1


def test_trajectory_ratios_give_the_right_mean_and_token_ratios_do_not(policy, other, reward_N):
    trajectory_NT = policy.enumerate()
    log_ratio_NT = (policy.logprobs(trajectory_NT) - other.logprobs(trajectory_NT)).detach()
    everywhere = torch.ones_like(log_ratio_NT, dtype=torch.bool)
    sampled = other.probabilities().detach()
    truth = policy.expected_reward(reward_N).detach()

    ratio_N = trajectory_log_ratio(log_ratio_NT, everywhere).exp()
    assert_close((sampled * ratio_N * reward_N).sum(), truth, **EXACT)
    assert_close((sampled * ratio_N).sum(), torch.tensor(1.0).double(), **EXACT)
    token = (sampled * log_ratio_NT.exp().mean(1) * reward_N).sum()
    assert abs(token - truth) > 0.05
    assert abs((sampled * reward_N).sum() - truth) > 0.05


def test_k1_and_k3_give_the_right_kl_and_k2_does_not(policy, other):
    trajectory_NT = policy.enumerate()
    log_ratio_NT = (policy.logprobs(trajectory_NT) - other.logprobs(trajectory_NT)).detach()
    probability = policy.probabilities().detach()
    truth = trajectory_kl(policy, other).detach()
    # the exact KL by the chain rule is the plain sum over trajectories
    assert_close(truth, (probability * log_ratio_NT.sum(1)).sum(), **EXACT)
    for estimate in (kl_k1, kl_k3):
        assert_close((probability * estimate(log_ratio_NT).sum(1)).sum(), truth, **EXACT)
    assert abs((probability * kl_k2(log_ratio_NT).sum(1)).sum() - truth) > 0.01


def test_k2_of_the_whole_trajectory_is_the_gradient_of_the_kl(policy, other):
    trajectory_NT = policy.enumerate()
    exact = torch.autograd.grad(trajectory_kl(policy, other), policy.logits_SV)[0]
    log_ratio_N = (policy.logprobs(trajectory_NT) - other.logprobs(trajectory_NT).detach()).sum(1)

    def expected(estimate):
        loss_N = estimate(log_ratio_N)
        return expected_gradient(policy, lambda index_MG: loss_N[index_MG[:, 0]])

    assert_close(expected(kl_k2), exact, **EXACT)
    assert_close(expected(kl_k1), torch.zeros_like(exact), **EXACT)
    assert (expected(kl_k3) - exact).norm() > 0.1 * exact.norm()


def test_k3_as_a_loss_descends_the_other_kl():
    policy, reference = TabularPolicy(length=1, seed=0), TabularPolicy(length=1, seed=1)
    log_ratio_N = (policy.logprobs(policy.enumerate()) - reference.logprobs(policy.enumerate()).detach())[
        :, 0
    ]
    k3 = expected_gradient(policy, lambda index_MG: kl_k3(log_ratio_N)[index_MG[:, 0]])
    other_way = torch.autograd.grad(trajectory_kl(reference, policy), policy.logits_SV)[0]
    assert_close(k3, other_way, **EXACT)
    assert other_way.norm() > 0.1
