"""Keys and values while sampling: each prompt's once, shared by its answers, and each answer's own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ventaja.cpu import HIDDEN, Cpu
from ventaja.models.group_attention import GroupAttention
from ventaja.models.layout import PackedRow

FEW_KEYS = 512
"""Up to so many keys an answer's attention is one kernel; beyond, products over all answers of a prompt."""

KeyValue = tuple[Tensor, Tensor]


class SharedCache:
    """Key–value storage for S prompts of at most L tokens and B answers; grows along the answers' length.

    Layers allocate on first use, with their own numbers of heads.
    """

    def __init__(self, *, prompts: int, prompt_length: int, answers: int) -> None:
        self.prompts, self.prompt_length, self.answers = prompts, prompt_length, answers
        self.capacity = 32
        self.prompt_SKLD: dict[int, KeyValue] = {}
        self.answer_BKTD: dict[int, KeyValue] = {}

    def allocate(self, layer: int, like_KND: Tensor, value_KND: Tensor) -> None:
        for store, rows, length in (
            (self.prompt_SKLD, self.prompts, self.prompt_length),
            (self.answer_BKTD, self.answers, self.capacity),
        ):
            store[layer] = (
                like_KND.new_zeros(rows, like_KND.shape[0], length, like_KND.shape[2]),
                value_KND.new_zeros(rows, value_KND.shape[0], length, value_KND.shape[2]),
            )

    def reserve(self, length: int) -> None:
        """Make room for answers of `length` tokens."""
        if length <= self.capacity:
            return
        old, self.capacity = self.capacity, max(length, 2 * self.capacity)
        for layer, pair in self.answer_BKTD.items():
            key, value = (x.new_zeros(x.shape[0], x.shape[1], self.capacity, x.shape[3]) for x in pair)
            key[:, :, :old], value[:, :, :old] = pair
            self.answer_BKTD[layer] = (key, value)

    def move_answers(self, source: list[int], target: list[int], length: int) -> None:
        """Copy the first `length` entries of answers `source` over answers `target`."""
        for pair in self.answer_BKTD.values():
            for store in pair:
                store[target, :, :length] = store[source, :, :length]


class Prefill:
    """The plan of a prompts-only row: attend causally, and keep keys and values in the given prompt slots."""

    def __init__(self, row: PackedRow, cache: SharedCache, slots: list[int], cpu: Cpu) -> None:
        self.row, self.cache, self.slots = row, cache, slots
        self.attention = GroupAttention(row, cpu)

    def attend(
        self,
        layer: int,
        query_HND: Tensor,
        key_KND: Tensor,
        value_KND: Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        if layer not in self.cache.prompt_SKLD:
            self.cache.allocate(layer, key_KND, value_KND)
        P, L = self.row.prompt_index_PL.shape
        for store, new_KND in zip(self.cache.prompt_SKLD[layer], (key_KND, value_KND), strict=True):
            new = new_KND[:, self.row.prompt_index_PL.flatten()].view(new_KND.shape[0], P, L, -1)
            store[self.slots, :, :L] = new.transpose(0, 1)
        return self.attention.attend(
            layer, query_HND, key_KND, value_KND, scaling=scaling, window=window, softcap=softcap
        )


@dataclass(frozen=True)
class Membership:
    """Which active answer belongs to which prompt slot; made anew only when answers come or go.

    Answers stand in a grid [S, G], so that one product serves all answers of a prompt.
    """

    slot_B: Tensor
    grid_SG: Tensor
    """Row of each grid place; 0 where there is none."""
    place_B: Tensor
    """Flat grid place of each row."""
    prompt_length_S: Tensor

    @classmethod
    def of(cls, slots: list[int], prompt_lengths: list[int], device: torch.device) -> Membership:
        members: list[list[int]] = [[] for _ in prompt_lengths]
        for row, slot in enumerate(slots):
            members[slot].append(row)
        G = max(len(rows) for rows in members)
        grid = torch.zeros(len(members), G, dtype=torch.long)
        place = torch.zeros(len(slots), dtype=torch.long)
        for slot, rows in enumerate(members):
            grid[slot, : len(rows)] = torch.tensor(rows, dtype=torch.long)
            place[rows] = slot * G + torch.arange(len(rows))
        return cls(
            torch.tensor(slots, device=device),
            grid.to(device),
            place.to(device),
            torch.tensor(prompt_lengths, device=device),
        )


class Decode:
    """The plan of one decoding step: B answers, one new token each, `length_B` tokens already in the cache."""

    def __init__(self, cache: SharedCache, members: Membership, length_B: Tensor, cpu: Cpu) -> None:
        self.cache, self.members, self.length_B, self.cpu = cache, members, length_B, cpu
        self.rows = torch.arange(len(length_B), device=length_B.device)
        self.longest = int(length_B.max()) + 1
        self._masks: dict[int | None, tuple[Tensor, Tensor]] = {}

    def attend(
        self,
        layer: int,
        query_HND: Tensor,
        key_KND: Tensor,
        value_KND: Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        H, B, D = query_HND.shape
        K = key_KND.shape[0]
        repeat = H // K
        prompt_key, prompt_value = self.cache.prompt_SKLD[layer]
        answer_key, answer_value = self.cache.answer_BKTD[layer]
        same_width = value_KND.shape[2] == D
        few_keys = self.cache.prompt_length + self.longest <= FEW_KEYS
        if softcap is None and same_width and few_keys and self.cpu.takes(query_HND, key_KND, value_KND):
            return self.cpu.decode_attention(
                query_HND.transpose(0, 1),
                (key_KND.transpose(0, 1), value_KND.transpose(0, 1)),
                (prompt_key, prompt_value),
                (answer_key, answer_value),
                slot_B=self.members.slot_B,
                prompt_length_S=self.members.prompt_length_S,
                length_B=self.length_B,
                window=window,
                scaling=scaling,
            )
        answer_key[self.rows, :, self.length_B] = key_KND.transpose(0, 1)
        answer_value[self.rows, :, self.length_B] = value_KND.transpose(0, 1)
        prompt_mask, answer_mask = self._hidden(window, query_HND.dtype)

        query = query_HND.transpose(0, 1)  # [B, H, D]
        S, G = self.members.grid_SG.shape
        shared = query[self.members.grid_SG.flatten()].view(S, G, K, repeat, D).transpose(1, 2)
        over_prompt, prompt_lse = self._partial_attention(
            shared.reshape(S, K, G * repeat, D),
            prompt_key[:S],
            prompt_value[:S],
            prompt_mask if window is None else prompt_mask.repeat_interleave(repeat, dim=2),
            scaling,
            softcap,
        )
        over_prompt = (
            over_prompt.view(S, K, G, repeat, -1).transpose(1, 2).flatten(0, 1)[self.members.place_B]
        )
        prompt_lse = prompt_lse.view(S, K, G, repeat).transpose(1, 2).flatten(0, 1)[self.members.place_B]
        over_answer, answer_lse = self._partial_attention(
            query.reshape(B, K, repeat, D),
            answer_key[:B, :, : self.longest],
            answer_value[:B, :, : self.longest],
            answer_mask,
            scaling,
            softcap,
        )
        share = torch.sigmoid(prompt_lse - answer_lse)[..., None].to(query.dtype)  # [B, K, r, 1]
        return torch.lerp(over_answer, over_prompt, share).reshape(B, H, -1)

    def _hidden(self, window: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if window not in self._masks:
            device = self.length_B.device
            place_L = torch.arange(self.cache.prompt_length, device=device)
            place_T = torch.arange(self.longest, device=device)
            sees_prompt = (place_L < self.members.prompt_length_S[:, None])[:, None, None]  # [S, 1, 1, L]
            sees_answer = (place_T <= self.length_B[:, None])[:, None, None]  # [B, 1, 1, T]
            if window is not None:
                position_B = self.members.prompt_length_S[self.members.slot_B] + self.length_B
                position_SG = position_B[self.members.grid_SG]
                near = position_SG[..., None] - place_L < window  # [S, G, L]
                sees_prompt = sees_prompt & near[:, None]
                sees_answer = sees_answer & (self.length_B[:, None] - place_T < window)[:, None, None]
            self._masks[window] = tuple(  # type: ignore[assignment]
                torch.zeros(sees.shape, dtype=dtype, device=device).masked_fill_(~sees, HIDDEN)
                for sees in (sees_prompt, sees_answer)
            )
        return self._masks[window]

    def _partial_attention(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        """Attention over a part of the keys, and the log of its sum of exponentials, by which parts are joined."""
        if softcap is None and (faster := self.cpu.attention_with_total(query, key, value, mask, scaling)):
            return faster
        scores = (query @ key.transpose(-1, -2)).float() * scaling
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores + mask
        lse = scores.logsumexp(dim=-1)
        return (scores - lse[..., None]).exp().to(value.dtype) @ value, lse
