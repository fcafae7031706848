"""One round's samples as plain tables: sequences by tokens, and rows for the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ventaja.models import Bundle, PackedRow, TokenizedExample, pack_row
from ventaja.models.layout import WORTHWHILE, common_prefix
from ventaja.records import Group
from ventaja.training.algorithms import Algorithm


@dataclass(kw_only=True)
class Batch:
    """S sequences of at most T answer tokens. Tables are [S, T] on the CPU: a few numbers per token, whose
    padding costs nothing; what the model multiplies is packed (`rows`)."""

    prompt_ids: list[tuple[int, ...]]
    """Prompt of each sequence."""
    answers: list[tuple[int, ...]]
    """Answer tokens of each sequence."""
    group_S: Tensor
    """Which group each sequence belongs to: sequences of a group share the same prompt."""
    is_action_ST: Tensor
    """True at tokens that take part in the loss."""
    columns: dict[str, Tensor] = field(default_factory=dict)
    """Further [S, T] tables: advantage, old_logprob, ref_logprob, sampler_logprob."""

    @property
    def sequences(self) -> int:
        return len(self.answers)

    @property
    def longest(self) -> int:
        return self.is_action_ST.shape[1]

    @classmethod
    def of_groups(cls, groups: Sequence[Group]) -> Batch:
        """Every validly judged completion; broken and unjudged ones take no part."""
        members = [
            (g, group.prompt_ids, completion.token_ids)
            for g, group in enumerate(groups)
            for completion, judgement in zip(group.completions, group.judgements, strict=True)
            if judgement.is_valid
        ]
        return cls._of(members, [[True] * len(answer) for _, _, answer in members])

    @classmethod
    def of_examples(cls, examples: Sequence[TokenizedExample]) -> Batch:
        """Supervised examples: what stands before the first answer token is the prompt."""
        starts = [example.is_action.index(True) for example in examples]
        members = [
            (e, example.token_ids[:start], example.token_ids[start:])
            for e, (example, start) in enumerate(zip(examples, starts, strict=True))
        ]
        return cls._of(members, [e.is_action[start:] for e, start in zip(examples, starts, strict=True)])

    @classmethod
    def _of(
        cls,
        members: Sequence[tuple[int, tuple[int, ...], tuple[int, ...]]],
        is_action: Sequence[Sequence[bool]],
    ) -> Batch:
        longest = max((len(answer) for _, _, answer in members), default=0)
        table = torch.zeros(len(members), longest, dtype=torch.bool)
        for s, flags in enumerate(is_action):
            table[s, : len(flags)] = torch.tensor(flags)
        return cls(
            prompt_ids=[prompt for _, prompt, _ in members],
            answers=[answer for _, _, answer in members],
            group_S=torch.tensor([g for g, _, _ in members], dtype=torch.long),
            is_action_ST=table,
        )

    def table(self, values: Sequence[Sequence[float]]) -> Tensor:
        """An [S, T] table of per-token values, 0 beyond each answer's end."""
        result = torch.zeros(self.sequences, self.longest)
        for s, row in enumerate(values):
            result[s, : len(row)] = torch.tensor(row)
        return result

    def rows(self, sequences: Sequence[int], *, max_tokens: int) -> list[Row]:
        """Pack the given sequences, longest groups first, into rows of at most `max_tokens` tokens.

        A group stays together, so that its prompt is computed once, unless it alone exceeds the budget. A
        single sequence longer than the budget gets a row of its own.
        """
        by_group: dict[int, list[int]] = {}
        for s in sequences:
            by_group.setdefault(int(self.group_S[s]), []).append(s)
        pieces = [piece for members in by_group.values() for piece in self._split(members, max_tokens)]
        pieces.sort(key=self._cost, reverse=True)
        # What all prompts begin with stands in each row once, if any two of them share enough to be worth it.
        prefix = common_prefix([self.prompt_ids[piece[0]] for piece in pieces]) if pieces else 0
        prefix = prefix if prefix >= WORTHWHILE else 0
        rows: list[list[list[int]]] = []
        room: list[int] = []
        for piece in pieces:
            cost = self._cost(piece) - prefix
            place = next((r for r, left in enumerate(room) if left >= cost), None)
            if place is None:
                rows.append([])
                room.append(max_tokens - prefix)
                place = len(rows) - 1
            rows[place].append(piece)
            room[place] -= cost
        return [self._row(row) for row in rows]

    def _cost(self, members: list[int]) -> int:
        return len(self.prompt_ids[members[0]]) + sum(len(self.answers[s]) for s in members)

    def _split(self, members: list[int], max_tokens: int) -> list[list[int]]:
        pieces: list[list[int]] = [[]]
        for s in members:
            if pieces[-1] and self._cost([*pieces[-1], s]) > max_tokens:
                pieces.append([])
            pieces[-1].append(s)
        return pieces

    def _row(self, pieces: list[list[int]]) -> Row:
        bundles = [
            Bundle(prompt_ids=self.prompt_ids[piece[0]], answers=[self.answers[s] for s in piece])
            for piece in pieces
        ]
        order = [s for piece in pieces for s in piece]
        sequence = torch.cat([torch.full((len(self.answers[s]),), s) for s in order])
        time = torch.cat([torch.arange(len(self.answers[s])) for s in order])
        return Row(packed=pack_row(bundles), sequence_M=sequence, time_M=time)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A packed row, and where each of its targets stands in the batch's [S, T] tables."""

    packed: PackedRow
    sequence_M: Tensor
    time_M: Tensor

    def pick(self, table_ST: Tensor) -> Tensor:
        """The table's values at this row's targets [M]."""
        return table_ST[self.sequence_M, self.time_M]


def epoch_column(name: str, algorithm: Algorithm, epoch: int) -> str:
    """Where an epoch's log-probs of the sampling weights are. Epochs that cut the samples into the same rows share one
    column; the others have their own, for in bfloat16 a log-prob depends on what else is in its row."""
    return name if epoch == 0 or algorithm.minibatches == 1 else f"{name}/{epoch + 1}"


def scores_table(batch: Batch, score: Callable[[PackedRow], Tensor], rows: Sequence[Row]) -> Tensor:
    """A table [S, T] of what `score` says of each target [M] of the rows; NaN for sequences in none of them."""
    table = torch.zeros(batch.sequences, batch.longest)
    is_scored = torch.zeros(batch.sequences, dtype=torch.bool)
    for row in rows:
        is_scored[row.sequence_M] = True
        table[row.sequence_M, row.time_M] = score(row.packed).float().cpu()
    table[~is_scored] = torch.nan
    return table
