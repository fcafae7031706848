import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from ventaja.functional import fixed_length, position_ramp, sequence_mean, sequence_sum, token_mean

tensor = torch.tensor
WEIGHTS = [sequence_sum, sequence_mean, token_mean, lambda m: fixed_length(m, length=7)]
BATCH = tensor([[True, False, True], [False, False, False], [False, True, False]])
PER_TOKEN = tensor([[3.0, 100.0, 5.0], [100.0, 100.0, 100.0], [100.0, 10.0, 100.0]])


def test_weights_by_hand():
    def total(weight):
        return (PER_TOKEN * weight).sum()

    # two sequences have actions: 3 and 5, and 10
    assert_close(total(sequence_sum(BATCH)), tensor((8 + 10) / 2))
    assert_close(total(sequence_mean(BATCH)), tensor((8 / 2 + 10) / 2))
    assert_close(total(token_mean(BATCH)), tensor((8 + 10) / 3))
    assert_close(total(fixed_length(BATCH, length=4)), tensor((8 / 4 + 10 / 4) / 2))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_weights_off_the_actions_are_zero(weight):
    assert weight(BATCH).dtype == torch.float32
    assert (weight(BATCH)[~BATCH] == 0).all()
    assert (weight(BATCH)[BATCH] > 0).all()
    assert torch.equal(weight(torch.zeros(2, 3, dtype=torch.bool)), torch.zeros(2, 3))


def test_a_fixed_length_of_zero_is_refused():
    with pytest.raises(ValueError, match="length must be above 0"):
        fixed_length(BATCH, length=0)


@st.composite
def batches(draw):
    rows, steps = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    is_action = torch.rand(rows, steps, generator=generator) < 0.6
    return torch.randn(rows, steps, generator=generator).double(), is_action


@given(batches(), st.integers(1, 4))
def test_padding_changes_nothing(batch, width):
    loss, is_action = batch
    padded = torch.cat([loss, torch.full((len(loss), width), 1e6).double()], 1)
    padded_action = torch.cat([is_action, torch.zeros(len(loss), width, dtype=torch.bool)], 1)
    for weight in WEIGHTS:
        assert_close((padded * weight(padded_action)).sum(), (loss * weight(is_action)).sum())


@given(batches(), st.integers(1, 6))
def test_cutting_into_micro_batches_changes_nothing(batch, size):
    loss, is_action = batch
    for weight in WEIGHTS:
        weights = weight(is_action)
        pieces = zip(loss.split(size), weights.split(size), strict=True)
        assert_close(sum((x * w).sum() for x, w in pieces), (loss * weights).sum())


@given(batches())
def test_a_loss_of_one_everywhere_weighs_as_it_should(batch):
    _, is_action = batch
    length = is_action.sum(1)[is_action.any(1)].float()
    if length.numel():
        assert_close(sequence_mean(is_action).sum(), tensor(1.0))
        assert_close(token_mean(is_action).sum(), tensor(1.0))
        assert_close(sequence_sum(is_action).sum(), length.mean())
        assert_close(fixed_length(is_action, length=7).sum(), length.mean() / 7)


def test_the_first_tokens_may_count_less():
    # from 0.2 at the first to 1 at the fifth, in steps of 0.2; given tokens (the third) do not count along
    action = tensor([[True, True, False, True, True, True, True], [True] + [False] * 6])
    got = position_ramp(action, start=0.2, tokens=4)
    assert_close(got, tensor([[0.2, 0.4, 0.0, 0.6, 0.8, 1.0, 1.0], [0.2] + [0.0] * 6]))
    assert_close(position_ramp(action, start=1.0, tokens=4), action.float())
