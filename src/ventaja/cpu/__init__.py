"""What makes a CPU fast, behind one seam that can be switched off.

The rooms above are written the plain way, and a policy carries a `Cpu` that they ask for a faster one. Each of these
ways computes what a plain one beside its caller does, up to the rounding of sums in another order, and a test says so.
numba is loaded when something fast is first used, so nothing plain waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor, nn

from ventaja.cpu import operators
from ventaja.cpu.replacing import removed
from ventaja.cpu.threads import THREADS
from ventaja.errors import ConfigError
from ventaja.settings import CpuWay

if TYPE_CHECKING:
    from ventaja.cpu.segments import Row

__all__ = ["FAST", "HIDDEN", "PLAIN", "Attend", "Cpu", "Packed", "choose", "multiplies_bfloat16", "removed"]

VARIABLE = "VENTAJA_CPU"
"""The environment variable that decides where no setting does."""

HIDDEN = operators.HIDDEN
"""Added to scores that must not be seen; finite, so that where all is hidden the weight is 0, and not NaN."""

Attend = Callable[[Tensor, Tensor, Tensor, float, int | None], Tensor]
"""Output [N, H, D] of queries [N, H, D], keys and values [N, K, D], a scaling and a window."""


@runtime_checkable
class Packed(Protocol):
    """A second copy of a model's weights, which multiplies faster."""

    def active(self) -> AbstractContextManager[None]:
        """Inside the block the model's linear layers multiply with it; without gradients."""
        ...


class Cpu:
    """The faster ways, if `way` is fast; with `plain` there is none, and each caller goes its own."""

    def __init__(self, way: CpuWay) -> None:
        self.way = way
        self.is_fast = way == "fast"

    def takes(self, *tensors: Tensor) -> bool:
        """True if there is a faster way for these tensors: on a CPU, in float32 or bfloat16, all in the same."""
        first = tensors[0]
        return (
            self.is_fast
            and first.dtype in (torch.float32, torch.bfloat16)
            and all(t.device.type == "cpu" and t.dtype == first.dtype for t in tensors)
        )

    def install(self, model: nn.Module) -> None:
        """Replace those layers of a model of which a trial shows that they can be; `removed` undoes it for a while."""
        if self.is_fast and _is_here(model):
            from ventaja.cpu.layers import install

            install(model)

    def pack(self, model: nn.Module) -> Packed:
        """The model's weights as they are now, in a layout that multiplies few rows faster."""
        if self.is_fast and _is_here(model):
            from ventaja.cpu.packed_weights import PackedWeights

            return PackedWeights(model)
        return _Unpacked()

    def logprobs(
        self, hidden_ND: Tensor, weight_VD: Tensor, token_ids_N: Tensor, *, factor: float, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Log-prob [N] of each token, and the entropy if asked, where logits are factor·(h Wᵀ).

        For what `takes` takes; other heads (with a bias, a softcap) have `functional.fused_logprobs` alone.
        """
        from ventaja.cpu.logprobs import fused_logprobs

        return fused_logprobs(hidden_ND, weight_VD, token_ids_N, factor=factor, entropy=entropy)

    def attend_in(self, row: Row) -> Attend:
        """The attention of one packed row in training; for what `takes` takes, without softcap."""
        from ventaja.cpu.group_attention import RowAttention

        return RowAttention(row)

    def decode_attention(
        self,
        query_BHD: Tensor,
        new: tuple[Tensor, Tensor],
        prompt: tuple[Tensor, Tensor],
        answer: tuple[Tensor, Tensor],
        *,
        slot_B: Tensor,
        prompt_length_S: Tensor,
        length_B: Tensor,
        window: int | None,
        scaling: float,
    ) -> Tensor:
        """Attention [B, H, D] of one new token per answer, whose key and value [B, K, D] are stored on the way.

        Keys and values of prompts [S, K, L, D], of answers [≥ B, K, T, D]. For what `takes` takes, without softcap.
        """
        from ventaja.cpu import kernels

        query, key, value = (x.contiguous() for x in (query_BHD, *new))
        output = torch.empty_like(query)
        kernels.decode_attention(
            query,
            key,
            value,
            *prompt,
            *answer,
            slot_B,
            prompt_length_S,
            length_B,
            window or 0,
            scaling,
            output,
        )
        return output

    def attention_with_total(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float
    ) -> tuple[Tensor, Tensor] | None:
        """softmax(query keyᵀ·scaling + mask) value, and the log of its sum; None if there is no faster way.

        [B, H, T, D] each; the total is [B, H, T].
        """
        same_width = query.shape[-1] == value.shape[-1]
        if not (self.takes(query, key, value) and same_width and operators.has_flash_attention()):
            return None
        return operators.flash_attention(query, key, value, mask, scaling, causal=False)

    def step(self, kind: str, work: int = 1) -> AbstractContextManager[None]:
        """Inside the block, as many threads as make steps of this kind fastest; see `threads`. `work` is their size."""
        return THREADS.step(kind, work) if self.is_fast else nullcontext()

    @property
    def missing(self) -> str | None:
        """What to tell the user if this torch lacks something that the faster ways use; None if it lacks nothing."""
        return operators.what_is_missing() if self.is_fast else None


FAST, PLAIN = Cpu("fast"), Cpu("plain")


def choose(setting: CpuWay | None = None) -> Cpu:
    """The setting's, else the environment variable VENTAJA_CPU's, else fast. Raises ConfigError for another word."""
    way = setting or os.environ.get(VARIABLE) or "fast"
    if way not in get_args(CpuWay):
        raise ConfigError(
            f"the environment variable {VARIABLE} is {way!r}, but it can only be fast or plain. Set it to one of "
            "them, or unset it; model.cpu in a run file wins over it."
        )
    return FAST if way == "fast" else PLAIN


def multiplies_bfloat16() -> bool:
    """True if this CPU multiplies matrices in bfloat16 (AMX or AVX512-BF16), as far as torch tells."""
    return operators.multiplies_bfloat16()


def _is_here(model: nn.Module) -> bool:
    return all(p.device.type == "cpu" for p in model.parameters())


class _Unpacked:
    def active(self) -> AbstractContextManager[None]:
        return nullcontext()
