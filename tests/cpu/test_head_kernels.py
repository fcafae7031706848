"""Log-probs and entropy by kernel are those of the textbook's plain way, in value and gradient."""

import pytest
import torch
from tiny import make_policy
from torch import Tensor
from torch.testing import assert_close

from ventaja.cpu import FAST, logprobs
from ventaja.functional import fused_logprobs, token_logprobs
from ventaja.models.head import LogitHead


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1, 15, 103, 1000])
@pytest.mark.parametrize("factor", [1.0, 0.7 / 1.3])
@pytest.mark.parametrize("chunk", [4, 512])
def test_log_probs_and_entropy(
    dtype: torch.dtype, size: int, factor: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_TOKENS", chunk)
    monkeypatch.setattr(logprobs, "WEIGHT_ROWS", 5)  # so that a sum in float32 takes several blocks of words
    hidden, weight = normal(6, 5, dtype=dtype), normal(size, 5, dtype=dtype, seed=1)
    token = torch.arange(6) * 7 % size
    log_p = ((hidden.float() @ weight.float().T) * factor).log_softmax(-1)  # float32 logits in either
    exact = log_p.gather(1, token[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)
    ours = FAST.logprobs(hidden, weight, token, factor=factor, entropy=True)
    textbook = fused_logprobs(hidden, weight, token, scale=factor, entropy=True)
    mix = torch.linspace(-1, 2, 6)
    results = []
    for logprob, entropy in (ours, exact, textbook):
        assert entropy is not None
        gradients = torch.autograd.grad(
            (logprob * mix).sum() + (entropy * mix.flip(0)).sum(), [hidden, weight]
        )
        results.append((logprob, entropy, *gradients))
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.03}
    for other in results[1:]:
        for mine, theirs in zip(results[0][:2], other[:2], strict=True):
            # of words more than EXACT_WITHIN nats below the likeliest, the stored bfloat16 is taken
            assert_close(mine, theirs, rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 5e-4)
        for mine, theirs in zip(results[0][2:], other[2:], strict=True):
            assert mine.dtype == dtype
            assert_close(mine.float(), theirs.float(), **near)


@pytest.mark.parametrize("entropy", [False, True])
def test_bfloat16_hidden_states_have_float32_logits(entropy: bool) -> None:
    # Logits about 20, of which a bfloat16 number keeps steps of 1/8: without float32 sums log-probs are off by 0.1.
    generator = torch.Generator().manual_seed(0)
    tokens, words = 40, 700
    hidden = torch.randn(tokens, 96, generator=generator).bfloat16()
    weight = (torch.randn(words, 96, generator=generator) * 0.6).bfloat16()
    ids = (hidden.float() @ weight.float().t() + torch.randn(tokens, words, generator=generator)).argmax(1)
    logprob, spread = FAST.logprobs(hidden, weight, ids, factor=1.0, entropy=entropy)
    exact, exact_spread = fused_logprobs(hidden.float(), weight.float(), ids, entropy=entropy)
    rounded = token_logprobs((hidden @ weight.t()).float(), ids)
    assert (rounded - exact).abs().max() > 0.05
    assert (logprob - exact).abs().max() < 2e-3
    if spread is not None and exact_spread is not None:
        assert (spread - exact_spread).abs().max() < 5e-3


def test_bfloat16_states_over_a_float32_weight_give_a_float32_gradient() -> None:
    hidden, weight, ids = normal(9, 5, dtype=torch.bfloat16), normal(13, 5, seed=1), torch.arange(9)
    logprob, _ = FAST.logprobs(hidden, weight, ids, factor=1.0, entropy=False)
    d_hidden, d_weight = torch.autograd.grad(logprob.sum(), [hidden, weight])
    assert (d_hidden.dtype, d_weight.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("wrong", [-100, -1, 13])
def test_a_token_that_is_not_in_the_vocabulary_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="token ids must be from 0 to 12, got"):
        FAST.logprobs(normal(2, 5), normal(13, 5), torch.tensor([0, wrong]), factor=1.0, entropy=False)


def test_no_tokens() -> None:
    weight = normal(13, 5)
    logprob, entropy = FAST.logprobs(
        normal(0, 5), weight, torch.zeros(0, dtype=torch.long), factor=1.0, entropy=True
    )
    assert entropy is not None
    assert logprob.shape == entropy.shape == (0,)
    assert_close(torch.autograd.grad(logprob.sum(), weight)[0], torch.zeros(13, 5))


def test_heads_that_kernels_do_not_know_go_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(type(FAST), "logprobs", refuse)
    hidden, ids = torch.zeros(3, 4), torch.arange(3)
    for head in (
        LogitHead(torch.nn.Linear(4, 7, bias=True), cpu=FAST),
        LogitHead(torch.nn.Linear(4, 7, bias=False), softcap=3.0, cpu=FAST),
    ):
        assert head.logprobs(hidden, ids)[0].shape == (3,)
    fast = make_policy("llama").head
    with pytest.raises(AssertionError, match="asked"):
        fast.logprobs(torch.zeros(3, 32), ids)
