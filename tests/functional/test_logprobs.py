import math

import pytest
import torch
from torch.testing import assert_close

from ventaja.functional import token_entropy, token_logprobs

# softmax of log 1, log 2, log 5 is 1/8, 2/8, 5/8
LOGITS = torch.tensor([1.0, 2.0, 5.0]).log()


def test_logprobs_by_hand():
    logprob = token_logprobs(LOGITS.expand(3, 3), torch.tensor([0, 1, 2]))
    assert_close(logprob, torch.tensor([1 / 8, 2 / 8, 5 / 8]).log())


def test_temperature_by_hand():
    # at temperature 1/2 the odds are squared: 1, 4, 25 of 30
    logprob = token_logprobs(LOGITS.expand(3, 3), torch.tensor([0, 1, 2]), temperature=0.5)
    assert_close(logprob, torch.tensor([1 / 30, 4 / 30, 25 / 30]).log())
    expected = -sum(p * math.log(p) for p in (1 / 30, 4 / 30, 25 / 30))
    assert_close(token_entropy(LOGITS, temperature=0.5), torch.tensor(expected))


def test_entropy_by_hand():
    # four equal tokens: log 4; one certain token: 0
    assert_close(token_entropy(torch.full((2, 4), 7.0)), torch.full((2,), math.log(4)))
    assert_close(token_entropy(torch.tensor([0.0, 200.0])), torch.tensor(0.0))


def test_entropy_is_the_mean_of_minus_logprob():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    all_tokens = torch.arange(7).expand(5, 7)
    logp = token_logprobs(logits[:, None].expand(5, 7, 7), all_tokens)
    assert_close(logp.exp().sum(1), torch.ones(5, dtype=torch.float64))
    assert_close(token_entropy(logits), -(logp.exp() * logp).sum(1))


def test_a_forbidden_token_adds_nothing_to_value_or_gradient():
    logits = torch.tensor([0.0, 0.0, -torch.inf], requires_grad=True)
    entropy = token_entropy(logits)
    # two equal tokens are left
    assert_close(entropy, torch.tensor(math.log(2)))
    entropy.backward()
    assert_close(logits.grad, torch.zeros(3))


def test_bfloat16_logits_are_read_in_float32():
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    ids = torch.tensor([0, 1, 2, 3])
    logprob = token_logprobs(logits, ids)
    assert logprob.dtype == torch.float32
    assert_close(logprob, token_logprobs(logits.double(), ids).float(), rtol=1e-6, atol=1e-6)
    assert_close(token_entropy(logits), token_entropy(logits.double()).float(), rtol=1e-6, atol=1e-6)


def test_temperature_zero_is_refused():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        token_logprobs(LOGITS, torch.tensor(0), temperature=0.0)
