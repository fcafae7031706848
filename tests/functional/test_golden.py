"""Numbers that were worked out elsewhere, reproduced through the library's own functions."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ventaja.functional import (
    clipped_surrogate_loss,
    policy_gradient_loss,
    sequence_sum,
    token_logprobs,
    token_mean,
    trajectory_log_ratio,
)

STATES = torch.eye(3)
TOKENS = torch.tensor([2, 1, 4])
ADVANTAGE = torch.full((3,), 0.4)
EVERY_TOKEN = torch.ones(1, 3, dtype=torch.bool)


def linear_policy():
    torch.manual_seed(0)
    policy = torch.nn.Linear(3, 5, bias=False)
    with torch.no_grad():
        policy.weight.copy_(0.1 * torch.randn(5, 3))
    return policy


def logprobs(policy):
    return token_logprobs(policy(STATES), TOKENS)


def one_step(policy, loss):
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.5)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return logprobs(policy).detach()


def four_decimals(x, expected):
    assert_close(x, torch.tensor(expected), atol=5.1e-5, rtol=0)


def test_one_step_of_reinforce():
    policy = linear_policy()
    before = logprobs(policy)
    four_decimals(before, [-1.7502, -1.5884, -1.6374])
    # e^−1.7502 = 0.1737, e^−1.5884 = 0.2043, e^−1.6374 = 0.1945
    four_decimals(before.exp(), [0.1737, 0.2043, 0.1945])

    # 0.4 · (1.7502 + 1.5884 + 1.6374) = 0.4 · 4.9760 = 1.9904
    loss = (policy_gradient_loss(before, ADVANTAGE) * sequence_sum(EVERY_TOKEN)[0]).sum()
    four_decimals(loss, 1.9904)

    # One-hot states give every position its own logits. A step of 0.5 adds 0.5 · 0.4 · (onehot − p) to them.
    # First position: log p rises by about 0.2 · (1 − 0.1737) = 0.165, less a little as the total rises.
    four_decimals(one_step(policy, loss).exp(), [0.2055, 0.2386, 0.2280])


def test_one_step_of_ppo():
    policy = linear_policy()
    before = logprobs(policy)
    log_ratio = before - before.detach()
    per_token = clipped_surrogate_loss(log_ratio, ADVANTAGE, clip_low=0.2, clip_high=0.2)

    # every ratio is 1: −(0.4 + 0.4 + 0.4) / 3 = −0.4
    loss = (per_token * token_mean(EVERY_TOKEN)[0]).sum()
    four_decimals(loss, -0.4)

    # a third of REINFORCE's step, for the mean over 3 tokens
    after = one_step(policy, loss)
    four_decimals(after.exp(), [0.1839, 0.2153, 0.2052])
    # 0.1839 / 0.1737 = 1.058, 0.2153 / 0.2043 = 1.054, 0.2052 / 0.1945 = 1.055: all inside 1 ± 0.2
    four_decimals((after - before.detach()).exp(), [1.0583, 1.0540, 1.0552])


def test_at_ratio_one_ppo_and_reinforce_have_the_same_gradient():
    def gradient(loss_of):
        policy = linear_policy()
        logprob = logprobs(policy)
        (loss_of(logprob) * token_mean(EVERY_TOKEN)[0]).sum().backward()
        return policy.weight.grad

    ppo = gradient(
        lambda logprob: clipped_surrogate_loss(
            logprob - logprob.detach(), ADVANTAGE, clip_low=0.2, clip_high=0.2
        )
    )
    reinforce = gradient(lambda logprob: policy_gradient_loss(logprob, ADVANTAGE))
    assert reinforce.abs().max() > 0.05
    assert_close(ppo, reinforce)


def test_two_outcomes_sampled_from_the_wrong_distribution():
    p, q, f = (torch.tensor(x) for x in ([0.2, 0.8], [0.6, 0.4], [10.0, 0.0]))
    log_ratio = p.log() - q.log()
    # E_p[f] = 0.2 · 10 + 0.8 · 0 = 2, while E_q[f] = 0.6 · 10 + 0.4 · 0 = 6
    assert_close((p * f).sum(), torch.tensor(2.0))
    assert_close((q * f).sum(), torch.tensor(6.0))
    # E_q[r f] = 0.6 · (0.2 / 0.6) · 10 = 2
    weight = trajectory_log_ratio(log_ratio[:, None], torch.ones(2, 1, dtype=torch.bool)).exp()
    assert_close((q * weight * f).sum(), torch.tensor(2.0))

    sample = torch.multinomial(q, 20_000, replacement=True, generator=torch.Generator().manual_seed(0))
    # the standard errors are 10 · √(0.6 · 0.4 / 20000) = 0.035 and a third of it, 0.012
    assert f[sample].mean().item() == pytest.approx(6, abs=0.14)
    assert (weight * f)[sample].mean().item() == pytest.approx(2, abs=0.05)


def test_trajectory_and_token_ratios_over_ten_steps():
    steps, samples = 10, 16
    old_a = np.where(np.arange(steps) % 2 == 0, 0.8, 0.3)
    new_a = np.where(np.arange(steps) % 2 == 0, 0.5, 0.6)
    advantage_T = torch.tensor([1.0, -0.5] * (steps // 2), dtype=torch.float64)

    rng = np.random.default_rng(0)
    is_a = [[rng.choice(["A", "B"], p=[a, 1 - a]) == "A" for a in old_a] for _ in range(samples)]
    is_a_NT = torch.tensor(is_a)

    def chosen(prob_a):
        prob_a = torch.from_numpy(prob_a)
        return torch.where(is_a_NT, prob_a, 1 - prob_a).log()

    log_ratio_NT = chosen(new_a) - chosen(old_a)
    everywhere = torch.ones(samples, steps, dtype=torch.bool)

    # The advantage of a step does not depend on the token: the truth is 5 · 1 − 5 · 0.5 = 2.5.
    truth = advantage_T.sum()
    assert truth.item() == 2.5
    # mean over the samples of Π_t r_t · Σ_t Â_t
    trajectory = (trajectory_log_ratio(log_ratio_NT, everywhere).exp() * truth).mean()
    assert trajectory.item() == pytest.approx(6.23579417360512, rel=0, abs=1e-12)
    # mean over the samples of Σ_t r_t Â_t, the surrogate with the clip out of reach
    surrogate_NT = -clipped_surrogate_loss(log_ratio_NT, advantage_T, clip_low=1.0, clip_high=9.0)
    token = (surrogate_NT * sequence_sum(everywhere)).sum()
    assert token.item() == pytest.approx(3.247767857142857, rel=0, abs=1e-12)
