"""Attention over a packed row: prompts are causal once, answers see their prompt and themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from ventaja.cpu import PLAIN, Attend, Cpu
from ventaja.models.layout import PackedRow


class GroupAttention:
    """The plan of a training pass. Shapes: P prompts of L tokens, G answers each of T, H heads, K key heads.

    Every prompt has the prefix's keys as its own; what saves work is that the row holds them once.

    Scores of answers are made over the shared prompt and over the answer itself, and joined in one softmax, so a
    prompt's keys and values are neither copied per answer nor computed twice.

    `attend` asks for a faster way on a CPU (`cpu/group_attention.py`), and else goes the one written below.
    """

    def __init__(self, row: PackedRow, cpu: Cpu = PLAIN) -> None:
        self.row, self.cpu = row, cpu
        P, L = row.prompt_index_PL.shape
        _, G, T = row.answer_index_PGT.shape
        self.P, self.L, self.G, self.T = P, L, G, T
        self._masks: dict[int | None, tuple[Tensor, Tensor | None]] = {}
        self._fast: Attend | None = None

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
        query, key, value = (x.transpose(0, 1) for x in (query_HND, key_KND, value_KND))  # [N, heads, D]
        same_width = query.shape[2] == value.shape[2]
        if softcap is None and same_width and self.cpu.takes(query, key, value):
            self._fast = self._fast or self.cpu.attend_in(self.row)
            return self._fast(query, key, value, scaling, window)
        return self._attend_plainly(query, key, value, scaling, window, softcap)

    def _attend_plainly(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        H, K, D = query.shape[1], key.shape[1], query.shape[2]
        repeat = H // K
        P, L, G, T = self.P, self.L, self.G, self.T
        sees_prompt_PLL, sees_answer = self._visible(window)

        prompt_index = self.row.prompt_index_PL.flatten()
        prompt_key, prompt_value = (
            x[prompt_index].view(P, L, K, -1).transpose(1, 2) for x in (key, value)
        )  # [P, K, L, D]
        prompt_query = query[prompt_index].view(P, L, K, repeat, D).permute(0, 2, 3, 1, 4)  # [P, K, r, L, D]
        scores = prompt_query @ prompt_key[:, :, None].transpose(-1, -2)
        prompt_out = (
            _softmax(scores, sees_prompt_PLL[:, None, None], scaling, softcap) @ prompt_value[:, :, None]
        )
        output = prompt_out.permute(0, 3, 1, 2, 4).reshape(P * L, H, -1)[self.row.prompt_slot_n]
        if T == 0 or sees_answer is None:
            return output

        answer_index = self.row.answer_index_PGT.flatten()
        answer_query = query[answer_index].view(P, G, T, K, repeat, D).permute(0, 3, 1, 4, 2, 5)
        answer_key, answer_value = (
            x[answer_index].view(P, G, T, K, -1).permute(0, 3, 1, 2, 4) for x in (key, value)
        )  # [P, K, G, T, D]
        rows = G * repeat * T
        over_prompt = (answer_query.reshape(P, K, rows, D) @ prompt_key.transpose(-1, -2)).view(
            P, K, G, repeat, T, L
        )
        over_answer = answer_query @ answer_key[:, :, :, None].transpose(-1, -2)
        scores = torch.cat([over_prompt, over_answer], dim=-1)  # [P, K, G, r, T, L + T]
        weights = _softmax(scores, sees_answer[:, None, :, None], scaling, softcap)
        answer_out = (weights[..., :L].reshape(P, K, rows, L) @ prompt_value).view(P, K, G, repeat, T, -1)
        answer_out = answer_out + weights[..., L:] @ answer_value[:, :, :, None]
        answer_out = answer_out.permute(0, 2, 4, 1, 3, 5).reshape(P * G * T, H, -1)[self.row.answer_slot_n]
        return torch.cat([output, answer_out])

    def _visible(self, window: int | None) -> tuple[Tensor, Tensor | None]:
        """Masks of what each query sees: prompts [P, L, L], answers [P, G, T, L + T]. Padding sees something,
        so that its softmax stays finite; its output is dropped."""
        if window not in self._masks:
            device = self.row.token_ids_N.device
            place_L = torch.arange(self.L, device=device)
            place_T = torch.arange(self.T, device=device)
            gap = place_L[:, None] - place_L[None, :]
            sees_prompt = (gap >= 0).expand(self.P, -1, -1)
            if window is not None:
                sees_prompt = sees_prompt & (gap < window)
            sees_answer = None
            if self.T:
                length_P = self.row.prompt_length_P[:, None, None]
                gap_to_prompt = length_P + place_T[None, :, None] - place_L[None, None, :]  # [P, T, L]
                over_prompt = (place_L < length_P).expand(-1, self.T, -1)
                gap = place_T[:, None] - place_T[None, :]
                over_answer = gap >= 0
                if window is not None:
                    over_prompt = over_prompt & (gap_to_prompt < window)
                    over_answer = over_answer & (gap < window)
                sees_answer = torch.cat([over_prompt, over_answer.expand(self.P, -1, -1)], dim=-1)
                sees_answer = sees_answer[:, None].expand(-1, self.G, -1, -1)
            self._masks[window] = (sees_prompt, sees_answer)
        return self._masks[window]


def _softmax(scores: Tensor, visible: Tensor, scaling: float, softcap: float | None) -> Tensor:
    """Softmax in float32 of scaled scores over what is visible, in the scores' own precision."""
    exact = scores.float() * scaling
    if softcap is not None:
        exact = softcap * torch.tanh(exact / softcap)
    return exact.masked_fill(~visible, -torch.inf).softmax(dim=-1).to(scores.dtype)
