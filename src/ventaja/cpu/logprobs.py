"""Log-probs and entropy from hidden states, for heads without bias and softcap: `functional.fused_logprobs` by kernel.

The product of a chunk stays as it is stored, in bfloat16 too, and one walk over it reads the sums. A logit of 20 that is
stored in bfloat16 may be off by 0.06, so those that matter are summed again in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ventaja.cpu import kernels

CHUNK_TOKENS = 512
"""So many rows of logits exist at once."""

WEIGHT_ROWS = 2**13

EXACT_WITHIN = 6.0
"""Logits less than so many nats below the likeliest word's are summed again: some 100 of them. What is left of the
rounding is 1e-4 nats per token on average, at most 5e-4."""


def fused_logprobs(
    hidden_ND: Tensor, weight_VD: Tensor, token_ids_N: Tensor, *, factor: float, entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """Log-prob [N] of each token under softmax(factor·h Wᵀ), and the entropy [N] if asked; float32, with gradients.

    Raises ValueError for a token that is not in the vocabulary.
    """
    if len(token_ids_N):  # a kernel would read whatever stands there
        low, high = token_ids_N.aminmax()
        if low < 0 or high >= len(weight_VD):
            raise ValueError(
                f"token ids must be from 0 to {len(weight_VD) - 1}, got {int(low)} to {int(high)}."
            )
    return _FusedLogprobs.apply(hidden_ND, weight_VD, token_ids_N.long().contiguous(), factor, entropy)


class _Products:
    """h Wᵀ a chunk at a time, in memory that is made once."""

    def __init__(self, hidden: Tensor, weight: Tensor) -> None:
        self.hidden = hidden.detach().contiguous()
        self.weight = weight.detach().to(hidden.dtype).contiguous()
        self.chunk = min(CHUNK_TOKENS, len(hidden))
        self.within = -1.0 if hidden.dtype == torch.float32 else EXACT_WITHIN  # float32 lost nothing
        self.memory = hidden.new_empty(self.chunk, len(weight))

    def chunks(self) -> Iterator[tuple[slice, Tensor, tuple[Tensor, Tensor, Tensor, float]]]:
        """Rows, their product, and what kernels want of both: product, hidden states, weight, what is summed again."""
        for start in range(0, len(self.hidden), self.chunk or 1):
            rows = slice(start, min(start + self.chunk, len(self.hidden)))
            hidden = self.hidden[rows]
            product = self.memory[: len(hidden)]
            torch.mm(hidden, self.weight.t(), out=product)
            yield rows, product, (product, hidden, self.weight, self.within)


class _FusedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, token_ids: Tensor, factor: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        logprob = hidden.new_empty(len(hidden), dtype=torch.float32)
        log_total = torch.empty_like(logprob)
        entropy = torch.empty_like(logprob) if with_entropy else None
        floor = torch.empty_like(logprob)
        for rows, _, arguments in _Products(hidden, weight).chunks():
            kernels.log_totals(
                *arguments, factor, token_ids[rows], with_entropy,
                logprob[rows], log_total[rows], (log_total if entropy is None else entropy)[rows], floor[rows],
            )  # fmt: skip
        ctx.save_for_backward(hidden, weight, token_ids, log_total, entropy, floor)
        ctx.factor = factor
        ctx.set_materialize_grads(False)
        return logprob, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprob: Tensor | None, grad_entropy: Tensor | None) -> tuple[Any, ...]:
        hidden, weight, token_ids, log_total, entropy, floor = ctx.saved_tensors
        products = _Products(hidden, weight)
        d_hidden = torch.empty_like(products.hidden) if ctx.needs_input_grad[0] else None
        # The sum over chunks is kept in float32; a single chunk has nothing to sum.
        summed = hidden.dtype if products.chunk == len(hidden) else torch.float32
        d_weight = torch.zeros_like(products.weight, dtype=summed) if ctx.needs_input_grad[1] else None
        if grad_logprob is None:
            grad_logprob = torch.zeros_like(log_total)
        for rows, product, arguments in products.chunks():
            kernels.logit_gradients(
                *arguments, ctx.factor, token_ids[rows], log_total[rows],
                (log_total if entropy is None else entropy)[rows], floor[rows], grad_logprob[rows].contiguous(),
                (log_total if grad_entropy is None else grad_entropy)[rows].contiguous(),
                grad_entropy is not None,
            )  # fmt: skip
            if d_hidden is not None:
                torch.mm(product, products.weight, out=d_hidden[rows])
            if d_weight is not None:
                _add_product(d_weight, product, products.hidden[rows])
        return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), None, None, None


def _add_product(total: Tensor, product: Tensor, hidden: Tensor) -> None:
    """total [V, D] += product [n, V]ᵀ hidden [n, D]."""
    if total.dtype == hidden.dtype:
        total.addmm_(product.t(), hidden)
        return
    # Block by block, so that no second tensor of the weight's size is made.
    for start in range(0, len(total), WEIGHT_ROWS):
        words = slice(start, start + WEIGHT_ROWS)
        total[words] += torch.mm(product[:, words].t(), hidden)
