import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ventaja.functional import fused as fused_module
from ventaja.functional import fused_kl, fused_logprobs, kl_exact, token_entropy, token_logprobs

N, D, R, V = 9, 5, 3, 13
HEADS = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "everything": {"temperature": 0.7, "softcap": 2.0, "scale": 1.3},
}
heads = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)


def tensors(dtype, *, n=N, d=D, v=V, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    hidden, weight, bias = normal(n, d), normal(v, d), normal(v)
    ids = torch.randint(v, (n,), generator=generator)
    reference = normal(n, R), normal(v, R), normal(v)
    return [x.requires_grad_() for x in (hidden, weight, bias)], ids, reference


def plain_logits(hidden, weight, bias, *, temperature=1.0, softcap=None, scale=1.0):
    x = scale * (hidden @ weight.t() + bias)
    return (x if softcap is None else softcap * torch.tanh(x / softcap)) / temperature


def gradients(loss, inputs):
    return torch.autograd.grad(loss, inputs)


@heads
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk_tokens", [1, 4, 512])
def test_logprob_and_entropy_equal_the_plain_path(head, dtype, chunk_tokens):
    inputs, ids, _ = tensors(dtype)
    hidden, weight, bias = inputs
    logits = plain_logits(*inputs, **head)
    wanted = token_logprobs(logits, ids), token_entropy(logits)
    got = fused_logprobs(hidden, weight, ids, bias_V=bias, entropy=True, chunk_tokens=chunk_tokens, **head)
    assert_close(got, wanted)

    # a different weight per token, so that no gradient can be right by symmetry
    pull = torch.linspace(-1, 2, N, dtype=dtype)
    loss, plain_loss = ((x[0] * pull + x[1] * pull.flip(0)).sum() for x in (got, wanted))
    assert_close(gradients(loss, inputs), gradients(plain_loss, inputs))


@heads
@pytest.mark.parametrize("chunk_tokens", [4, 512])
def test_kl_equals_the_plain_path(head, chunk_tokens):
    inputs, _, (ref_hidden, ref_weight, ref_bias) = tensors(torch.float32)
    hidden, weight, bias = inputs
    wanted = kl_exact(plain_logits(*inputs, **head), plain_logits(ref_hidden, ref_weight, ref_bias, **head))
    got = fused_kl(
        hidden,
        weight,
        ref_hidden,
        ref_weight,
        bias_V=bias,
        ref_bias_V=ref_bias,
        chunk_tokens=chunk_tokens,
        **head,
    )
    assert_close(got, wanted)
    pull = torch.linspace(-1, 2, N)
    assert_close(gradients((got * pull).sum(), inputs), gradients((wanted * pull).sum(), inputs))


@heads
def test_gradients_by_finite_differences(head):
    (hidden, weight, bias), ids, (ref_hidden, ref_weight, _) = tensors(torch.float64, n=4, v=6)

    def logprob_and_entropy(h, w, b):
        return fused_logprobs(h, w, ids, bias_V=b, entropy=True, chunk_tokens=3, **head)

    def logprob(h, w):
        return fused_logprobs(h, w, ids, chunk_tokens=3, **head)[0]

    def kl(h, w, b):
        return fused_kl(h, w, ref_hidden, ref_weight, bias_V=b, chunk_tokens=3, **head)

    assert gradcheck(logprob_and_entropy, (hidden, weight, bias))
    assert gradcheck(logprob, (hidden, weight))
    assert gradcheck(kl, (hidden, weight, bias))


def test_only_the_entropy_may_be_used():
    (hidden, weight, bias), ids, _ = tensors(torch.float64)
    _, entropy = fused_logprobs(hidden, weight, ids, bias_V=bias, entropy=True)
    plain = token_entropy(plain_logits(hidden, weight, bias))
    inputs = (hidden, weight, bias)
    assert_close(gradients(entropy.sum(), inputs), gradients(plain.sum(), inputs))


def test_rows_that_fit_in_the_cache_change_nothing(monkeypatch):
    (hidden, weight, _), ids, _ = tensors(torch.bfloat16)

    def run():
        logprob, entropy = fused_logprobs(hidden, weight, ids, entropy=True)
        return logprob, entropy, *gradients(logprob.sum() + entropy.sum(), (hidden, weight))

    wide = run()
    monkeypatch.setattr(fused_module, "CACHE_ELEMENTS", 2 * V)
    assert_close(run(), wide, rtol=0, atol=0)


def test_a_weight_gradient_in_blocks_is_the_same(monkeypatch):
    (hidden, weight, _), ids, _ = tensors(torch.bfloat16)

    def run():
        logprob, _ = fused_logprobs(hidden, weight, ids, chunk_tokens=4)
        return gradients(logprob.sum(), (hidden, weight))

    whole = run()
    monkeypatch.setattr(fused_module, "WEIGHT_ROWS", 5)  # 13 words are cut into 5, 5 and 3
    assert_close(run(), whole)


def test_bfloat16_is_as_close_as_its_products_allow():
    (hidden, weight, _), ids, _ = tensors(torch.bfloat16, n=64, d=32, v=200)
    logprob, entropy = fused_logprobs(hidden, weight, ids, entropy=True, chunk_tokens=16)
    assert logprob.dtype == entropy.dtype == torch.float32

    h, w = (x.detach().double().requires_grad_() for x in (hidden, weight))
    logits = h @ w.t()
    wanted = token_logprobs(logits, ids), token_entropy(logits)
    # logits go up to about 32: half a unit in the last of their 8 bits is 32 / 512 = 0.06
    assert_close(logprob.double(), wanted[0], rtol=0, atol=0.1)
    assert_close(entropy.double(), wanted[1], rtol=0, atol=0.1)

    got = gradients(logprob.sum(), (hidden, weight))
    assert [g.dtype for g in got] == [torch.bfloat16] * 2
    for ours, exact in zip(got, gradients(wanted[0].sum(), (h, w)), strict=True):
        assert (ours.double() - exact).norm() < 0.02 * exact.norm()


def test_bfloat16_states_over_a_float32_weight_give_a_float32_gradient():
    (hidden, weight, _), ids, _ = tensors(torch.float32)
    narrow = hidden.detach().bfloat16().requires_grad_()
    logprob, _ = fused_logprobs(narrow, weight, ids)
    grads = gradients(logprob.sum(), (narrow, weight))
    assert [g.dtype for g in grads] == [torch.bfloat16, torch.float32]
    plain = token_logprobs(hidden @ weight.t(), ids)
    exact = gradients(plain.sum(), (weight,))[0]
    assert (grads[1] - exact).norm() < 0.03 * exact.norm()


def test_no_entropy_unless_asked():
    (hidden, weight, _), ids, _ = tensors(torch.float32)
    assert fused_logprobs(hidden, weight, ids)[1] is None


def test_no_tokens():
    (hidden, weight, _), ids, _ = tensors(torch.float32)
    logprob, entropy = fused_logprobs(hidden[:0], weight, ids[:0], entropy=True)
    assert logprob.shape == entropy.shape == (0,)
    assert_close(gradients(logprob.sum(), (weight,))[0], torch.zeros(V, D))


class Largest(TorchDispatchMode):
    """The most elements in any tensor that an operation gives, and what is computed at all."""

    def __init__(self):
        super().__init__()
        self.elements = 0
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in tree_iter(out):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.numel())
                self.shapes.append((func, tuple(x.shape)))
        return out


def watched(loss_of, inputs):
    with Largest() as largest:
        loss_of().sum().backward()
    assert all(x.grad is not None for x in inputs)
    return largest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_of_tokens_by_vocabulary_is_made(dtype):
    n, d, v, chunk = 96, 2, 50, 8
    inputs, ids, (ref_hidden, ref_weight, _) = tensors(dtype, n=n, d=d, v=v)
    hidden, weight, bias = inputs

    def both():
        logprob, entropy = fused_logprobs(
            hidden, weight, ids, bias_V=bias, softcap=5.0, entropy=True, chunk_tokens=chunk
        )
        return logprob + entropy

    def kl():
        return fused_kl(hidden, weight, ref_hidden, ref_weight, bias_V=bias, chunk_tokens=chunk)

    # a chunk of logits, 8 · 50, is the most; all of them would be 96 · 50
    assert watched(both, inputs).elements == chunk * v
    assert watched(kl, inputs).elements == chunk * v
    # and the instrument does see the logits of the plain path
    assert watched(lambda: token_logprobs(hidden @ weight.t() + bias, ids), inputs).elements == n * v


def test_a_frozen_head_costs_no_weight_gradient():
    (hidden, weight, _), ids, _ = tensors(torch.float32)
    frozen = weight.detach()
    largest = watched(lambda: fused_logprobs(hidden, frozen, ids, chunk_tokens=4)[0], [hidden])
    made = [func for func, shape in largest.shapes if shape == (V, D) and "detach" not in str(func)]
    assert made == []


@pytest.mark.parametrize("bad", [{"temperature": 0.0}, {"softcap": 0.0}, {"chunk_tokens": 0}])
def test_senseless_settings_are_refused(bad):
    (hidden, weight, _), ids, _ = tensors(torch.float32)
    with pytest.raises(ValueError, match=next(iter(bad))):
        fused_logprobs(hidden, weight, ids, **bad)


@pytest.mark.parametrize("wrong", [-100, -1, V])
def test_a_token_that_is_not_in_the_vocabulary_is_refused(wrong):
    (hidden, weight, _), ids, _ = tensors(torch.float32)
    ids[1] = wrong
    with pytest.raises(ValueError, match=f"token ids must be from 0 to {V - 1}, got"):
        fused_logprobs(hidden, weight, ids)


def test_a_word_too_unlikely_for_float32_has_a_finite_gradient():
    hidden = torch.tensor([[300.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [0.0]], requires_grad=True)
    logprob, entropy = fused_logprobs(hidden, weight, torch.tensor([1]), entropy=True)
    assert logprob.item() == -300.0
    grads = torch.autograd.grad(logprob.sum() + entropy.sum(), [hidden, weight])
    # log π(1) = −h·w₀ + h·w₁ up to e⁻³⁰⁰, and the entropy is flat there
    assert_close(grads[0], torch.tensor([[-1.0]]))
    assert_close(grads[1], torch.tensor([[-300.0], [300.0], [0.0]]))


@pytest.mark.parametrize("entropy", [False, True])
def test_bfloat16_hidden_states_have_float32_logits(entropy):
    # Logits about 20, of which a bfloat16 number keeps steps of 1/8: without float32 sums log-probs are off by 0.1.
    generator = torch.Generator().manual_seed(0)
    tokens, width, words = 40, 96, 700
    hidden = torch.randn(tokens, width, generator=generator).bfloat16()
    weight = (torch.randn(words, width, generator=generator) * 0.6).bfloat16()
    ids = (hidden.float() @ weight.float().t() + torch.randn(tokens, words, generator=generator)).argmax(1)

    def run(dtype):
        h, w = (x.detach().to(dtype).requires_grad_() for x in (hidden, weight))
        logprob, spread = fused_logprobs(h, w, ids, entropy=entropy, chunk_tokens=16)
        assert logprob.dtype == torch.float32
        loss = (logprob * torch.linspace(-1, 1, tokens)).sum() + (0 if spread is None else spread.sum())
        return logprob, spread, gradients(loss, (h, w))

    (logprob, spread, grads), (exact, exact_spread, exact_grads) = run(torch.bfloat16), run(torch.float32)
    rounded = token_logprobs((hidden @ weight.t()).float(), ids)
    assert (rounded - exact).abs().max() > 0.05
    assert (logprob - exact).abs().max() < 2e-3
    if entropy:
        assert (spread - exact_spread).abs().max() < 5e-3
    for ours, theirs in zip(grads, exact_grads, strict=True):  # they go back in bfloat16
        assert (ours.float() - theirs).norm() < 0.005 * theirs.norm()


@pytest.mark.parametrize("temperature", [0.01, 0.05, 0.3, 4.0])
def test_a_low_temperature_does_not_bring_the_rounding_back(temperature):
    # divided by 0.01, the bfloat16 rounding of a logit of 20 would be 6 nats
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 96, generator=generator).bfloat16()
    weight = (torch.randn(700, 96, generator=generator) * 0.6).bfloat16()
    exact = hidden.double() @ weight.double().t() / temperature
    ids = exact.topk(3).indices[:, torch.arange(40) % 3].diagonal()
    logprob, entropy = fused_logprobs(hidden, weight, ids, temperature=temperature, entropy=True)
    log_p = exact.log_softmax(1)
    assert (logprob - log_p.gather(1, ids[:, None])[:, 0]).abs().max() < 2e-3
    assert (entropy + (log_p.exp() * log_p).sum(1)).abs().max() < 1e-2
