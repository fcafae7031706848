"""The operators of torch that are private to it, each tried once on tiny tensors before it is relied upon.

They have no promise to stay. Where one is gone, or gives other numbers than the plain computation, the faster way that
needs it is not taken, and `what_is_missing` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

HIDDEN = -1e30

PACKED_ROWS = 64
"""The number of rows that the packed layout is chosen for; others work too."""


def pack_weight(weight: Tensor) -> Tensor:
    """A linear layer's weight in oneDNN's own layout."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach(), PACKED_ROWS)


def packed_product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """x Wᵀ + b with a packed weight."""
    nothing: Any = ("none", [], "")
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, *nothing)


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """FlashAttention (arXiv:2205.14135): the output [B, H, T, D] and the log of its sum of exponentials [B, H, T]."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=mask, scale=scaling
    )


def flash_attention_gradient(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Tensor | None, scaling: float,
    *, causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v. Output and log-sum may be those over more keys than these, which then get their share."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        d_out, q, k, v, out, lse, 0.0, causal, attn_mask=mask, scale=scaling
    )


def multiplies_bfloat16() -> bool:
    """True with AMX or AVX512-BF16; False too where torch no longer tells."""
    asked = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def can_pack(weight: Tensor) -> bool:
    """True if this weight can be packed with a gain, and products with it are right. In bfloat16 there is none."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and has_packed_products()


@cache
def has_packed_products() -> bool:
    """True if packed products give what a linear layer does."""

    def trial() -> bool:
        x, weight, bias = (_random(*shape) for shape in ((1, 5, 16), (12, 16), (12,)))
        return _near(
            packed_product(x, pack_weight(weight), bias), torch.nn.functional.linear(x, weight, bias)
        )

    return torch.backends.mkldnn.is_available() and _succeeds(trial)


@cache
def has_flash_attention() -> bool:
    """True if flash attention and its gradient give what the formula does."""

    def trial() -> bool:
        q, k, v, d_out = (_random(1, 2, 5, 8, seed=seed).requires_grad_() for seed in range(4))
        mask = torch.zeros(5, 5).masked_fill_(torch.ones(5, 5).triu(1) > 0, HIDDEN)
        scores = q @ k.mT * 0.3 + mask
        expected, total = scores.softmax(-1) @ v, scores.logsumexp(-1)
        wanted = torch.autograd.grad((expected * d_out).sum(), (q, k, v))
        q, k, v, d_out = (x.detach() for x in (q, k, v, d_out))
        for causal in (False, True):
            how: dict[str, Any] = {
                "mask": None if causal else mask[None, None],
                "scaling": 0.3,
                "causal": causal,
            }
            out, lse = flash_attention(q, k, v, **how)
            gradients = flash_attention_gradient(d_out, q, k, v, out, lse, **how)
            pairs = [(out, expected), (lse, total), *zip(gradients, wanted, strict=True)]
            if not all(_near(ours, theirs) for ours, theirs in pairs):
                return False
        return True

    return _succeeds(trial)


@cache
def what_is_missing() -> str | None:
    """A sentence for the user, or None."""
    gone = []
    if torch.backends.mkldnn.is_available() and not has_packed_products():
        gone.append("sampling multiplies with the weights as they are (no packed products)")
    if not has_flash_attention():
        gone.append("attention keeps its scores in memory, which long answers will feel (no flash attention)")
    if not gone:
        return None
    return (
        f"torch {torch.__version__} lacks what Ventaja's faster ways use, or computes it otherwise: "
        f"{'; '.join(gone)}. Results are the same. The torch that Ventaja was tested with has it."
    )


def forget_trials() -> None:
    """Try again when next asked."""
    for trial in (has_packed_products, has_flash_attention, what_is_missing):
        trial.cache_clear()


def _succeeds(trial: Callable[[], bool]) -> bool:
    try:
        with torch.inference_mode(False), torch.enable_grad():
            return trial()
    except Exception:  # gone, or with other arguments: in whatever way a future torch refuses
        return False


def _near(ours: Tensor, theirs: Tensor) -> bool:
    near = 2e-2 if theirs.dtype == torch.bfloat16 else 1e-4
    return ours.dtype == theirs.dtype and torch.allclose(
        ours, theirs, rtol=near, atol=near * float(theirs.detach().abs().max())
    )


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
