"""A packed row gives each answer what it would have alone: log-probs, entropies and gradients."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import LONGROPE, PACKABLE, UNPACKABLE, VOCABULARY, WINDOW, make_model, make_policy, shared_policy
from torch import Tensor
from torch.testing import assert_close
from transformers import LlamaForCausalLM

from ventaja.models import Bundle, PackedRow, Policy, pack_row
from ventaja.models.group_attention import GroupAttention

# Float32 log-probs of size 1–10 after two layers: sums in another order differ by some 1e-6.
EXACT = {"rtol": 1e-5, "atol": 2e-5}


def words(length: int, *, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, VOCABULARY, length).tolist()


def bundle(prompt: int, *answers: int, seed: int = 0) -> Bundle:
    """Random tokens: a prompt of so many, and answers of so many each."""
    return Bundle(
        prompt_ids=words(prompt, seed=seed),
        answers=[words(n, seed=1000 * (seed + 1) + k) for k, n in enumerate(answers)],
    )


BUNDLES = [
    bundle(5, 3, 1, 7, seed=1),  # uneven answers, one of a single token
    bundle(1, 4, seed=2),  # the shortest prompt, a group of one
    bundle(2 * WINDOW + 3, 2, 9, seed=3),  # a prompt longer than the window, and an answer that outgrows it
    bundle(WINDOW, 1, seed=4),  # nothing but the prompt is an input
]


def beginning_alike(bundles: Sequence[Bundle], common: int) -> list[Bundle]:
    """The same bundles after a beginning of so many tokens that all share, such as a system message."""
    shared = words(common, seed=99)
    return [Bundle(prompt_ids=[*shared, *b.prompt_ids], answers=b.answers) for b in bundles]


def alone(
    kind: str, bundles: Sequence[Bundle], *, temperature: float = 1.0, attention: str = "eager"
) -> tuple[Tensor, Tensor, torch.nn.Module]:
    """Log-probs and entropies by transformers itself, one sequence at a time, and the model that gave them."""
    model = make_model(kind, attention=attention)
    logprobs, entropies = [], []
    for b in bundles:
        for answer in b.answers:
            ids = torch.tensor([*b.prompt_ids, *answer])
            logits = model(input_ids=ids[None]).logits[0, len(b.prompt_ids) - 1 : -1]
            log_p = (logits / temperature).log_softmax(-1)
            logprobs.append(log_p.gather(1, torch.tensor(answer)[:, None])[:, 0])
            entropies.append(-(log_p.exp() * log_p).sum(-1))
    return torch.cat(logprobs), torch.cat(entropies), model


def in_a_padded_batch(kind: str, bundles: Sequence[Bundle], *, side: str, attention: str) -> Tensor:
    sequences = [([*b.prompt_ids], [*answer]) for b in bundles for answer in b.answers]
    longest = max(len(p) + len(a) for p, a in sequences)
    ids = torch.zeros(len(sequences), longest, dtype=torch.long)
    seen = torch.zeros_like(ids)
    starts = []
    for s, (prompt, answer) in enumerate(sequences):
        start = longest - len(prompt) - len(answer) if side == "left" else 0
        ids[s, start : start + len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        seen[s, start : start + len(prompt) + len(answer)] = 1
        starts.append(start + len(prompt))
    places = (seen.cumsum(-1) - 1).clamp(min=0)
    logits = make_model(kind, attention=attention)(
        input_ids=ids, attention_mask=seen, position_ids=places
    ).logits
    return torch.cat(
        [
            logits[s, start - 1 : start - 1 + len(answer)]
            .log_softmax(-1)
            .gather(1, torch.tensor(answer)[:, None])[:, 0]
            for s, (start, (_, answer)) in enumerate(zip(starts, sequences, strict=True))
        ]
    )


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def weighted(logprob_M: Tensor) -> Tensor:
    """A loss in which every token counts differently, so that no two can change places unseen."""
    return (logprob_M * torch.linspace(-1, 2, len(logprob_M))).sum()


@pytest.mark.parametrize("kind", PACKABLE)
def test_scores_equal_those_of_each_answer_alone(kind: str) -> None:
    with torch.no_grad():
        for temperature in (1.0, 0.6):
            logprob_M, entropy_M, _ = alone(kind, BUNDLES, temperature=temperature)
            scores = shared_policy(kind).score(pack_row(BUNDLES), temperature=temperature, entropy=True)
            assert_close(scores.logprob_M, logprob_M, **EXACT)
            assert_close(scores.entropy_M, entropy_M, **EXACT)
            assert logprob_M.std() > 0.5  # distributions flat enough to hide a mistake would fail here


@pytest.mark.parametrize("kind", PACKABLE)
@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_equal_those_of_a_padded_batch(kind: str, side: str) -> None:
    with torch.no_grad():
        attention = "eager" if kind == "gemma2" else "sdpa"  # sdpa has no softcap
        expected = in_a_padded_batch(kind, BUNDLES, side=side, attention=attention)
        assert_close(shared_policy(kind).score(pack_row(BUNDLES)).logprob_M, expected, **EXACT)


def assert_same_gradients(policy: Policy, loss: Tensor, model: torch.nn.Module, expected: Tensor) -> None:
    loss.backward()
    expected.backward()
    ours, theirs = gradients(policy.causal_lm), gradients(model)
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        size = float(grad.abs().max())
        assert_close(
            ours[name], grad, rtol=1e-4, atol=2e-5 * max(size, 1.0), msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_like_each_answer_alone(kind: str, bundles: Sequence[Bundle], row: PackedRow) -> None:
    """In log-probs, entropies and gradients."""
    policy = make_policy(kind)
    scores = policy.score(row, temperature=0.8, entropy=True)
    logprob_M, entropy_M, model = alone(kind, bundles, temperature=0.8)
    assert scores.entropy_M is not None
    assert_close(scores.logprob_M, logprob_M, **EXACT)
    assert_close(scores.entropy_M, entropy_M, **EXACT)
    assert_same_gradients(
        policy,
        weighted(scores.logprob_M) + 0.3 * scores.entropy_M.sum(),
        model,
        weighted(logprob_M) + 0.3 * entropy_M.sum(),
    )


@pytest.mark.parametrize("kind", PACKABLE)
def test_gradients_equal_those_of_each_answer_alone(kind: str) -> None:
    assert_like_each_answer_alone(kind, BUNDLES, pack_row(BUNDLES))


@pytest.mark.parametrize("kind", PACKABLE)
@pytest.mark.parametrize("common", [2, 2 * WINDOW + 1])
def test_a_beginning_that_prompts_share_is_computed_once(kind: str, common: int) -> None:
    bundles = beginning_alike(BUNDLES, common)
    row = pack_row(bundles, worthwhile=1)
    assert row.prefix == common
    assert row.tokens == pack_row(bundles, worthwhile=10**6).tokens - 3 * common  # four prompts share it
    assert_like_each_answer_alone(kind, bundles, row)
    with torch.no_grad():
        policy = shared_policy(kind)
        assert_close(policy.score_padded(row).logprob_M, policy.score(row).logprob_M, **EXACT)


@pytest.mark.parametrize("kind", PACKABLE)
@pytest.mark.parametrize("last", [(9, 9, 9), (9, 8, 7)], ids=["alike", "other last tokens"])
def test_prompts_may_be_alike_but_for_their_last_token(kind: str, last: tuple[int, ...]) -> None:
    """So that the prefix leaves each of them one token."""
    beginning = words(2 * WINDOW, seed=99)
    bundles = [
        Bundle(prompt_ids=[*beginning, token], answers=bundle(1, 3, 1, 4, seed=i).answers)
        for i, token in enumerate(last)
    ]
    row = pack_row(bundles, worthwhile=1)
    assert row.prefix == len(beginning)
    assert_like_each_answer_alone(kind, bundles, row)


@pytest.mark.parametrize("kind", PACKABLE)
def test_a_prompts_answers_may_be_split_over_rows_in_any_order(kind: str) -> None:
    policy = shared_policy(kind)
    with torch.no_grad():
        whole = policy.score(pack_row(BUNDLES)).logprob_M
        pieces = {}
        singles = [
            (p, g, Bundle(prompt_ids=b.prompt_ids, answers=[answer]))
            for p, b in enumerate(BUNDLES)
            for g, answer in enumerate(b.answers)
        ]
        random.Random(0).shuffle(singles)
        for row in (singles[:1], singles[1:4], singles[4:]):
            scores = policy.score(pack_row([b for *_, b in row])).logprob_M
            lengths = [len(b.answers[0]) for *_, b in row]
            for (p, g, _), part in zip(row, scores.split(lengths), strict=True):
                pieces[p, g] = part
    assert_close(torch.cat([pieces[key] for key in sorted(pieces)]), whole, **EXACT)


SHAPES = st.lists(
    st.tuples(st.integers(1, 2 * WINDOW), st.lists(st.integers(1, 2 * WINDOW), max_size=4)),
    min_size=1,
    max_size=4,
).filter(lambda shapes: any(answers for _, answers in shapes))


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@settings(max_examples=25)
@given(shapes=SHAPES, common=st.integers(0, 2 * WINDOW), seed=st.integers(0, 99))
def test_any_shape_of_row_gives_the_plain_scores(
    kind: str, shapes: list[tuple[int, list[int]]], common: int, seed: int
) -> None:
    bundles = [bundle(prompt, *answers, seed=seed + i) for i, (prompt, answers) in enumerate(shapes)]
    row = pack_row(beginning_alike(bundles, common), worthwhile=1)
    policy = shared_policy(kind)
    with torch.no_grad():
        assert_close(policy.score(row).logprob_M, policy.score_padded(row).logprob_M, **EXACT)


@pytest.mark.parametrize("kind", PACKABLE + UNPACKABLE)
def test_the_padded_way_equals_each_answer_alone(kind: str) -> None:
    policy = make_policy(kind)
    padded = policy.score_padded(pack_row(BUNDLES), temperature=0.7, entropy=True)
    logprob_M, entropy_M, model = alone(kind, BUNDLES, temperature=0.7)
    assert_close(padded.logprob_M, logprob_M, **EXACT)
    assert_close(padded.entropy_M, entropy_M, **EXACT)
    assert_same_gradients(policy, weighted(padded.logprob_M), model, weighted(logprob_M))


OUTGROWN = [
    bundle(5, 3, LONGROPE, 7, seed=1),  # one prompt with short answers and a long one
    bundle(LONGROPE - 9, 9, 3, seed=2),  # just short enough
    bundle(LONGROPE + 4, 5, seed=3),
]


def test_a_short_sequence_beside_a_long_one_keeps_its_angles() -> None:
    """LongRoPE's factors depend on the length, and transformers' model takes those of the longest in a batch."""
    assert_like_each_answer_alone("phi3", OUTGROWN, pack_row(OUTGROWN))
    assert_like_each_answer_alone("phi3", OUTGROWN[1:2], pack_row(OUTGROWN[1:2]))  # back to the short factors
    policy, row = shared_policy("phi3"), pack_row(OUTGROWN)
    with torch.no_grad():
        _, of_second, _ = policy.score(row).logprob_M.split([3 + LONGROPE + 7, 9 + 3, 5])
        assert_close(of_second, policy.score(pack_row(OUTGROWN[1:2])).logprob_M, **EXACT)
        at_once = policy.hidden(row.token_ids_N, row.position_N, GroupAttention(row))[row.source_M]
        wrong, _ = policy.head.logprobs(at_once, row.target_M)
        assert (wrong.split([3 + LONGROPE + 7, 9 + 3, 5])[1] - of_second).abs().max() > 0.1


def test_only_what_outgrows_its_angles_takes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy("phi3")
    assert policy.not_packable is None
    assert policy.fallback_note is not None
    assert f"more than {LONGROPE} tokens" in policy.fallback_note
    padded, plainly = [], policy._padded_states
    monkeypatch.setattr(policy, "_padded_states", lambda row: padded.append(row) or plainly(row))
    with torch.no_grad():
        policy.score(pack_row(OUTGROWN[1:2]))
        assert not padded
        policy.score(pack_row(OUTGROWN))
    assert len(padded) == 1


def test_dynamic_angles_do_not_change_within_the_context() -> None:
    model = make_model("llama")
    model.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    policy = Policy(LlamaForCausalLM(model.config), shared_policy("llama").tokenizer, name="dynamic")
    short, long = bundle(5, 3, seed=1), bundle(100, 156, seed=2)
    assert policy.context_length == 256
    with torch.no_grad():
        alone = policy.score(pack_row([short])).logprob_M
        both = policy.score(pack_row([short, long])).logprob_M
        assert_close(both[:3], alone, **EXACT)
        assert_close(policy.score(pack_row([short])).logprob_M, alone, rtol=0, atol=0)


def test_rows_hold_no_padding_and_each_prompt_once() -> None:
    row = pack_row([bundle(5, 3, 1, seed=1), bundle(2, 4, seed=2)])
    # prompts 5 + 2, answers' inputs (3 − 1) + (1 − 1) + (4 − 1)
    assert row.tokens == 7 + 5
    assert len(row.target_M) == 3 + 1 + 4
    assert row.position_N.tolist() == [0, 1, 2, 3, 4, 0, 1, 5, 6, 2, 3, 4]


def test_what_all_prompts_begin_with_stands_in_the_row_once() -> None:
    bundles = [
        Bundle(prompt_ids=[7, 8, 9, 4], answers=[[1, 2]]),
        Bundle(prompt_ids=[7, 8, 9], answers=[[3, 4, 5], [6]]),  # keeps its last token for itself
        Bundle(prompt_ids=[7, 8, 5, 5, 5], answers=[]),
    ]
    row = pack_row(bundles, worthwhile=4)
    assert row.prefix == 2
    assert row.token_ids_N.tolist() == [7, 8, 9, 4, 9, 5, 5, 5, 1, 3, 4]
    assert row.position_N.tolist() == [0, 1, 2, 3, 2, 2, 3, 4, 4, 3, 4]
    assert row.prompt_index_PL.tolist() == [[0, 1, 2, 3, 0], [0, 1, 4, 0, 0], [0, 1, 5, 6, 7]]
    assert row.prompt_length_P.tolist() == [4, 3, 5]
    assert row.source_M.tolist() == [3, 8, 4, 9, 10, 4]
    assert pack_row(bundles, worthwhile=5).prefix == 0  # two prompts would save two tokens each
    assert pack_row(bundles[:1], worthwhile=1).prefix == 0


@pytest.mark.parametrize(
    ("bundles", "words"),
    [
        ([], "at least one bundle"),
        ([Bundle(prompt_ids=[], answers=[[1]])], "at least one token"),
        ([Bundle(prompt_ids=[1], answers=[[1], []])], "answer 1 of prompt 0"),
    ],
)
def test_rows_refuse_what_cannot_be_predicted(bundles: list[Bundle], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pack_row(bundles)


@pytest.mark.parametrize("kind", PACKABLE)
def test_bfloat16_is_as_near_to_float32_as_the_plain_way_in_bfloat16(kind: str) -> None:
    """Half precision keeps 8 bits, so the plain way itself is off by some hundredths; packing may be off by
    as much (different roundings of equal size) but no more than twice that on average."""
    half = Policy(make_model(kind).to(torch.bfloat16), shared_policy(kind).tokenizer, name="half")
    row = pack_row(BUNDLES)
    with torch.no_grad():
        exact = shared_policy(kind).score(row).logprob_M
        packed = (half.score(row).logprob_M - exact).abs().mean()
        padded = (half.score_padded(row).logprob_M - exact).abs().mean()
    assert 0 < packed < 2 * padded
    assert padded < 0.1


@pytest.mark.parametrize("kind", [*PACKABLE, *UNPACKABLE])
def test_an_answers_last_token_is_an_input_where_a_value_after_it_is_wanted(kind: str) -> None:
    policy = shared_policy(kind)
    without, kept = pack_row(BUNDLES), pack_row(BUNDLES, keep_last=True)
    assert without.end_A is None
    assert kept.end_A is not None
    answers = [(b.prompt_ids, answer) for b in BUNDLES for answer in b.answers]
    assert kept.tokens == without.tokens + len(answers)
    assert kept.token_ids_N[kept.end_A].tolist() == [answer[-1] for _, answer in answers]
    with torch.no_grad():
        assert_close(policy.score(kept).logprob_M, policy.score(without).logprob_M, **EXACT)
        _, state_AD = policy.states(kept)
        assert state_AD is not None
        assert policy.states(without)[1] is None
        decoder = make_model(kind).get_decoder()
        for state, (prompt, answer) in zip(state_AD, answers, strict=True):
            alone = decoder(input_ids=torch.tensor([[*prompt, *answer]]), use_cache=False)
            assert_close(state, alone.last_hidden_state[0, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_only_tokens_that_were_chosen_are_predicted(kind: str) -> None:
    policy = shared_policy(kind)
    every = bundle(5, 4, 3, seed=1)
    chosen = [[True, False, False, True], [False, True, False]]  # 2 + 1 of 4 + 3
    some = Bundle(prompt_ids=every.prompt_ids, answers=every.answers, is_target=chosen)
    row = pack_row([some, bundle(3, 2, seed=2)])
    assert row.target_M.tolist() == [
        *(token for answer, flags in zip(every.answers, chosen, strict=True) for token, flag in zip(answer, flags, strict=True) if flag),
        *bundle(3, 2, seed=2).answers[0],
    ]  # fmt: skip
    with torch.no_grad():
        whole = policy.score(pack_row([every, bundle(3, 2, seed=2)])).logprob_M
        assert_close(policy.score(row).logprob_M, whole[[0, 3, 5, 7, 8]], **EXACT)
