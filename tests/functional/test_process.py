import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from ventaja.functional import discounted_to_go, minimum_to_go, returns_to_go

tensor = torch.tensor
REWARD = tensor([[0.0, 1.0, 0.0, 4.0, 8.0, 0.0]])
IS_STEP = tensor([[False, True, False, True, True, False]])


def test_a_discount_per_step_by_hand():
    # steps end at 1, 3 and 4.  In the first: 1 + 4/2 + 8/4 = 5;  in the second: 4 + 8/2 = 8;  in the third: 8
    found = discounted_to_go(REWARD, IS_STEP, discount=0.5)
    assert_close(found, tensor([[5.0, 5.0, 8.0, 8.0, 8.0, 0.0]]))


def test_a_discount_per_chosen_token_by_hand():
    # token 2 was given: from 3 on 4 + 8/2 = 8, which 2 passes on; at 1: 1 + 8/2 = 5; at 0: 5/2
    chosen = tensor([[True, True, False, True, True, True]])
    found = discounted_to_go(REWARD, chosen, discount=0.5)
    assert_close(found, tensor([[2.5, 5.0, 8.0, 8.0, 8.0, 0.0]]))


@given(data=st.data(), length=st.integers(1, 6), discount=st.sampled_from([0.25, 0.5, 1.0]))
def test_what_discounts_are(data, length, discount):
    reward = tensor(
        data.draw(st.lists(st.lists(st.integers(-4, 4), min_size=length, max_size=length), min_size=1))
    )
    reward = reward.double().view(-1, length)
    everywhere = torch.ones_like(reward, dtype=torch.bool)
    assert_close(
        discounted_to_go(reward, everywhere, discount=discount), returns_to_go(reward, discount=discount)
    )
    assert_close(discounted_to_go(reward, ~everywhere, discount=discount), returns_to_go(reward))


def test_the_least_reward_ahead_by_hand():
    reward = tensor([[0.0, 2.0, 0.0, -1.0, 3.0], [0.0, 1.0, 0.0, 1.0, 0.0], [5.0, 0.0, 0.0, 6.0, 0.0]])
    is_step = tensor([[0, 1, 0, 1, 1], [0, 1, 0, 1, 0], [1, 0, 1, 1, 0]]).bool()
    expected = [[-1.0, -1.0, -1.0, -1.0, 3.0], [1.0, 1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 6.0, 0.0]]
    assert minimum_to_go(reward, is_step).tolist() == expected  # a reward of 0 is one too
    assert minimum_to_go(reward, is_step & False).tolist() == [[0.0] * 5] * 3


@given(rewards=st.lists(st.integers(-2, 2) | st.none(), min_size=1, max_size=8))
def test_it_is_the_minimum(rewards):
    reward = tensor([[float(r or 0) for r in rewards]])
    found = minimum_to_go(reward, tensor([[r is not None for r in rewards]]))[0].tolist()
    for t, least in enumerate(found):
        assert least == min((r for r in rewards[t:] if r is not None), default=0)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_nothing(shape):
    nothing = torch.zeros(shape)
    assert discounted_to_go(nothing, nothing.bool(), discount=0.5).shape == shape
    assert minimum_to_go(nothing, nothing.bool()).shape == shape
