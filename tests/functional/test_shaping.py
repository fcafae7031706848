import pytest
import torch
from torch.testing import assert_close

from ventaja.functional import soft_overlong_punishment


def test_soft_overlong_punishment_by_hand():
    # L_max = 20, L_cache = 5: nothing up to 15, then a fifth more per token, and never more than 1
    length = torch.tensor([1, 15, 16, 18, 20, 30])
    expected = torch.tensor([0.0, 0.0, -0.2, -0.6, -1.0, -1.0])
    assert_close(soft_overlong_punishment(length, max_length=20, buffer=5), expected)


def test_a_buffer_of_all_lengths_punishes_in_proportion():
    length = torch.arange(0, 9)
    assert_close(soft_overlong_punishment(length, max_length=8, buffer=8), -length / 8)


@pytest.mark.parametrize("buffer", [0, -1, 21])
def test_a_buffer_that_cannot_be_meant(buffer):
    with pytest.raises(ValueError, match="buffer must be from 1 to max_length"):
        soft_overlong_punishment(torch.tensor([3]), max_length=20, buffer=buffer)
