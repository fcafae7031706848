"""Log-probabilities, entropy and KL straight from the hidden states, a chunk of tokens at a time.

The logits of N tokens over V words are the largest tensor of a training step, and only a few numbers per
token are wanted from them. Here a chunk's logits are made, read and overwritten; the backward pass makes them
again. No tensor of shape [N, V] exists, in either pass.

    x = scale · (h Wᵀ + b)
    z = softcap · tanh(x / softcap) / temperature,   or x / temperature without a softcap

Hidden states and weights are multiplied in their own dtype. The logits are float32 sums of these products, and all
that follows is in float32 (float64 for float64): a logit of 20 that is stored in bfloat16 may be off by 0.06, which
would be 0.02 nats on average in each log-prob, and no ratio should carry that. The gradients' products go back in the
dtype of the hidden states.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["fused_kl", "fused_logprobs"]

# On a CPU the softmax works on rows that fit in its cache, whatever the chunk of the matrix product.
CACHE_ELEMENTS = 2**18
WEIGHT_ROWS = 2**13


def fused_logprobs(
    hidden_ND: Float[Tensor, "N D"],
    weight_VD: Float[Tensor, "V D"],
    token_ids_N: Int[Tensor, "N"],
    *,
    bias_V: Float[Tensor, "V"] | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    scale: float = 1.0,
    entropy: bool = False,
    chunk_tokens: int = 512,
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"] | None]:
    """Log-probability of each token, and the entropy of the distribution that it was drawn from.

    log π(a) = z_a − log Σ_v exp(z_v),   H = −Σ_v p_v log p_v,   p = softmax(z),  with z as above.
    Equal to `token_logprobs` and `token_entropy` on the logits. Row n of `hidden_ND` must predict token n.

    The second result is None unless `entropy` is True. Both results are float32 (float64 for float64 hidden
    states) and carry gradients to the hidden states, the weight and the bias, each returned in its own dtype;
    the weight's is summed over chunks in float32. `chunk_tokens` is a matter of memory, not of result: about
    `chunk_tokens` · V numbers exist at once. Logits must be finite. Raises ValueError for a temperature,
    softcap or chunk that is not above 0, and for a token that is not in the vocabulary.
    """
    head = _Head(temperature, softcap, scale, chunk_tokens)
    if token_ids_N.device.type == "cpu" and len(token_ids_N):  # a GPU's gather looks for itself
        low, high = token_ids_N.aminmax()
        if low < 0 or high >= len(weight_VD):
            raise ValueError(
                f"token ids must be from 0 to {len(weight_VD) - 1}, got {int(low)} to {int(high)}."
            )
    token_ids_N = token_ids_N.long().contiguous()
    return _FusedLogprobs.apply(hidden_ND, weight_VD, bias_V, token_ids_N, head, entropy)


def fused_kl(
    hidden_ND: Float[Tensor, "N D"],
    weight_VD: Float[Tensor, "V D"],
    ref_hidden_ND: Float[Tensor, "N R"],
    ref_weight_VD: Float[Tensor, "V R"],
    *,
    bias_V: Float[Tensor, "V"] | None = None,
    ref_bias_V: Float[Tensor, "V"] | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_tokens: int = 512,
) -> Float[Tensor, "N"]:
    """Exact KL over the vocabulary at each token:  KL(π ‖ π_ref) = Σ_v p_v (log p_v − log p_ref,v).

    Equal to `kl_exact` on the two logits. Gradients go to `hidden_ND`, `weight_VD` and `bias_V`; the
    reference is a constant. The two models share vocabulary, temperature, softcap and scale; their widths
    may differ.
    Result, dtypes, memory and errors as in `fused_logprobs`, with two chunks of logits instead of one.
    """
    head = _Head(temperature, softcap, scale, chunk_tokens)
    return _FusedKL.apply(hidden_ND, weight_VD, bias_V, ref_hidden_ND, ref_weight_VD, ref_bias_V, head)


class _Head:
    """What turns h Wᵀ + b into logits, and the size of a chunk."""

    def __init__(self, temperature: float, softcap: float | None, scale: float, chunk_tokens: int) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}.")
        if softcap is not None and not softcap > 0:
            raise ValueError(f"softcap must be above 0, got {softcap}. For none, give None.")
        if chunk_tokens < 1:
            raise ValueError(f"chunk_tokens must be at least 1, got {chunk_tokens}.")
        self.softcap = softcap
        self.chunk_tokens = chunk_tokens
        self.inner = scale if softcap is None else scale / softcap  # before the tanh
        self.outer = 1 / temperature if softcap is None else softcap / temperature  # after it

    def shape_(self, z: Tensor) -> Tensor:
        if self.softcap is None:
            return _scale_(z, self.inner * self.outer)
        return _scale_(_scale_(z, self.inner).tanh_(), self.outer)

    def unshape_(self, grad: Tensor, z: Tensor | None) -> Tensor:
        """The gradient with respect to h Wᵀ + b, from the one with respect to z. Overwrites both."""
        if z is not None:
            grad.sub_(grad * z.div_(self.outer).square_())
        return _scale_(grad, self.inner * self.outer)


class _Logits:
    """The logits of one model, a chunk at a time, in memory that is made once."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: _Head) -> None:
        self.hidden = hidden.detach().contiguous()
        self.weight = weight.detach().to(hidden.dtype).contiguous()
        self.head = head
        self.dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.bias = None if bias is None else bias.detach().to(self.dtype)
        tokens, vocabulary = hidden.shape[0], weight.shape[0]
        self.chunk = min(head.chunk_tokens, tokens)
        in_cache = max(1, CACHE_ELEMENTS // max(1, vocabulary))
        self.rows = min(self.chunk, in_cache) if hidden.device.type == "cpu" else self.chunk
        self.product = hidden.new_empty(self.chunk, vocabulary, dtype=self.dtype)

    def chunks(self) -> Iterator[slice]:
        for start in range(0, self.hidden.shape[0], self.chunk or 1):
            rows = slice(start, min(start + self.chunk, self.hidden.shape[0]))
            self._multiply(self.hidden[rows], self.product[: rows.stop - rows.start])
            yield rows

    def _multiply(self, hidden: Tensor, product: Tensor) -> None:
        if hidden.dtype == product.dtype:
            torch.mm(hidden, self.weight.t(), out=product)
        elif hidden.device.type == "cuda":
            torch.mm(hidden, self.weight.t(), out_dtype=product.dtype, out=product)
        else:  # block by block, so that no second tensor of the weight's size is made
            wide = hidden.to(product.dtype)
            for start in range(0, len(self.weight), WEIGHT_ROWS):
                words = slice(start, start + WEIGHT_ROWS)
                product[:, words] = wide @ self.weight[words].to(product.dtype).t()

    def blocks(self, rows: slice) -> Iterator[tuple[slice, slice]]:
        """Cut a chunk into blocks: their rows among the tokens, and among the chunk."""
        for start in range(rows.start, rows.stop, self.rows):
            stop = min(start + self.rows, rows.stop)
            yield slice(start, stop), slice(start - rows.start, stop - rows.start)

    def read(self, local: slice) -> Tensor:
        """The logits z of a block of the chunk, to be overwritten at will."""
        z = self.product[local]
        return self.head.shape_(z if self.bias is None else z.add_(self.bias))


class _Gradients:
    """Takes the gradient of the logits back to hidden states, weight and bias, as far as each is wanted."""

    def __init__(self, logits: _Logits, wanted: tuple[bool, bool, bool]) -> None:
        self.logits = logits
        hidden, weight = logits.hidden, logits.weight
        self.hidden = torch.empty_like(hidden) if wanted[0] else None
        # The sum over chunks is kept in float32; a single chunk has nothing to sum.
        summed = weight.dtype if logits.chunk == len(hidden) else logits.dtype
        self.weight = torch.zeros_like(weight, dtype=summed) if wanted[1] else None
        self.bias = weight.new_zeros(weight.shape[0], dtype=logits.dtype) if wanted[2] else None

    def keep(self, z: Tensor) -> Tensor | None:
        """A copy of the logits, where the softcap will need them after they are overwritten."""
        return None if self.logits.head.softcap is None else z.clone()

    def write(self, local: slice, grad: Tensor, z: Tensor | None) -> None:
        """Finish the gradient of a block, and put it where its product was."""
        grad = self.logits.head.unshape_(grad, z)
        if self.bias is not None:
            self.bias += grad.sum(0)
        self.logits.product[local] = grad

    def multiply(self, rows: slice) -> None:
        """The two products of a chunk, once all of its blocks are written."""
        hidden, weight = self.logits.hidden[rows], self.logits.weight
        grad = self.logits.product[: len(hidden)].to(hidden.dtype)
        if self.hidden is not None:
            torch.mm(grad, weight, out=self.hidden[rows])
        if self.weight is None:
            return
        if self.weight.dtype == hidden.dtype:
            self.weight.addmm_(grad.t(), hidden)
            return
        # Block by block, so that no second tensor of the weight's size is made.
        for start in range(0, len(weight), WEIGHT_ROWS):
            words = slice(start, start + WEIGHT_ROWS)
            self.weight[words] += torch.mm(grad[:, words].t(), hidden)


class _FusedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        token_ids: Tensor,
        head: _Head,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        logits = _Logits(hidden, weight, bias, head)
        logprob = hidden.new_empty(len(hidden), dtype=logits.dtype)
        log_total = torch.empty_like(logprob)
        entropy = torch.empty_like(logprob) if with_entropy else None
        for chunk in logits.chunks():
            for rows, local in logits.blocks(chunk):
                z = logits.read(local)
                top = z.amax(1, keepdim=True)
                z.sub_(top)
                picked = z.gather(1, token_ids[rows, None])[:, 0]
                if entropy is None:
                    log_sum = z.exp_().sum(1).log_()
                else:
                    p = z.exp()
                    total = p.sum(1)
                    log_sum = total.log()
                    entropy[rows] = log_sum - p.mul_(z).sum(1) / total
                logprob[rows] = picked - log_sum
                log_total[rows] = log_sum + top[:, 0]
        ctx.save_for_backward(hidden, weight, bias, token_ids, log_total, entropy)
        ctx.head = head
        ctx.set_materialize_grads(False)
        return logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprob: Tensor | None, grad_entropy: Tensor | None) -> tuple[Any, ...]:
        hidden, weight, bias, token_ids, log_total, entropy = ctx.saved_tensors
        logits = _Logits(hidden, weight, bias, ctx.head)
        gradients = _Gradients(logits, ctx.needs_input_grad[:3])
        if grad_logprob is None:
            grad_logprob = torch.zeros_like(log_total)
        for chunk in logits.chunks():
            for rows, local in logits.blocks(chunk):
                z = logits.read(local)
                kept = gradients.keep(z)
                logp = z.sub_(log_total[rows, None])
                # ∂log π(a)/∂z_v = 1[v = a] − p_v,   ∂H/∂z_v = −p_v (log p_v + H)
                if grad_entropy is None:
                    grad = logp.exp_().mul_(-grad_logprob[rows, None])
                else:
                    p = logp.exp()
                    logp.add_(entropy[rows, None]).mul_(-grad_entropy[rows, None])
                    grad = logp.sub_(grad_logprob[rows, None]).mul_(p)
                grad.scatter_add_(1, token_ids[rows, None], grad_logprob[rows, None])
                gradients.write(local, grad, kept)
            gradients.multiply(chunk)
        return *_cast(gradients, weight, bias), None, None, None


class _FusedKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ref_hidden: Tensor,
        ref_weight: Tensor,
        ref_bias: Tensor | None,
        head: _Head,
    ) -> Tensor:
        logits = _Logits(hidden, weight, bias, head)
        ref_logits = _Logits(ref_hidden, ref_weight, ref_bias, head)
        kl = hidden.new_empty(len(hidden), dtype=logits.dtype)
        log_total, ref_log_total = torch.empty_like(kl), torch.empty_like(kl, dtype=ref_logits.dtype)
        for chunk, _ in zip(logits.chunks(), ref_logits.chunks(), strict=True):
            for rows, local in logits.blocks(chunk):
                z, ref_z = logits.read(local), ref_logits.read(local)
                log_total[rows] = z.logsumexp(1)
                ref_log_total[rows] = ref_z.logsumexp(1)
                logp, logq = z.sub_(log_total[rows, None]), ref_z.sub_(ref_log_total[rows, None])
                difference = logq.neg_().add_(logp)
                kl[rows] = difference.mul_(logp.exp_()).sum(1)
        ctx.save_for_backward(
            hidden, weight, bias, ref_hidden, ref_weight, ref_bias, log_total, ref_log_total, kl
        )
        ctx.head = head
        return kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_kl: Tensor) -> tuple[Any, ...]:
        hidden, weight, bias, ref_hidden, ref_weight, ref_bias, *saved = ctx.saved_tensors
        log_total, ref_log_total, kl = saved
        logits = _Logits(hidden, weight, bias, ctx.head)
        ref_logits = _Logits(ref_hidden, ref_weight, ref_bias, ctx.head)
        gradients = _Gradients(logits, ctx.needs_input_grad[:3])
        for chunk, _ in zip(logits.chunks(), ref_logits.chunks(), strict=True):
            for rows, local in logits.blocks(chunk):
                z, ref_z = logits.read(local), ref_logits.read(local)
                kept = gradients.keep(z)
                logp, logq = z.sub_(log_total[rows, None]), ref_z.sub_(ref_log_total[rows, None])
                # ∂KL/∂z_v = p_v (log p_v − log q_v − KL)
                difference = logq.neg_().add_(logp).sub_(kl[rows, None])
                grad = logp.exp_().mul_(difference).mul_(grad_kl[rows, None])
                gradients.write(local, grad, kept)
            gradients.multiply(chunk)
        return *_cast(gradients, weight, bias), None, None, None, None


def _cast(gradients: _Gradients, weight: Tensor, bias: Tensor | None) -> tuple[Tensor | None, ...]:
    grad_weight, grad_bias = gradients.weight, gradients.bias
    return (
        gradients.hidden,
        None if grad_weight is None else grad_weight.to(weight.dtype),
        None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
    )


def _scale_(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x.mul_(factor)
