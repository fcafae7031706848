import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from ventaja.functional import (
    batch_centred,
    gae,
    gae_over_actions,
    group_centred,
    group_standardised,
    leave_one_out,
    length_adaptive_lambda,
    rescale,
    returns_to_go,
    td_advantage,
    whiten,
)

tensor = torch.tensor
GROUPED = [group_centred, group_standardised, leave_one_out]
BATCHED = [batch_centred, whiten, rescale]
grouped = pytest.mark.parametrize("advantage", GROUPED)


@st.composite
def rewards(draw, min_rows=1, min_columns=2):
    rows = draw(st.integers(min_rows, 4))
    columns = draw(st.integers(min_columns, 6))
    # quarters, so that a spread is either 0 or far above eps
    values = st.integers(-20, 20).map(lambda x: x / 4)
    table = draw(st.lists(st.lists(values, min_size=columns, max_size=columns), min_size=rows, max_size=rows))
    return tensor(table, dtype=torch.float64)


def test_returns_by_hand():
    # γ = 1/2: 4, 2 + 4/2 = 4, 1 + 4/2 = 3
    assert_close(returns_to_go(tensor([[1.0, 2.0, 4.0]]), discount=0.5), tensor([[3.0, 4.0, 4.0]]))
    # γ = 1: 4, 2 + 4, 1 + 2 + 4
    assert_close(returns_to_go(tensor([[1.0, 2.0, 4.0]])), tensor([[7.0, 6.0, 4.0]]))
    assert returns_to_go(torch.zeros(2, 0), discount=0.5).shape == (2, 0)


def test_td_by_hand():
    # 1 + 0.5·20 − 10 = 1;  2 + 0·30 − 20 = −18
    got = td_advantage(tensor([[1.0, 2.0]]), tensor([[10.0, 20.0, 30.0]]), tensor([[0.5, 0.0]]))
    assert_close(got, tensor([[1.0, -18.0]]))


def test_gae_by_hand():
    # δ = [0 + 1·2 − 1, 0 + 1·1 − 2, 3 + 0 − 1] = [1, −1, 2];  λ = 1/2
    # Â_2 = 2;  Â_1 = −1 + 2/2 = 0;  Â_0 = 1 + 0/2 = 1
    got = gae(
        tensor([[0.0, 0.0, 3.0]]), tensor([[1.0, 2.0, 1.0, 9.0]]), tensor([[1.0, 1.0, 0.0]]), lambda_=0.5
    )
    assert_close(got, tensor([[1.0, 0.0, 2.0]]))


@st.composite
def trajectories(draw):
    reward = draw(rewards(min_columns=1))
    rows, steps = reward.shape
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    value = torch.randn(rows, steps + 1, generator=generator, dtype=torch.float64)
    ending = torch.rand(rows, steps, generator=generator) < 0.3
    discount = torch.full_like(reward, 0.9).masked_fill(ending, 0.0)
    return reward, value, discount


@given(trajectories())
def test_gae_with_lambda_zero_is_the_temporal_difference(trajectory):
    assert_close(gae(*trajectory, lambda_=0.0), td_advantage(*trajectory), rtol=0, atol=0)


@given(rewards(min_columns=1), st.integers(0, 1000))
def test_gae_with_lambda_one_is_the_return_minus_the_value(reward, seed):
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(reward.shape[0], reward.shape[1] + 1, generator=generator, dtype=torch.float64)
    discount = torch.full_like(reward, 0.9)
    discount[:, -1] = 0.0
    got = gae(reward, value, discount, lambda_=1.0)
    assert_close(got, returns_to_go(reward, discount=0.9) - value[:, :-1])


def test_an_ending_in_mid_row_lets_nothing_through():
    generator = torch.Generator().manual_seed(0)
    reward = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    value = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    discount = torch.full_like(reward, 0.9)
    discount[:, 2] = 0.0
    whole = gae(reward, value, discount, lambda_=0.8)
    assert_close(whole[:, :3], gae(reward[:, :3], value[:, :4], discount[:, :3], lambda_=0.8))
    assert_close(whole[:, 3:], gae(reward[:, 3:], value[:, 3:], discount[:, 3:], lambda_=0.8))
    # and with the discount kept the first episode does hear of the second
    leaking = gae(reward, value, torch.full_like(reward, 0.9), lambda_=0.8)
    assert (leaking[:, :3] - whole[:, :3]).abs().min() > 1e-3


def test_a_truncation_bootstraps_and_an_ending_does_not():
    reward, value = tensor([[0.0, 0.0]]), tensor([[0.0, 0.0, 10.0]])
    # truncated: Â_1 = 0 + 0.9·10 = 9, Â_0 = 0 + 0.9·1·9 = 8.1
    cut = gae(reward, value, tensor([[0.9, 0.9]]), lambda_=1.0)
    assert_close(cut, tensor([[8.1, 9.0]]))
    # ended: the value after the end is not read
    ended = gae(reward, value, tensor([[0.9, 0.0]]), lambda_=1.0)
    assert_close(ended, tensor([[0.0, 0.0]]))


def test_group_advantages_by_hand():
    reward = tensor([[1.0, 0.0, 0.0, 0.0]])
    # the mean is 1/4
    assert_close(group_centred(reward), tensor([[0.75, -0.25, -0.25, -0.25]]))
    # the sum of squares is 9/16 + 3/16 = 3/4; over n − 1 = 3 the variance is 1/4, the deviation 1/2
    assert_close(group_standardised(reward, eps=0.0), tensor([[1.5, -0.5, -0.5, -0.5]]))
    assert_close(group_standardised(reward, eps=0.5), tensor([[0.75, -0.25, -0.25, -0.25]]))
    # the others' means are 0, 1/3, 1/3, 1/3
    assert_close(leave_one_out(reward), tensor([[1.0, -1 / 3, -1 / 3, -1 / 3]]))


def test_batch_advantages_by_hand():
    x = tensor([[1.0, 2.0], [3.0, 6.0]])
    # mean 3; squares 4 + 1 + 0 + 9 = 14; variance 14/3
    std = math.sqrt(14 / 3)
    assert_close(batch_centred(x), tensor([[-2.0, -1.0], [0.0, 3.0]]))
    assert_close(whiten(x, eps=0.0), tensor([[-2.0, -1.0], [0.0, 3.0]]) / std)
    assert_close(rescale(x, eps=0.0), x / std)
    assert_close(rescale(x, eps=1.0), x / (std + 1))


@grouped
def test_a_missing_reward_takes_no_part(advantage):
    # the broken reward is in the middle, so a mask that shifts by one would show
    reward = tensor([[1.0, torch.nan, 0.0, 0.5], [2.0, 3.0, 3.0, 4.0]])
    is_valid = tensor([[True, False, True, True], [True, True, True, True]])
    got = advantage(reward, is_valid=is_valid)
    assert_close(got[0, [0, 2, 3]], advantage(tensor([[1.0, 0.0, 0.5]]))[0])
    assert got[0, 1] == 0
    assert_close(got[1], advantage(reward[1:])[0])


@pytest.mark.parametrize("advantage", BATCHED)
def test_a_missing_value_takes_no_part_in_a_batch(advantage):
    x = tensor([[1.0, torch.nan], [3.0, 6.0]])
    got = advantage(x, is_valid=tensor([[True, False], [True, True]]))
    assert_close(got.flatten()[[0, 2, 3]], advantage(tensor([1.0, 3.0, 6.0])))
    assert got[0, 1] == 0


@grouped
def test_a_row_with_one_reward_or_none_gets_zero(advantage):
    reward = tensor([[5.0, 7.0], [5.0, 7.0]])
    got = advantage(reward, is_valid=tensor([[True, False], [False, False]]))
    assert torch.equal(got, torch.zeros(2, 2))


@pytest.mark.parametrize("advantage", [group_standardised, leave_one_out])
def test_a_group_of_one_is_an_error(advantage):
    with pytest.raises(ValueError, match="at least 2 per prompt"):
        advantage(tensor([[1.0], [2.0]]))


def test_a_group_of_one_is_its_own_mean():
    assert torch.equal(group_centred(tensor([[3.0]])), tensor([[0.0]]))
    assert torch.equal(whiten(tensor([3.0])), tensor([0.0]))


@pytest.mark.parametrize("advantage", [*GROUPED, batch_centred, whiten])
@pytest.mark.parametrize("value", [0.1, 1e-3, 12345.678])
def test_a_constant_group_gets_exactly_zero(advantage, value):
    # 0.1 + 0.1 + 0.1 is not 3 · 0.1 in float32, and a tiny remainder over eps would be a large advantage
    assert torch.equal(advantage(torch.full((2, 7), value)), torch.zeros(2, 7))


def test_rescale_leaves_what_has_no_spread():
    assert torch.equal(rescale(torch.full((3,), 2.0)), torch.full((3,), 2.0))


@given(rewards())
def test_a_constant_bonus_changes_nothing(reward):
    for advantage in [*GROUPED, batch_centred, whiten]:
        assert_close(advantage(reward + 3), advantage(reward))


@given(rewards(), st.randoms(use_true_random=False))
def test_the_order_of_a_group_changes_nothing(reward, random):
    order = list(range(reward.shape[1]))
    random.shuffle(order)
    for advantage in GROUPED:
        assert_close(advantage(reward[:, order]), advantage(reward)[:, order])


@given(rewards())
def test_groups_do_not_hear_of_each_other(reward):
    for advantage in GROUPED:
        alone = torch.cat([advantage(row[None]) for row in reward])
        assert_close(advantage(reward), alone)


@given(rewards())
def test_leave_one_out_is_the_centred_group_scaled(reward):
    size = reward.shape[1]
    others = (reward.sum(1, keepdim=True) - reward) / (size - 1)
    assert_close(leave_one_out(reward), reward - others)
    assert_close(leave_one_out(reward), group_centred(reward) * size / (size - 1))


@given(rewards())
def test_standardised_groups_are_torch_std(reward):
    expected = (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-6)
    assert_close(group_standardised(reward), expected)
    assert_close(whiten(reward), (reward - reward.mean()) / (reward.std() + 1e-6))


# Over the chosen tokens -------------------------------------------------------------------------------------


def numpy_gae(reward, value, end_value, is_action, discount, lambda_):
    """Independent of ours: a list of chosen tokens, and the sum of eq. 16 written out, Σ_l (γλ)^l δ_{k+l}."""
    at = [t for t, chosen in enumerate(is_action) if chosen]
    rewards = [
        sum(reward[t] for t in range(at[k], at[k + 1] if k + 1 < len(at) else len(reward)))
        for k in range(len(at))
    ]
    values = [value[t] for t in at] + [end_value]
    delta = [rewards[k] + discount * values[k + 1] - values[k] for k in range(len(at))]
    result = np.zeros(len(reward))
    for k, t in enumerate(at):
        result[t] = sum((discount * lambda_) ** (i - k) * delta[i] for i in range(k, len(at)))
    return result


def test_given_tokens_are_outside_the_recursion():
    # 2 chosen, 50 given, 2 chosen; V = 0.5 everywhere, 1 at the end: δ = 0, 0, 0, 0.5
    is_action = tensor([[True] * 2 + [False] * 50 + [True] * 2])
    reward = torch.zeros(1, 54)
    reward[0, -1] = 1.0
    got = gae_over_actions(reward, torch.full((1, 54), 0.5), torch.zeros(1), is_action, lambda_=0.95)
    assert got[0, 0].item() == pytest.approx(
        0.95**3 * 0.5
    )  # +0.43, and not 0.95^53 · 0.5 less what given tokens cost
    assert_close(got[0, [0, 1, 52, 53]], 0.5 * tensor([0.95**3, 0.95**2, 0.95, 1.0]))
    assert not got[0, 2:52].any()


def test_what_is_said_of_given_tokens_changes_nothing():
    is_action = tensor([[False, True, False, True, False]])
    reward, value, end = (
        tensor([[9.0, 1.0, 0.5, 0.0, 2.0]]),
        tensor([[0.3, -0.2, 0.7, 0.4, 0.1]]),
        tensor([0.25]),
    )
    got = gae_over_actions(reward, value, end, is_action, discount=0.9, lambda_=0.5)
    noisy = value.where(is_action, torch.nan)
    assert_close(gae_over_actions(reward, noisy, end, is_action, discount=0.9, lambda_=0.5), got)
    # 1 + 0.5 at the first chosen, 0 + 2 (behind it, given) at the second; 9 came before any choice
    last = 2.0 + 0.9 * 0.25 - value[0, 3]
    first = 1.5 + 0.9 * value[0, 3] - value[0, 1] + 0.9 * 0.5 * last
    assert_close(got[0, [1, 3]], torch.stack([first, last]))


def test_an_ending_stops_and_a_truncation_bootstraps():
    reward, value, action = tensor([[0.0, 1.0]]), tensor([[0.5, 0.25]]), tensor([[True, True]])
    ended = gae_over_actions(reward, value, tensor([0.0]), action, lambda_=1.0)
    assert_close(ended, tensor([[0.5, 0.75]]))  # 1 − 0.5, 1 − 0.25
    cut = gae_over_actions(reward, value, tensor([0.75]), action, lambda_=1.0)
    assert_close(cut, tensor([[1.25, 1.5]]))  # 1 + 0.75 less the same


@st.composite
def episodes(draw):
    B, T = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    reward, value = (torch.randn(B, T, generator=generator, dtype=torch.float64) for _ in range(2))
    is_action = torch.rand(B, T, generator=generator) < draw(st.sampled_from([0.3, 0.7, 1.0]))
    end = torch.randn(B, generator=generator, dtype=torch.float64)
    end = end.where(torch.rand(B, generator=generator) < 0.5, 0.0)
    return reward, value, end, is_action


@given(episodes(), st.sampled_from([1.0, 0.9, 0.0]), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_gae_over_actions_is_what_numpy_says(episode, discount, lambda_):
    got = gae_over_actions(*episode, discount=discount, lambda_=lambda_)
    reward, value, end, is_action = (x.numpy() for x in episode)
    for b in range(len(reward)):
        expected = numpy_gae(reward[b], value[b], end[b], is_action[b], discount, lambda_)
        np.testing.assert_allclose(got[b].numpy(), expected, rtol=1e-5, atol=1e-5)


@given(episodes())
def test_over_actions_lambda_one_is_returns_to_go_less_the_value(episode):
    reward, value, end, is_action = episode
    got = gae_over_actions(*episode, lambda_=1.0)
    expected = (returns_to_go(reward) + end[:, None] - value).where(is_action, 0.0)
    assert_close(got, expected)


@given(episodes())
def test_where_everything_was_chosen_it_is_gae(episode):
    reward, value, end, _ = episode
    everywhere = torch.ones_like(reward, dtype=torch.bool)
    discount = torch.full_like(reward, 0.9)
    value1 = torch.cat([value, end[:, None]], dim=1)
    got = gae_over_actions(reward, value, end, everywhere, discount=0.9, lambda_=0.7)
    assert_close(got, gae(reward, value1, discount, lambda_=0.7))
    assert_close(
        gae_over_actions(reward, value, end, everywhere, discount=0.9, lambda_=0.0),
        td_advantage(reward, value1, discount),
    )


def test_gae_over_steps_by_hand():
    # two steps of two tokens, γ = 0.5 and λ = 0.8 each; rewards 1 and 2 at their ends; V = 0.1, 0.2, 0.3, 0.4, then 0
    reward, value = tensor([[0.0, 1.0, 0.0, 2.0]]), tensor([[0.1, 0.2, 0.3, 0.4]])
    ends = tensor([[False, True, False, True]])
    got = gae_over_actions(
        reward, value, torch.zeros(1), torch.ones_like(ends), counts_BT=ends, discount=0.5, lambda_=0.8
    )
    # the second step: 2 − 0.3 and 2 − 0.4; the first: 1 + 0.5·0.3 + 0.5·0.8·1.7, less 0.1 and less 0.2
    first = 1 + 0.5 * 0.3 + 0.5 * 0.8 * 1.7
    assert_close(got, tensor([[first - 0.1, first - 0.2, 1.7, 1.6]]))


@given(episodes(), st.sampled_from([1.0, 0.9]), st.sampled_from([0.0, 0.5, 1.0]))
def test_where_every_choice_is_a_step_it_is_gae_over_tokens(episode, discount, lambda_):
    how = {"discount": discount, "lambda_": lambda_}
    assert_close(gae_over_actions(*episode, counts_BT=episode[3], **how), gae_over_actions(*episode, **how))


def test_lambda_by_length():
    # 1 − 1/(0.05 · l):  l = 20 gives 0, 40 a half, 400 0.95, 1000 0.98
    length = tensor([1, 20, 40, 400, 1000])
    assert_close(length_adaptive_lambda(length, alpha=0.05, lowest=0.0), tensor([0.0, 0.0, 0.5, 0.95, 0.98]))
    # short answers keep the λ that is set: they would learn from the next token's value alone
    got = length_adaptive_lambda(length, alpha=0.05, lowest=0.95)
    assert_close(got, tensor([0.95, 0.95, 0.95, 0.95, 0.98]))
    with pytest.raises(ValueError, match="alpha must be above 0"):
        length_adaptive_lambda(length, alpha=0.0, lowest=0.9)


def test_each_sequence_may_have_its_own_lambda():
    reward, value = torch.randn(2, 5), torch.randn(2, 5)
    end, action = torch.zeros(2), torch.ones(2, 5, dtype=torch.bool)
    both = gae_over_actions(reward, value, end, action, lambda_=tensor([0.0, 0.9]))
    assert_close(both[:1], gae_over_actions(reward[:1], value[:1], end[:1], action[:1], lambda_=0.0))
    assert_close(both[1:], gae_over_actions(reward[1:], value[1:], end[1:], action[1:], lambda_=0.9))


def test_no_tokens_at_all():
    nothing = torch.zeros(2, 0)
    assert gae_over_actions(nothing, nothing, torch.zeros(2), nothing.bool(), lambda_=1.0).shape == (2, 0)
