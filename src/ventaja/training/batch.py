"""One round's samples as plain tables: sequences by tokens, and rows for the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ventaja.models import Bundle, PackedRow, TokenizedExample, TokenScores, pack_row
from ventaja.models.layout import WORTHWHILE, common_prefix
from ventaja.records import Group
from ventaja.training.algorithms import Algorithm
from ventaja.training.truncation import AS_JUDGED, Truncation


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sequence of a batch, and where it came from."""

    group: int
    """Which group (or example) of the batch it belongs to: sequences of a group share the same prompt."""
    index: int
    """Which trajectory of its group it is."""
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """All that was said after the prompt, chosen or given."""
    is_action: tuple[bool, ...]
    """True at tokens that take part in the loss."""
    is_truncated: bool = False
    """True if a limit cut it off, so that something might have followed its last token."""

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """S sequences of at most T tokens after their prompts. Tables are [S, T] on the CPU: a few numbers per token, whose
    padding costs nothing; what the model multiplies is packed (`rows`).

    The tables follow `samples`. A batch is not changed: `with_columns` gives another one.
    """

    samples: tuple[Sample, ...]
    is_action_ST: Tensor
    """True at tokens that take part in the loss."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Further [S, T] tables: token_reward, is_rewarded, sampler_logprob, ref_logprob, old_logprob, advantage; with a critic
    value, end_value and value_target."""

    @property
    def sequences(self) -> int:
        return len(self.samples)

    @property
    def longest(self) -> int:
        return self.is_action_ST.shape[1]

    @cached_property
    def group_S(self) -> Tensor:
        """Which group each sequence belongs to."""
        return torch.tensor([sample.group for sample in self.samples], dtype=torch.long)

    @cached_property
    def takes_part_S(self) -> Tensor:
        """True for the sequences with an action: the others are masked."""
        return self.is_action_ST.any(dim=1)

    @classmethod
    def of_groups(cls, groups: Sequence[Group], truncation: Truncation = AS_JUDGED) -> Batch:
        """Every validly judged trajectory; broken and unjudged ones take no part.

        With the columns `token_reward` (each reward, penalties for length included, at the token that earned it),
        `is_rewarded` (True at those tokens, also where the reward is 0) and `sampler_logprob`. Tokens that were given are no actions, nor are those of trajectories that are masked.
        """
        valid = [
            (g, group, k, trajectory, judgement)
            for g, group in enumerate(groups)
            for k, (trajectory, judgement) in enumerate(group.judged())
            if judgement.is_valid
        ]
        batch = cls.of_samples(
            [
                Sample(
                    group=g,
                    index=k,
                    prompt_ids=group.prompt_ids,
                    token_ids=trajectory.token_ids,
                    is_action=trajectory.is_chosen
                    if truncation.takes_part(trajectory)
                    else (False,) * len(trajectory),
                    is_truncated=trajectory.is_truncated,
                )
                for g, group, k, trajectory, _ in valid
            ]
        )
        reward_ST = torch.zeros(batch.is_action_ST.shape)
        is_rewarded_ST = torch.zeros(batch.is_action_ST.shape, dtype=torch.bool)
        for s, (_, _, _, trajectory, judgement) in enumerate(valid):
            for t, reward in truncation.rewards(trajectory, judgement):
                reward_ST[s, t] += reward
                is_rewarded_ST[s, t] = True
        sampler_ST = batch.table(
            [[0.0 if x is None else x for x in trajectory.logprobs] for _, _, _, trajectory, _ in valid]
        )
        return batch.with_columns(
            token_reward=reward_ST, is_rewarded=is_rewarded_ST, sampler_logprob=sampler_ST
        )

    @classmethod
    def of_examples(cls, examples: Sequence[TokenizedExample]) -> Batch:
        """Supervised examples: what stands before the first answer token is the prompt."""
        starts = [example.is_action.index(True) for example in examples]
        return cls.of_samples(
            [
                Sample(
                    group=e,
                    index=0,
                    prompt_ids=example.token_ids[:start],
                    token_ids=example.token_ids[start:],
                    is_action=example.is_action[start:],
                )
                for e, (example, start) in enumerate(zip(examples, starts, strict=True))
            ]
        )

    @classmethod
    def of_samples(cls, samples: Sequence[Sample]) -> Batch:
        """These samples, without any column yet."""
        longest = max(map(len, samples), default=0)
        table = torch.zeros(len(samples), longest, dtype=torch.bool)
        for s, sample in enumerate(samples):
            table[s, : len(sample)] = torch.tensor(sample.is_action)
        return cls(samples=tuple(samples), is_action_ST=table)

    def with_columns(self, **tables: Tensor) -> Batch:
        """The same samples with these tables too, in place of earlier ones of their names."""
        return replace(self, columns={**self.columns, **tables})

    def table(self, values: Sequence[Sequence[float]]) -> Tensor:
        """An [S, T] table of per-token values, 0 beyond each sequence's end."""
        result = torch.zeros(self.sequences, self.longest)
        for s, row in enumerate(values):
            result[s, : len(row)] = torch.tensor(row)
        return result

    def per_group(self, values: Sequence[float]) -> Tensor:
        """An [S, T] table of one number for each group, in all places of its sequences."""
        return torch.tensor(values)[self.group_S][:, None].expand(-1, self.longest).contiguous()

    def per_token(self, name: str, s: int) -> list[float | None] | None:
        """A column's values for a sequence, None at tokens that are no actions; None if it has none for it.

        A reward may be earned at any token, so `token_reward` has a value at all of them.
        """
        sample, row = self.samples[s], self.columns[name][s]
        if name == "token_reward":
            return row[: len(sample)].tolist()
        values = [
            x if action else None
            for x, action in zip(row[: len(sample)].tolist(), sample.is_action, strict=True)
        ]
        known = [x for x in values if x is not None and x == x]  # NaN: not scored
        return values if known else None

    def rows(
        self,
        sequences: Sequence[int],
        *,
        max_tokens: int,
        keep_last: bool | Literal["truncated"] = False,
        whole_groups: bool = False,
    ) -> list[Row]:
        """Pack the given sequences, longest groups first, into rows of at most `max_tokens` tokens.

        A group stays together, so that its prompt is computed once, unless it alone exceeds the budget (with `whole_groups`
        also then, for a loss that compares its sequences). What is longer than the budget gets a row of its own. Actions are what rows predict; with `keep_last`
        a sequence's last token is an input too, so that a value after it can be read: of all, or of those that were
        truncated.
        """
        by_group: dict[int, list[int]] = {}
        for s in sequences:
            by_group.setdefault(int(self.group_S[s]), []).append(s)
        pieces = [
            piece
            for members in by_group.values()
            for piece in ([members] if whole_groups else self._split(members, max_tokens))
        ]
        pieces.sort(key=self._cost, reverse=True)
        # What all prompts begin with stands in each row once, if any two of them share enough to be worth it.
        prefix = common_prefix([self.samples[piece[0]].prompt_ids for piece in pieces]) if pieces else 0
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
        return [self._row(row, keep_last) for row in rows]

    def _cost(self, members: list[int]) -> int:
        return len(self.samples[members[0]].prompt_ids) + sum(len(self.samples[s]) for s in members)

    def _split(self, members: list[int], max_tokens: int) -> list[list[int]]:
        pieces: list[list[int]] = [[]]
        for s in members:
            if pieces[-1] and self._cost([*pieces[-1], s]) > max_tokens:
                pieces.append([])
            pieces[-1].append(s)
        return pieces

    def _row(self, pieces: list[list[int]], keep_last: bool | Literal["truncated"]) -> Row:
        bundles = [
            Bundle(
                prompt_ids=self.samples[piece[0]].prompt_ids,
                answers=[self.samples[s].token_ids[: self._needed(s, keep_last)] for s in piece],
                is_target=[self.samples[s].is_action[: self._needed(s, keep_last)] for s in piece],
                keep_last=[self._keeps_last(s, keep_last) for s in piece],
            )
            for piece in pieces
        ]
        order = torch.tensor([s for piece in pieces for s in piece])
        return Row(packed=pack_row(bundles), sequence_A=order)

    def _keeps_last(self, s: int, keep_last: bool | Literal["truncated"]) -> bool:
        return self.samples[s].is_truncated if keep_last == "truncated" else keep_last

    def _needed(self, s: int, keep_last: bool | Literal["truncated"]) -> int:
        """How many of a sequence's tokens the model has to see: nothing depends on what was given after the last action,
        but a value after all of it."""
        flags = self.samples[s].is_action
        is_all = self._keeps_last(s, keep_last) or not any(flags)
        return len(flags) if is_all else len(flags) - flags[::-1].index(True)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A packed row, and where each of its targets stands in the batch's [S, T] tables."""

    packed: PackedRow
    sequence_A: Tensor
    """The sequence of each answer in the row."""

    @cached_property
    def sequence_M(self) -> Tensor:
        return self.sequence_A[self.packed.answer_M]

    @property
    def time_M(self) -> Tensor:
        return self.packed.time_M

    def pick(self, table_ST: Tensor) -> Tensor:
        """The table's values at this row's targets [M]."""
        return table_ST[self.sequence_M, self.time_M]


def epoch_column(name: str, algorithm: Algorithm, epoch: int) -> str:
    """Where an epoch's log-probs of the sampling weights are. Epochs that cut the samples into the same rows share one
    column; the others have their own, for in bfloat16 a log-prob depends on what else is in its row."""
    return name if epoch == 0 or algorithm.minibatches == 1 else f"{name}/{epoch + 1}"


def scores_table(batch: Batch, score: Callable[[PackedRow], Tensor], rows: Sequence[Row]) -> Tensor:
    """A table [S, T] of what `score` says of each target [M] of the rows: 0 at what is no target, NaN for sequences in
    none of the rows."""
    table = torch.zeros(batch.sequences, batch.longest)
    is_scored = torch.zeros(batch.sequences, dtype=torch.bool)
    for row in rows:
        is_scored[row.sequence_M] = True
        table[row.sequence_M, row.time_M] = score(row.packed).float().cpu()
    table[~is_scored] = torch.nan
    return table


def scores_tables(
    batch: Batch, read: Callable[[PackedRow], TokenScores], rows: Sequence[Row]
) -> dict[str, Tensor]:
    """Tables [S, T] of all that is read of the rows: `logprob` and `value` as in `scores_table`, and `end_value`, the
    value after the last token of a truncated sequence in each of its places (0 of one that came to its own end)."""
    tables: dict[str, Tensor] = {}
    for row in rows:
        scores = read(row.packed)
        found = {"logprob": scores.logprob_M if len(scores.logprob_M) else None, "value": scores.value_M}
        for name, score_M in found.items():
            if score_M is not None:
                table = tables.setdefault(name, torch.full(batch.is_action_ST.shape, torch.nan))
                table[row.sequence_A] = 0.0
                table[row.sequence_M, row.time_M] = score_M.float().cpu()
        if scores.value_M is not None:
            table = tables.setdefault("end_value", torch.zeros(batch.is_action_ST.shape))
            if scores.end_value_A is not None:
                is_cut_A = torch.tensor([batch.samples[s].is_truncated for s in row.sequence_A.tolist()])
                table[row.sequence_A] = scores.end_value_A.float().cpu().where(is_cut_A, 0.0)[:, None]
    return tables
