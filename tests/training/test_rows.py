"""How a batch is cut into rows."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_task import group

from ventaja.models import TokenizedExample
from ventaja.training.batch import Batch, scores_table

shapes = st.lists(
    st.tuples(st.integers(1, 12), st.lists(st.integers(1, 9), min_size=1, max_size=5)), min_size=1, max_size=6
)


def batch_of(shapes):
    """Every token of an answer is the number of its sequence, so that rows can be read back."""
    number = iter(range(1000))
    groups = [
        group((g,) * prompt, [(next(number),) * n for n in lengths], [1.0] * len(lengths))
        for g, (prompt, lengths) in enumerate(shapes)
    ]
    return Batch.of_groups(groups)


def cost(batch, sequences):
    """Tokens of a row: each prompt once, and the answers."""
    prompts = {int(batch.group_S[s]): len(batch.samples[s].prompt_ids) for s in sequences}
    return sum(prompts.values()) + sum(len(batch.samples[s]) for s in sequences)


@given(shapes, st.integers(1, 60), st.data())
def test_every_sequence_once_within_the_budget(shapes, max_tokens, data):
    batch = batch_of(shapes)
    sequences = data.draw(st.permutations(range(batch.sequences)))
    sequences = sequences[: data.draw(st.integers(1, len(sequences)))]
    rows = batch.rows(sequences, max_tokens=max_tokens)
    held = [row.sequence_M.unique().tolist() for row in rows]
    assert sorted(s for row in held for s in row) == sorted(sequences)
    for row, members in zip(rows, held, strict=True):
        assert cost(batch, members) <= max_tokens or len(members) == 1
        assert row.packed.tokens <= cost(batch, members)
        # the tables' places are those of the row's targets
        assert torch.equal(row.packed.target_M, row.sequence_M)
        for s in members:
            time = row.time_M[row.sequence_M == s]
            assert time.tolist() == list(range(len(batch.samples[s])))


@given(shapes, st.integers(1, 60))
def test_a_group_that_fits_stays_together(shapes, max_tokens):
    batch = batch_of(shapes)
    rows = batch.rows(range(batch.sequences), max_tokens=max_tokens)
    for g in batch.group_S.unique().tolist():
        members = set((batch.group_S == g).nonzero()[:, 0].tolist())
        rows_with_it = [row for row in rows if members & set(row.sequence_M.tolist())]
        if cost(batch, members) <= max_tokens:
            assert len(rows_with_it) == 1
            prompt = next(len(batch.samples[s].prompt_ids) for s in members)
            computed = rows_with_it[0].packed.token_ids_N[: rows_with_it[0].packed.prompt_length_P.sum()] == g
            assert int(computed.sum()) == prompt  # once


@given(shapes)
def test_longest_first(shapes):
    batch = batch_of(shapes)
    rows = batch.rows(range(batch.sequences), max_tokens=1)  # every sequence alone
    costs = [cost(batch, row.sequence_M.unique().tolist()) for row in rows]
    assert costs == sorted(costs, reverse=True)


def test_first_fit_by_hand():
    # groups of 10, 7, 3 and 2 tokens in rows of 12: 10 + 2, 7 + 3
    batch = batch_of([(1, [2]), (5, [5]), (4, [3]), (1, [1])])
    rows = batch.rows(range(4), max_tokens=12)
    assert [sorted(row.sequence_M.unique().tolist()) for row in rows] == [[1, 3], [0, 2]]


def test_a_beginning_that_prompts_share_counts_once_per_row():
    batch = batch_of([(2, [3]), (1, [3]), (4, [3]), (2, [3])])
    shared = tuple(range(100, 170))
    batch = replace(
        batch, samples=tuple(replace(s, prompt_ids=(*shared, *s.prompt_ids)) for s in batch.samples)
    )
    # 70 + (4 + 3) + (2 + 3) + (2 + 3) + (1 + 3); what the last group has left to itself is one token and its answer
    [row] = batch.rows(range(4), max_tokens=91)
    assert (row.packed.prefix, row.packed.tokens) == (70, 91 - 4)  # an answer's last token is no input
    first, second = batch.rows(range(4), max_tokens=90)
    assert (first.packed.prefix, first.packed.tokens) == (70, 87 - 3)
    assert (second.packed.prefix, second.packed.tokens) == (0, 70 + 3)


def test_a_sequence_above_the_budget_has_a_row_of_its_own():
    batch = batch_of([(3, [20, 2, 2])])
    rows = batch.rows(range(3), max_tokens=8)
    assert [row.sequence_M.unique().tolist() for row in rows] == [[0], [1, 2]]


def test_no_sequences_no_rows():
    assert batch_of([(1, [1])]).rows([], max_tokens=8) == []


def test_scores_go_back_to_their_places():
    batch = batch_of([(2, [3, 1]), (4, [2])])
    rows = batch.rows(range(3), max_tokens=6)
    assert len(rows) == 2
    table = scores_table(batch, lambda row: row.target_M.float() + 1, rows)
    assert table.tolist() == [[1.0, 1.0, 1.0], [2.0, 0.0, 0.0], [3.0, 3.0, 0.0]]


def test_examples_begin_where_the_answer_does():
    example = TokenizedExample(
        id="e", token_ids=(1, 2, 3, 4, 5, 6), is_action=(False, False, True, False, False, True)
    )
    batch = Batch.of_examples([example])
    [sample] = batch.samples
    assert sample.prompt_ids == (1, 2)
    assert sample.token_ids == (3, 4, 5, 6)
    assert batch.is_action_ST.tolist() == [[True, False, False, True]]  # the second question is not learnt
