"""The plain way: every answer a row of its own, its prompt in front of it, padded to the longest.

For the models whose attention cannot be planned, and the reference that the packed way is tested against.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from ventaja.models.attention import angles_change_after, plain_attention
from ventaja.models.layout import PackedRow


def padded_hidden(model: PreTrainedModel, row: PackedRow) -> tuple[Tensor, Tensor | None]:
    """Last hidden states that predict a packed row's targets [M, D], and those at its answers' ends [A, D] if wanted."""
    limit = angles_change_after(model)
    sequences = _sequences(row)
    hidden: list[Tensor] = [row.token_ids_N.new_empty(0)] * len(sequences)
    for is_long in (False, True):
        chosen = [
            s
            for s, (index, _) in enumerate(sequences)
            if (limit is not None and len(index) > limit) == is_long
        ]
        if not chosen:
            continue
        index_SL = pad_sequence([sequences[s][0] for s in chosen], batch_first=True, padding_value=-1)
        with plain_attention(model):
            output = model.get_decoder()(
                input_ids=row.token_ids_N[index_SL.clamp(min=0)],
                attention_mask=(index_SL >= 0).long(),
                use_cache=False,
            )
        for s, hidden_LD in zip(chosen, output.last_hidden_state, strict=True):
            index, prompt = sequences[s]
            hidden[s] = hidden_LD[prompt - 1 : len(index)]  # from the prompt's last token on
    length_A = torch.tensor([len(states) for states in hidden], device=row.token_ids_N.device)
    start_A = length_A.cumsum(0) - length_A
    hidden_ND = torch.cat(hidden)
    ends = None if row.end_A is None else hidden_ND[start_A + length_A - 1]
    return hidden_ND[start_A[row.answer_M] + row.time_M], ends


def _sequences(row: PackedRow) -> list[tuple[Tensor, int]]:
    """Row indices of each answer's sequence, its prompt in front, and how many of them are the prompt's."""
    return [
        (torch.cat([row.prompt_index_PL[p, :length], row.answer_index_PGT[p, g, :inputs]]), length)
        for p, length in enumerate(row.prompt_length_P.tolist())
        for g, inputs in enumerate(row.answer_length_PG[p].tolist())
        if inputs >= 0
    ]
