"""Attention over a packed row's tree of segments, with its backward pass written out.

The same numbers as the plain way of `models/group_attention.py`, which is the one to read first; `segments.py` has the
picture of the tree. One level at a time, from the top:

    q  [N, H, D]  ──gather──▶  [P, K, G, r, T, D]      H = K·r: r query heads share a key head
    k, v [N, K, D] ─gather──▶  [P, K, G,    T, D]

    scores over what the G segments of a parent share, its L keys [P, K, L, D]:
        [P·K, G·r·T, D] · [P·K, D, L]  =  [P·K, G·r·T, L]        one tall product per parent and key head
    scores of each segment over itself:
        [P·K·G, r·T, D] · [P·K·G, D, T]  =  [P·K·G, r·T, T]

           │◀──────── L, shared ────────▶│◀─ T, own ─▶│
    t = 0  │ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ │ ■ · · ·    │      ■ seen   · hidden: weight 0
        1  │ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ │ ■ ■ · ·    │      one softmax over the whole of a line,
        2  │ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ ■ │ ■ ■ ■ ·    │      which `kernels.join_softmax` makes in place

    out = weights over the shared · their values + weights over itself · its values,  ──scatter──▶  [N, H, D]

Why so: all answers to a prompt read its keys in one product, so a prompt's keys and values are neither copied per answer
nor computed twice, and a tall product runs at the speed of a large one. Answers are short, and for short segments
these plain products are many times cheaper than a flash kernel's backward pass. Why written out: autograd would keep
the gathered, the scaled and the masked copies of everything, and spend more on copies than on arithmetic; here the
grids and the softmax are kept, and gradients of scores are made where the gradients of weights stood.

Where the scores would be large they are not kept: flash kernels take over, shared and own are joined by their
log-sum-exp, and the backward pass of each is given the joint one. In the backward pass levels go from the bottom
up, since what is seen gets its gradient from all that see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ventaja.cpu import kernels, operators
from ventaja.cpu.segments import Row, Segments, levels

LARGE = 2**23
"""Scores per layer and level beyond which they are not kept."""


class RowAttention:
    """The attention of one packed row, whose tables are made once for all layers."""

    def __init__(self, row: Row) -> None:
        self.row = row
        self._levels: dict[int | None, tuple[Segments, ...]] = {}

    def __call__(
        self, query_NHD: Tensor, key_NKD: Tensor, value_NKD: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Attention output [N, H, D]; gradients flow to all three."""
        if window not in self._levels:
            self._levels[window] = levels(self.row, window)
        contiguous = (x.contiguous() for x in (query_NHD, key_NKD, value_NKD))
        return _GroupAttention.apply(*contiguous, self._levels[window], scaling)


class _GroupAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, levels: tuple[Segments, ...], scaling: float
    ) -> Tensor:
        K = key.shape[1]
        output = torch.empty_like(query)
        saved: list[Tensor] = []
        ctx.levels = []
        shared: tuple[Tensor, Tensor] | None = None
        above: tuple[Tensor, Tensor] | None = None
        for segments in levels:
            if above is not None:
                shared = _below(shared, *above)
            q = segments.spread(query, K)
            k, v = segments.spread(key, K)[:, :, :, 0], segments.spread(value, K)[:, :, :, 0]
            level = _Level(segments, scaling)
            out, kept = level.forward(q, k, v, shared)
            segments.collect(out, output)
            ctx.levels.append((level, slice(len(saved), len(saved) + 3 + len(kept))))
            saved += [q, k, v, *kept]
            above = (k, v)
        ctx.save_for_backward(*saved)
        ctx.shapes = (query.shape, key.shape)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        saved = ctx.saved_tensors
        query_shape, key_shape = ctx.shapes
        gradient = gradient.contiguous()
        d_query = gradient.new_empty(query_shape)
        d_key, d_value = gradient.new_empty(key_shape), gradient.new_empty(key_shape)
        levels: list[tuple[_Level, tuple[Tensor, ...], tuple[Tensor, Tensor] | None]] = []
        shared: tuple[Tensor, Tensor] | None = None
        for level, places in ctx.levels:
            if levels:
                shared = _below(shared, *levels[-1][1][1:3])
            levels.append((level, saved[places], shared))
        d_below: tuple[Tensor, Tensor] | None = None
        # From the bottom up: what is seen gets its gradient from what sees it.
        for level, (q, k, v, *kept), shared in reversed(levels):
            d_out = level.segments.spread(gradient, key_shape[1])
            dq, dk, dv, d_shared = level.backward(d_out, q, k, v, shared, tuple(kept))
            if d_below is not None:
                d_above = _add_from_below(dk, d_below[0]), _add_from_below(dv, d_below[1])
                if d_shared is not None:
                    d_shared = (d_shared[0] + d_above[0], d_shared[1] + d_above[1])
            level.segments.collect(dq, d_query)
            level.segments.collect(dk[:, :, :, None], d_key)
            level.segments.collect(dv[:, :, :, None], d_value)
            d_below = d_shared
        return d_query, d_key, d_value, None, None


def _below(shared: tuple[Tensor, Tensor] | None, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """What the next level sees, [P·G, K, L + T, D]: what this one sees [P, K, L, D], then its own [P, K, G, T, D]."""
    P, K, G, T, D = k.shape
    own = [x.transpose(1, 2).reshape(P * G, K, T, D) for x in (k, v)]
    if shared is None:
        return own[0], own[1]
    above = [x.repeat_interleave(G, dim=0) for x in shared]
    return torch.cat([above[0], own[0]], dim=2), torch.cat([above[1], own[1]], dim=2)


def _add_from_below(d_own: Tensor, d_below: Tensor) -> Tensor:
    """The way back: adds to `d_own` [P, K, G, T, D] its share, and returns that of what it sees, [P, K, L, D]."""
    P, K, G, T, D = d_own.shape
    d_below = d_below.view(P, G, K, -1, D)
    L = d_below.shape[3] - T
    d_own += d_below[:, :, :, L:].transpose(1, 2)
    return d_below[:, :, :, :L].sum(1)


@dataclass(frozen=True)
class _Level:
    """Queries [P, K, G, r, T, D] over own keys [P, K, G, T, D] and, but at the top, shared ones [P, K, L, D]."""

    segments: Segments
    scaling: float

    def _is_large(self, q: Tensor) -> bool:
        P, K, G, r, T, _ = q.shape
        scores = P * K * G * r * T * (self.segments.seen_places + T)
        return scores > LARGE and operators.has_flash_attention()

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, shared: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self._is_large(q):
            return self._flash_forward(q, k, v, shared)
        P, K, G, r, T, D = q.shape
        own, joint = (P * K * G, r * T), (P * K, G * r * T)
        over_own = (q.view(*own, D) @ k.view(-1, T, D).mT).view(P, K, G, r, T, T)
        over_seen = q.new_empty(P, K, G, r, T, self.segments.seen_places)
        if shared:
            L = self.segments.seen_places
            torch.bmm(q.view(*joint, D), shared[0].reshape(P * K, L, D).mT, out=over_seen.view(*joint, L))
        flat = (P * K * G * r, -1)
        kernels.join_softmax(
            over_seen.view(flat), over_own.view(flat), self.segments.seen, T,
            self.segments.window or 0, self.scaling,
        )  # fmt: skip
        out = over_own.view(*own, T) @ v.view(-1, T, D)
        if shared:
            out = out.view(*joint, D)
            out.baddbmm_(over_seen.view(*joint, L), shared[1].reshape(P * K, L, D))
        out = out.view(q.shape)
        return out, (over_seen, over_own, out)

    def backward(
        self,
        d_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        shared: tuple[Tensor, Tensor] | None,
        kept: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        if self._is_large(q):
            return self._flash_backward(d_out, q, k, v, shared, kept)
        P, K, G, r, T, D = q.shape
        w_seen, w_own, out = kept
        own, joint = (P * K * G, r * T), (P * K, G * r * T)
        d_over_own = (d_out.view(*own, D) @ v.view(-1, T, D).mT).view(w_own.shape)
        d_v = w_own.view(*own, T).mT @ d_out.view(*own, D)
        d_over_seen = torch.empty_like(w_seen)
        if shared:
            L = self.segments.seen_places
            d_joint = d_out.view(*joint, D)
            torch.bmm(d_joint, shared[1].reshape(P * K, L, D).mT, out=d_over_seen.view(*joint, L))
            d_shared_v = (w_seen.view(*joint, L).mT @ d_joint).view(P, K, L, D)
        flat = (P * K * G * r, -1)
        kernels.join_softmax_gradient(
            w_seen.view(flat), w_own.view(flat), out.view(flat), d_out.view(flat), T, self.scaling,
            d_over_seen.view(flat), d_over_own.view(flat),
        )  # fmt: skip
        s_own = d_over_own.view(*own, T)
        d_q = s_own @ k.view(-1, T, D)
        d_k = s_own.mT @ q.view(*own, D)
        d_shared = None
        if shared:
            s_joint = d_over_seen.view(*joint, L)
            d_q = d_q.view(*joint, D).baddbmm_(s_joint, shared[0].reshape(P * K, L, D))
            d_shared = ((s_joint.mT @ q.view(*joint, D)).view(P, K, L, D), d_shared_v)
        return d_q.view(q.shape), d_k.view(k.shape), d_v.view(v.shape), d_shared

    # With flash kernels: nothing of the scores is kept. ---------------------------------------------------

    def _own(self, x: Tensor) -> Tensor:
        """[P, K, G, r, T, D] → [P·G, K·r, T, D]: each answer a sequence of its own."""
        P, K, G, r, T, D = x.shape
        return x.permute(0, 2, 1, 3, 4, 5).reshape(P * G, K * r, T, D)

    def _own_back(self, x: Tensor, shape: torch.Size) -> Tensor:
        P, K, G, r, T, D = shape
        return x.view(P, G, K, r, T, D).permute(0, 2, 1, 3, 4, 5)

    def _own_mask(self, L: int, G: int) -> Tensor | None:
        """None where plain causality is all; else what to add to the scores over the answer itself."""
        if self.segments.window is None:
            return None
        mask = self.segments.bias[:, None, :, L:]
        return mask.repeat_interleave(G, dim=0) if mask.shape[0] > 1 else mask

    def _shared_mask(self, L: int, rows: int) -> Tensor:
        """What to add to the scores over the prompt, for query rows ordered (G, r, T)."""
        mask = self.segments.bias[:, None, :, :L]
        return mask[:, :, :1] if self.segments.window is None else mask.repeat(1, 1, rows // mask.shape[2], 1)

    def _flash_forward(
        self, q: Tensor, k: Tensor, v: Tensor, shared: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        P, K, G, r, T, D = q.shape
        L = shared[0].shape[2] if shared else 0
        mask = self._own_mask(L, G)
        out, lse = operators.flash_attention(
            self._own(q), self._expanded(k, r), self._expanded(v, r), mask, self.scaling, causal=mask is None
        )
        out = self._own_back(out, q.shape)
        lse = lse.view(P, G, K, r, T).permute(0, 2, 1, 3, 4)
        if shared:
            rows = G * r * T
            over, over_lse = operators.flash_attention(
                q.reshape(P, K, rows, D), *shared, self._shared_mask(L, rows), self.scaling, causal=False
            )
            over_lse = over_lse.view(P, K, G, r, T)
            out = torch.lerp(
                out.float(), over.view(q.shape).float(), torch.sigmoid(over_lse - lse)[..., None]
            ).to(q.dtype)
            lse = torch.logaddexp(lse, over_lse)
        return out.contiguous(), (out.contiguous(), lse.contiguous())

    def _flash_backward(
        self,
        d_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        shared: tuple[Tensor, Tensor] | None,
        kept: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        P, K, G, r, T, D = q.shape
        L = shared[0].shape[2] if shared else 0
        out, lse = kept
        mask = self._own_mask(L, G)
        own_lse = lse.permute(0, 2, 1, 3, 4).reshape(P * G, K * r, T)
        dq, dk, dv = operators.flash_attention_gradient(
            self._own(d_out), self._own(q), self._expanded(k, r), self._expanded(v, r), self._own(out), own_lse,
            mask, self.scaling, causal=mask is None,
        )  # fmt: skip
        d_q = self._own_back(dq, q.shape)
        d_k, d_v = (x.view(P, G, K, r, T, D).sum(dim=3).transpose(1, 2).contiguous() for x in (dk, dv))
        d_shared = None
        if shared:
            rows = (P, K, G * r * T)
            dq, *d_pair = operators.flash_attention_gradient(
                d_out.view(*rows, D), q.view(*rows, D), *shared, out.view(*rows, D), lse.view(rows),
                self._shared_mask(L, rows[2]), self.scaling, causal=False,
            )  # fmt: skip
            d_q = d_q + dq.view(q.shape)
            d_shared = (d_pair[0], d_pair[1])
        return d_q, d_k, d_v, d_shared

    @staticmethod
    def _expanded(x: Tensor, repeat: int) -> Tensor:
        """[P, K, G, T, D] → [P·G, K·r, T, D]: a copy of each key head for each of its query heads."""
        P, K, G, T, D = x.shape
        return x.transpose(1, 2)[:, :, :, None].expand(P, G, K, repeat, T, D).reshape(P * G, K * repeat, T, D)
