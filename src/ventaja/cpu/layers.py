"""Norms and rotary attention of transformers' models with fewer walks over memory, for the CPU.

A layer's forward is replaced by an equal one, if a trial on a few random tokens shows that it is equal; what no
replacement fits keeps its own. Matrix products stay the layer's own linear modules, adapters included. On a GPU, in
float64, or without a plan for attention, the replaced forward is called as before.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ventaja.cpu import FAST, kernels
from ventaja.cpu.replacing import FastForward

# The operations ---------------------------------------------------------------------------------------------


def rms_norm(x: Tensor, weight: Tensor, *, eps: float, offset: float, rounds_first: bool) -> Tensor:
    """x/√(mean x² + ε) · (offset + w) over the last dimension."""
    if not torch.is_grad_enabled():
        return _normed(x.contiguous(), weight, eps, offset, rounds_first)[0]
    return _RMSNorm.apply(x, weight, eps, offset, rounds_first)


def _normed(
    x: Tensor, weight: Tensor, eps: float, offset: float, rounds_first: bool
) -> tuple[Tensor, Tensor]:
    y, inverse = torch.empty_like(x), torch.empty(x.shape[:-1])
    kernels.rms_norm(_rows(x), weight, eps, offset, rounds_first, _rows(y), inverse.view(-1))
    return y, inverse.view(-1)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, offset: float, rounds_first: bool) -> Tensor:
        x = x.contiguous()
        y, inverse = _normed(x, weight, eps, offset, rounds_first)
        ctx.save_for_backward(x, weight, inverse)
        ctx.offset = offset
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        d_x, gradient = torch.empty_like(x), gradient.contiguous()
        d_weight = torch.empty(kernels.PARTS, x.shape[-1])
        kernels.rms_norm_gradient(
            _rows(x), weight, ctx.offset, inverse, _rows(gradient), _rows(d_x), d_weight
        )
        return d_x, d_weight.sum(0).to(weight.dtype), None, None, None


def rotate(x_NHD: Tensor, cos_ND: Tensor, sin_ND: Tensor) -> Tensor:
    """Rotary positions: queries or keys turned by their tokens' angles."""
    if not torch.is_grad_enabled():
        return _turned(x_NHD, cos_ND, sin_ND, 1.0)
    return _Rotate.apply(x_NHD, cos_ND, sin_ND)


def _turned(x: Tensor, cos: Tensor, sin: Tensor, direction: float) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    kernels.rotate(x, cos, sin, direction, y)
    return y


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, sin, -1.0), None, None


def _rows(x: Tensor) -> Tensor:
    """[…, D] as [rows, D], without copying."""
    return x.view(-1, x.shape[-1])


SIZES = (1.0, 1e3)
"""Of a trial's inputs: some layers clamp what is large."""

# The layers -------------------------------------------------------------------------------------------------


class FastNorm(FastForward):
    """Of a root-mean-square norm; which of the three customary ways it is, the trial finds out."""

    WAYS = (
        {"offset": 0.0, "rounds_first": True},
        {"offset": 0.0, "rounds_first": False},
        {"offset": 1.0, "rounds_first": False},
    )

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.eps = float(getattr(module, "variance_epsilon", None) or getattr(module, "eps", None) or 0.0)
        self.way: dict[str, Any] = {}

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        weights = dict(module.named_parameters())
        return (
            "RMSNorm" in type(module).__name__ and list(weights) == ["weight"] and weights["weight"].ndim == 1
        )

    def trial(self) -> bool:
        """With weights of the trial's own: a trained one may be so large that an offset of 1 hardly shows.

        Float32 tells which ways are right, and bfloat16 which of them rounds as the module does.
        """
        if self.eps == 0:
            return False
        parameter, own = self.module.weight, self.module.weight.data
        sizes = torch.tensor([[1.0], [1e3], [self.eps**0.5]])
        differing = {}
        try:
            for number, way in enumerate(self.WAYS):
                self.way = way
                results = []
                for dtype in (torch.float32, torch.bfloat16):
                    parameter.data = _random(*own.shape, seed=1).to(dtype)
                    x = (_random(3, *own.shape) * sizes).to(dtype)
                    results.append((self(x), self.plain(x)))
                if all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(*results[0], strict=True)):
                    ours, theirs = results[1]
                    differing[number] = int((ours != theirs).sum())
        finally:
            parameter.data = own
        if differing:
            self.way = self.WAYS[min(differing, key=lambda number: differing[number])]
        return bool(differing)

    def __call__(self, x: Tensor) -> Tensor:
        if not FAST.takes(x, self.module.weight):
            return self.plain(x)
        return rms_norm(x, self.module.weight, eps=self.eps, **self.way)


class FastAttention(FastForward):
    """Of attention with rotary positions over whole heads, and perhaps norms of queries and keys, under a plan."""

    PARTS = ("q_proj", "k_proj", "v_proj", "o_proj")

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        return set(cls.PARTS) <= {n for n, _ in module.named_children()} and all(
            hasattr(module, name) for name in ("head_dim", "layer_idx", "scaling")
        )

    def trial(self) -> bool:
        return all(self._trial(size) for size in SIZES)

    def _trial(self, size: float) -> bool:
        m, dtype = self.module, self.module.q_proj.weight.dtype
        hidden = (_random(1, 3, m.q_proj.in_features) * size).to(dtype)
        angle = _random(1, 3, m.head_dim // 2).to(dtype).repeat(1, 1, 2)
        seen: list[tuple[Any, ...]] = []

        class Note:
            def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, **how: Any) -> Tensor:
                seen.append((layer, query, key, value, how))
                return query.transpose(0, 1)

        how = {"position_embeddings": (angle.cos(), angle.sin()), "attention_mask": None, "plan": Note()}
        expected, ours = self.plain(hidden, **how)[0], self(hidden, **how)[0]
        (layer, *theirs, their_way), (our_layer, *our_own, our_way) = seen
        tensors = [(expected, ours), *zip(theirs, our_own, strict=True)]
        return layer == our_layer and their_way == our_way and all(_equal(a, b) for a, b in tensors)

    def __call__(
        self, hidden_states: Tensor, position_embeddings: Any = None, *, plan: Any = None, **others: Any
    ) -> Any:
        m = self.module
        whole = position_embeddings is not None and position_embeddings[0].shape[-1] == m.head_dim
        if plan is None or not whole or not FAST.takes(hidden_states):
            return self.plain(hidden_states, position_embeddings=position_embeddings, plan=plan, **others)
        query, key, value = (
            part(hidden_states)[0].unflatten(-1, (-1, m.head_dim)) for part in (m.q_proj, m.k_proj, m.v_proj)
        )
        query, key = (
            getattr(m, norm)(x) if hasattr(m, norm) else x for norm, x in (("q_norm", query), ("k_norm", key))
        )
        cos, sin = (table[0].contiguous() for table in position_embeddings)
        output_NHD = plan.attend(
            m.layer_idx,
            rotate(query, cos, sin).transpose(0, 1),
            rotate(key, cos, sin).transpose(0, 1),
            value.transpose(0, 1),
            scaling=m.scaling,
            window=getattr(m, "sliding_window", None),
            softcap=getattr(m, "attn_logit_softcapping", None),
        )
        return m.o_proj(output_NHD.flatten(-2)[None]), None


KINDS = (FastNorm, FastAttention)


@torch.no_grad()
def install(model: nn.Module) -> None:
    """Replace the forward of every layer that a kind fits and whose trial succeeds; norms first, others use them."""
    for kind in KINDS:
        for module in model.modules():
            if not kind.fits(module):
                continue
            fast = kind(module)
            try:
                is_equal = fast.trial()
            except kernels.CompileError:
                raise
            except (
                Exception
            ):  # an unusual layer may refuse the trial's arguments in any way; it keeps its own
                is_equal = False
            if is_equal:
                module.forward = fast


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    near = 2e-2 if theirs.dtype == torch.bfloat16 else 1e-4
    return ours.dtype == theirs.dtype and torch.allclose(
        ours, theirs, rtol=near, atol=near * float(theirs.abs().max())
    )
