"""The plain way: every answer a row of its own, its prompt in front of it, padded to the longest.

For the models whose attention cannot be planned, and the reference that the packed way is tested against.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from ventaja.models.attention import plain_attention
from ventaja.models.layout import PackedRow


def padded_hidden(model: PreTrainedModel, row: PackedRow) -> Tensor:
    """Last hidden states [N, D] of a packed row's tokens; a shared prompt's are those of its first sequence."""
    index_SL = pad_sequence(_sequences(row), batch_first=True, padding_value=-1)
    is_token_SL = index_SL >= 0
    with plain_attention(model):
        output = model.get_decoder()(
            input_ids=row.token_ids_N[index_SL.clamp(min=0)],
            attention_mask=is_token_SL.long(),
            use_cache=False,
        )
    place = torch.arange(index_SL.numel(), device=index_SL.device)[is_token_SL.flatten()]
    first_place_N = place.new_full((row.tokens,), index_SL.numel()).scatter_reduce(
        0, index_SL[is_token_SL], place, "amin"
    )
    return output.last_hidden_state.flatten(0, 1)[first_place_N]


def _sequences(row: PackedRow) -> list[Tensor]:
    """Row indices of each sequence's tokens: a prompt with one of its answers, or alone if it has none."""
    sequences = []
    for p, length in enumerate(row.prompt_length_P.tolist()):
        prompt = row.prompt_index_PL[p, :length]
        answers = [
            torch.cat([prompt, row.answer_index_PGT[p, g, :inputs]])
            for g, inputs in enumerate(row.answer_length_PG[p].tolist())
            if inputs >= 0
        ]
        sequences += answers or [prompt]
    return sequences
