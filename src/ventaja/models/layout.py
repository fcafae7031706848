"""Where every token of a packed row is: what prompts share once, each prompt once, its answers, and no padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORTHWHILE = 64
"""Prompts of a row share their common prefix if that saves at least so many tokens."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A prompt and answers to it, as token ids: what has to stay together to share the prompt's computation."""

    prompt_ids: Sequence[int]
    answers: Sequence[Sequence[int]]
    is_target: Sequence[Sequence[bool]] | None = None
    """True at the tokens of each answer that are to be predicted: those that were chosen. All, if None."""
    keep_last: Sequence[bool] | None = None
    """True for the answers whose last token is an input too. What `pack_row` says for all, if None."""


@dataclass(frozen=True, kw_only=True)
class PackedRow:
    """One row of N tokens: the prefix, then all prompts, then all answers, and tables that say which is which.

    P prompts of at most L tokens, G answers per prompt at most, each of at most T input tokens. An answer's
    last token predicts nothing that counts, so it is no input, unless a value after it is wanted (`end_A`).

    The prefix is what all of the row's prompts have in common at their beginning, such as a system message; it stands
    in the row once. Each prompt has at least one token of its own.
    """

    token_ids_N: Tensor
    prefix: int
    """Tokens that all prompts share, the row's first; 0 if sharing would hardly save any."""
    position_N: Tensor
    """Position of each token in its own sequence (answers go on where their prompt ends)."""
    prompt_length_P: Tensor
    answer_length_PG: Tensor
    """Input tokens of each answer (its length, less 1 without its last token); −1 where a prompt has fewer than G."""
    prompt_index_PL: Tensor
    """Row index of each prompt token, the prefix's included; 0 beyond its end."""
    answer_index_PGT: Tensor
    """Row index of each answer's input token; 0 beyond its end."""
    prompt_slot_n: Tensor
    """For the row's first tokens (the prompts'): their flat place in [P, L]; the prefix's in the first prompt."""
    answer_slot_n: Tensor
    """For the row's remaining tokens (the answers'): their flat place in [P, G, T]."""
    source_M: Tensor
    """Row index whose hidden state predicts target m: the prompt's last token for an answer's first."""
    target_M: Tensor
    """The answers' tokens that are to be predicted, answer by answer."""
    answer_M: Tensor
    """Which of the row's A answers each target belongs to, in their order."""
    time_M: Tensor
    """Each target's place in its answer."""
    end_A: Tensor | None = None
    """Row index of each answer's last input, from which a value after it is read: its last token, if that was kept (a
    number without meaning for one that was not). None where no answer's was."""

    @property
    def tokens(self) -> int:
        return int(self.token_ids_N.numel())

    def to(self, device: torch.device | str) -> PackedRow:
        tables: dict[str, Any] = {
            name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)
        }
        return replace(self, **tables)


def pack_row(
    bundles: Sequence[Bundle], *, worthwhile: int = WORTHWHILE, keep_last: bool = False
) -> PackedRow:
    """Lay bundles out in one row. Every prompt needs at least one token; answers may be of any length ≥ 1.

    What the prompts have in common at their beginning is shared if it saves `worthwhile` tokens. With `keep_last` an
    answer's last token is an input too, unless its bundle says otherwise.
    """
    P = len(bundles)
    prompt_length = np.array([len(b.prompt_ids) for b in bundles], dtype=np.int64)
    if P == 0 or prompt_length.min() < 1:
        raise ValueError("a row needs at least one bundle, and each prompt at least one token")
    G = max(len(b.answers) for b in bundles)
    answer_length = np.full((P, G), -1, dtype=np.int64)
    for p, bundle in enumerate(bundles):
        for g, answer in enumerate(bundle.answers):
            if len(answer) < 1:
                raise ValueError(f"answer {g} of prompt {p} has no tokens")
            answer_length[p, g] = len(answer) - (not _keeps(bundle, g, keep_last))
    keeps_any = any(_keeps(b, g, keep_last) for b in bundles for g in range(len(b.answers)))
    L, T = int(prompt_length.max()), max(int(answer_length.max(initial=0)), 0)

    prompt_index = np.zeros((P, L), dtype=np.int64)
    answer_index = np.zeros((P, G, T), dtype=np.int64)
    tokens: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    prompt_slots: list[np.ndarray] = []
    answer_slots: list[np.ndarray] = []
    sources: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    times: list[np.ndarray] = []
    ends: list[int] = []
    prefix = common_prefix([b.prompt_ids for b in bundles])
    if (P - 1) * prefix < worthwhile:
        prefix = 0
    start = prefix
    tokens.append(np.asarray(bundles[0].prompt_ids[:prefix], dtype=np.int64))
    positions.append(np.arange(prefix))
    prompt_slots.append(np.arange(prefix))
    for p, bundle in enumerate(bundles):
        own = np.arange(prefix, prompt_length[p])
        tokens.append(np.asarray(bundle.prompt_ids[prefix:], dtype=np.int64))
        positions.append(own)
        prompt_index[p, :prefix] = np.arange(prefix)
        prompt_index[p, own] = start + own - prefix
        prompt_slots.append(p * L + own)
        start += len(own)
    for p, bundle in enumerate(bundles):
        for g, answer in enumerate(bundle.answers):
            length = answer_length[p, g]
            ids = np.asarray(answer, dtype=np.int64)
            tokens.append(ids[:length])
            positions.append(prompt_length[p] + np.arange(length))
            answer_index[p, g, :length] = start + np.arange(length)
            answer_slots.append((p * G + g) * T + np.arange(length))
            last_of_prompt = prompt_index[p, prompt_length[p] - 1]
            is_target = np.ones(len(ids), dtype=bool)
            if bundle.is_target is not None:
                is_target[:] = bundle.is_target[g]
            sources.append(np.concatenate([[last_of_prompt], start + np.arange(len(ids) - 1)])[is_target])
            targets.append(ids[is_target])
            times.append(np.nonzero(is_target)[0])
            start += length
            ends.append(start - 1)

    def join(parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64))

    return PackedRow(
        token_ids_N=join(tokens),
        prefix=prefix,
        position_N=join(positions),
        prompt_length_P=torch.from_numpy(prompt_length),
        answer_length_PG=torch.from_numpy(answer_length),
        prompt_index_PL=torch.from_numpy(prompt_index),
        answer_index_PGT=torch.from_numpy(answer_index),
        prompt_slot_n=join(prompt_slots),
        answer_slot_n=join(answer_slots),
        source_M=join(sources),
        target_M=join(targets),
        answer_M=join([np.full(len(time), a) for a, time in enumerate(times)]),
        time_M=join(times),
        end_A=torch.tensor(ends) if keeps_any else None,
    )


def _keeps(bundle: Bundle, answer: int, default: bool) -> bool:
    return default if bundle.keep_last is None else bool(bundle.keep_last[answer])


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with alike, so that one is left to each."""
    first = np.asarray(prompts[0])
    common = min(map(len, prompts)) - 1
    for prompt in prompts[1:]:
        differs = np.nonzero(first[:common] != np.asarray(prompt[:common]))[0]
        common = int(differs[0]) if len(differs) else common
    return common
