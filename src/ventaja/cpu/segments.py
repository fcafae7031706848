"""A packed row as a tree of segments, level by level, in the tables that the fast attention reads.

    row      prefix │ rest of prompt 0 │ rest of prompt 1 │ a₀₀ │ a₀₁ │ a₁₀ │ a₁₁      N tokens, no padding
    level      0    │        1                            │           2

                    prefix                 level 0:    1 segment, sees nothing before itself
                   ╱      ╲
            prompt 0      prompt 1         level 1:    P segments, each sees the prefix
             ╱   ╲         ╱   ╲
           a₀₀   a₀₁     a₁₀   a₁₁         level 2:  P·G segments, each sees the prefix and its prompt

A segment also sees itself, causally. A level's segments lie in a grid [P, G, T], G of them below each of P parents and T
places for each; what a segment sees before itself is the same for the G of a parent, which is what saves the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ventaja.cpu import kernels
from ventaja.cpu.operators import HIDDEN


@runtime_checkable
class Row(Protocol):
    """What is read of a packed row; `models.PackedRow` says what each is."""

    @property
    def prefix(self) -> int: ...
    @property
    def prompt_length_P(self) -> Tensor: ...
    @property
    def prompt_index_PL(self) -> Tensor: ...
    @property
    def prompt_slot_n(self) -> Tensor: ...
    @property
    def answer_index_PGT(self) -> Tensor: ...
    @property
    def answer_slot_n(self) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Segments:
    """One level: its tokens stand in the row from `start` on, and in a padded grid [P, G, T]."""

    start: int
    shape: tuple[int, int, int]
    index: Tensor
    """Row index of each grid place, flat; −1 where there is no token."""
    slot: Tensor
    """Flat grid place of each of the level's tokens."""
    seen: Tensor
    """[P] how many tokens the segments below each parent see before themselves."""
    seen_places: int
    """L, the most of them."""
    window: int | None

    def spread(self, x_NHD: Tensor, key_heads: int) -> Tensor:
        """[N, H, D] → [P, K, G, r, T, D]: the level's tokens in the grid, r query heads to a key head; else 0."""
        P, G, T = self.shape
        heads, width = x_NHD.shape[1:]
        grid = x_NHD.new_empty(P, key_heads, G, heads // key_heads, T, width)
        kernels.gather_heads(x_NHD, self.index, grid)
        return grid

    def collect(self, grid: Tensor, out_NHD: Tensor) -> None:
        """[P, K, G, r, T, D] back into its rows of [N, H, D]."""
        kernels.scatter_heads(grid.contiguous(), self.slot, self.start, out_NHD)

    @cached_property
    def bias(self) -> Tensor:
        """[P, T, L + T] what to add to the scores so that a query sees what it should."""
        T, L = self.shape[2], self.seen_places
        place_T, place_L = torch.arange(T), torch.arange(L)
        gap_TT = place_T[:, None] - place_T
        own_TT = gap_TT >= 0
        length_P11 = self.seen[:, None, None]
        above_PTL = (place_L < length_P11).expand(-1, T, -1)
        if self.window is not None:
            own_TT = own_TT & (gap_TT < self.window)
            above_PTL = above_PTL & (length_P11 + place_T[:, None] - place_L < self.window)
        sees = torch.cat([above_PTL, own_TT.expand(len(above_PTL), -1, -1)], dim=-1)
        return torch.zeros(sees.shape).masked_fill_(~sees, HIDDEN)


def levels(row: Row, window: int | None) -> tuple[Segments, ...]:
    """The row's levels from the top; one without tokens is left out."""
    prefix, prompt_tokens = row.prefix, row.prompt_slot_n.numel()
    P, L = row.prompt_index_PL.shape
    prompt_places = _with_gaps(row.prompt_index_PL, row.prompt_slot_n).view(P, L)
    own_slot = row.prompt_slot_n[prefix:]
    all_levels = (
        Segments(
            start=0,
            shape=(1, 1, prefix),
            index=torch.arange(prefix),
            slot=torch.arange(prefix),
            seen=torch.zeros(1, dtype=torch.long),
            seen_places=0,
            window=window,
        ),
        Segments(
            start=prefix,
            shape=(1, P, L - prefix),
            index=prompt_places[:, prefix:].contiguous().flatten(),  # first a copy: one column is a view
            slot=own_slot // L * (L - prefix) + own_slot % L - prefix,
            seen=torch.full((1,), prefix),
            seen_places=prefix,
            window=window,
        ),
        Segments(
            start=prompt_tokens,
            shape=(P, row.answer_index_PGT.shape[1], row.answer_index_PGT.shape[2]),
            index=_with_gaps(row.answer_index_PGT, row.answer_slot_n),
            slot=row.answer_slot_n,
            seen=row.prompt_length_P,
            seen_places=L,
            window=window,
        ),
    )
    return tuple(level for level in all_levels if level.shape[2])


def _with_gaps(index: Tensor, slot_n: Tensor) -> Tensor:
    """The flat table with −1 at the places where there is no token."""
    gaps = torch.full((index.numel(),), -1)
    gaps[slot_n] = index.flatten()[slot_n]
    return gaps
