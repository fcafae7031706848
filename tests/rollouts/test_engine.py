"""The engine in this process: what it samples depends on weights, prompt and stream, and on nothing else."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tiny import (
    EOS,
    LONGROPE,
    PACKABLE,
    QUESTION,
    UNPACKABLE,
    VOCABULARY,
    make_model,
    make_policy,
    shared_policy,
)
from torch.testing import assert_close

from ventaja.errors import DataError
from ventaja.models import Bundle, Policy, pack_row
from ventaja.records import Completion, Request, StopReason
from ventaja.rollouts import Interrupted, LocalEngine, Sampling, ScriptedEngine, decoding
from ventaja.rollouts.decoding import SharedCache

ALL = PACKABLE + UNPACKABLE
LONG = Sampling(temperature=1.3, max_tokens=40)
"""Long enough that the cache grows once."""


@functools.cache
def restless_policy(kind: str) -> Policy:
    """Six words end an answer, so that answers leave the batch at random times."""
    policy = make_policy(kind)
    policy.eos_ids = frozenset({EOS, 10, 20, 30, 40, 50})
    return policy


def request(length: int, count: int, *, seed: int) -> Request:
    ids = random.Random(seed).choices(range(3, VOCABULARY), k=length)
    return Request(prompt=QUESTION, prompt_ids=tuple(ids), count=count, seed=(7, seed))


REQUESTS = [request(n, k, seed=i) for i, (n, k) in enumerate([(1, 3), (9, 1), (17, 3), (4, 2), (9, 2)])]


def sampled(
    kind: str, requests: Sequence[Request], sampling: Sampling = LONG, *, max_batch: int = 128
) -> list[tuple[Completion, ...]]:
    return LocalEngine(restless_policy(kind), max_batch=max_batch).sample(requests, sampling)


def tokens(answers: Sequence[Sequence[Completion]]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in group] for group in answers]


@pytest.mark.parametrize("kind", ALL)
def test_tokens_do_not_depend_on_company(kind: str) -> None:
    together = tokens(sampled(kind, REQUESTS))
    assert len({len(ids) for group in together for ids in group}) > 4  # they end one after the other
    assert max(len(ids) for group in together for ids in group) > 32  # and the cache has grown
    for max_batch in (1, 3):
        assert tokens(sampled(kind, REQUESTS, max_batch=max_batch)) == together
    assert [tokens(sampled(kind, [r]))[0] for r in REQUESTS] == together  # alone
    assert tokens(sampled(kind, REQUESTS[::-1], max_batch=5))[::-1] == together  # another order
    half = [Request(prompt=QUESTION, prompt_ids=r.prompt_ids, count=1, seed=r.seed) for r in REQUESTS]
    assert tokens(sampled(kind, half)) == [group[:1] for group in together]  # fewer answers


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_products_over_all_answers_of_a_prompt_say_what_the_kernel_says(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for few in (decoding.FEW_KEYS, 0):
        monkeypatch.setattr(decoding, "FEW_KEYS", few)
        results.append([completion for group in sampled(kind, REQUESTS) for completion in group])
    for kernel, products in zip(*results, strict=True):
        assert kernel.token_ids == products.token_ids
        assert kernel.logprobs == pytest.approx(products.logprobs, abs=1e-4)


def test_streams_differ_between_answers_and_seeds() -> None:
    one, other = request(5, 8, seed=1), request(5, 8, seed=1)
    other = Request(prompt=QUESTION, prompt_ids=one.prompt_ids, count=8, seed=(8, 1))
    answers = tokens(sampled("llama", [one, other]))
    assert len({ids for group in answers for ids in group}) == 16


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("max_batch", [3, 128])
def test_reported_logprobs_are_those_of_scoring(kind: str, max_batch: int) -> None:
    answers = sampled(kind, REQUESTS, max_batch=max_batch)
    row = pack_row(
        [
            Bundle(prompt_ids=r.prompt_ids, answers=[c.token_ids for c in group])
            for r, group in zip(REQUESTS, answers, strict=True)
        ]
    )
    reported = torch.tensor([value for group in answers for c in group for value in c.logprobs])
    with torch.no_grad():
        scored = shared_policy(kind).score(row, temperature=LONG.temperature).logprob_M
    assert_close(reported, scored, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("kind", ALL)
def test_greedy_is_what_transformers_generates(kind: str) -> None:
    answers = LocalEngine(shared_policy(kind)).sample(REQUESTS, Sampling(temperature=0, max_tokens=40))
    model = make_model(kind, attention="eager")
    for r, group in zip(REQUESTS, answers, strict=True):
        ids = torch.tensor([r.prompt_ids])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40
        )[0, ids.shape[1] :].tolist()
        assert all(list(c.token_ids) == expected for c in group)
        assert all(set(c.logprobs) == {0.0} for c in group)


def test_the_distribution_is_sampled_exactly() -> None:
    """First tokens of 4000 streams: each word's share is within 5 standard errors of its probability."""
    prompt = request(6, 4000, seed=3)
    answers = sampled("llama", [prompt], Sampling(max_tokens=1), max_batch=1000)[0]
    share = torch.bincount(torch.tensor([c.token_ids[0] for c in answers]), minlength=VOCABULARY) / 4000
    with torch.no_grad():
        logits = make_model("llama")(torch.tensor([prompt.prompt_ids])).logits[0, -1]
    p = logits.softmax(-1)
    assert ((share - p).abs() <= 5 * (p * (1 - p) / 4000).sqrt() + 1 / 4000).all()
    assert p.max() > 5 * p.median()


def test_answers_end_at_eos_or_at_the_limit() -> None:
    for group in sampled("llama", REQUESTS):
        for c in group:
            ends = restless_policy("llama").eos_ids
            assert not ends & set(c.token_ids[:-1])
            assert (c.stop is StopReason.EOS) == (c.token_ids[-1] in ends)
            assert c.stop is StopReason.EOS or len(c) == LONG.max_tokens
            assert "<|end|>" not in c.text
    assert all(len(c) == 1 for group in sampled("llama", REQUESTS, Sampling(max_tokens=1)) for c in group)


def test_every_token_of_eos_ids_ends_an_answer() -> None:
    policy = make_policy("llama")
    before = LocalEngine(policy).sample(REQUESTS, LONG)
    second = next(c.token_ids[3] for group in before for c in group if len(c) > 5)
    policy.eos_ids = frozenset({EOS, second})
    for old, new in zip(before, LocalEngine(policy).sample(REQUESTS, LONG), strict=True):
        for was, now in zip(old, new, strict=True):
            end = was.token_ids.index(second) + 1 if second in was.token_ids else len(was)
            assert now.token_ids == was.token_ids[:end]
            assert (now.stop is StopReason.EOS) == (now.token_ids[-1] in {EOS, second})


@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_a_stop_string_ends_the_answer_and_is_cut_from_its_text(kind: str) -> None:
    whole = sampled(kind, REQUESTS)
    text = next(c.text for group in whole for c in group if len(c) > 12)
    stop = text[4:6]
    stopped = sampled(kind, REQUESTS, LONG.model_copy(update={"stop": (stop, "never said")}))
    hits = 0
    for old, new in zip(whole, stopped, strict=True):
        for was, now in zip(old, new, strict=True):
            assert now.token_ids == was.token_ids[: len(now)]  # ids are kept, the stop string's too
            assert (now.stop is StopReason.STOP_STRING) == (stop in was.text)
            assert now.text == was.text.split(stop)[0]
            if stop in was.text:
                hits += 1
                assert len(now) == len(was.text.split(stop)[0]) + len(stop)  # a token is a character
    assert hits


@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_each_answer_is_told_of_once_as_soon_as_it_has_ended(kind: str) -> None:
    told: dict[tuple[int, int], Completion] = {}

    def finished(place: int, k: int, completion: Completion) -> None:
        assert (place, k) not in told
        told[place, k] = completion

    answers = LocalEngine(restless_policy(kind), max_batch=64).sample(REQUESTS, LONG, finished=finished)
    assert told == {(r, k): c for r, group in enumerate(answers) for k, c in enumerate(group)}
    if kind == "llama":  # all answers begin together, so the shortest end first
        lengths = [len(completion) for completion in told.values()]
        assert lengths == sorted(lengths)
        assert len(set(lengths)) > 3


def test_a_limit_of_context_cuts_answers_and_refuses_prompts_that_fill_it() -> None:
    policy = make_policy("llama")
    policy.causal_lm.config.max_position_embeddings = 20
    engine = LocalEngine(policy)
    short, full = engine.sample([request(15, 6, seed=0), request(19, 2, seed=1)], LONG)
    assert max(len(c) for c in short) == 5
    assert max(len(c) for c in full) == 1
    with pytest.raises(DataError, match=r"a prompt of 20 tokens leaves no room .*context of 20.*max_prompt"):
        engine.sample([request(20, 1, seed=2)], LONG)


@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_sampling_is_interrupted_between_tokens(kind: str) -> None:
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        LocalEngine(shared_policy(kind)).sample(REQUESTS, LONG, should_stop=lambda: next(asked))
    assert next(asked, None) is None


def test_completions_carry_the_version_of_their_weights() -> None:
    engine = LocalEngine(shared_policy("llama"))
    assert engine.sample(REQUESTS[:1], LONG)[0][0].weight_version == 0
    engine.load(make_policy("llama", seed=1), version=5)
    other = engine.sample(REQUESTS[:1], LONG)
    assert other[0][0].weight_version == 5
    assert tokens(other) != tokens(LocalEngine(shared_policy("llama")).sample(REQUESTS[:1], LONG))


def test_nothing_asked_is_nothing_answered() -> None:
    assert sampled("llama", []) == []
    none = Request(prompt=QUESTION, prompt_ids=(5,), count=0, seed=(0,))
    assert [len(group) for group in sampled("llama", [none, REQUESTS[0], none])] == [0, 3, 0]


def test_many_prompts_share_few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts give their place in the cache to those that wait: no more places than answers at once."""
    made: list[tuple[int, int]] = []

    class Watched(SharedCache):
        def __init__(self, **sizes: Any) -> None:
            super().__init__(**sizes)
            made.append((sizes["prompts"], sizes["answers"]))

    requests = [request(3 + i % 5, 2, seed=i) for i in range(12)]
    expected = tokens(sampled("gemma3", requests))
    monkeypatch.setattr("ventaja.rollouts.local.SharedCache", Watched)
    assert tokens(sampled("gemma3", requests, max_batch=4)) == expected
    assert made == [(4, 4)]


@pytest.mark.parametrize("kind", PACKABLE)
def test_a_beginning_that_prompts_share_changes_no_answer(kind: str) -> None:
    shared = request(30, 1, seed=50).prompt_ids
    requests = [
        Request(prompt=QUESTION, prompt_ids=(*shared, *r.prompt_ids), count=r.count, seed=r.seed)
        for r in REQUESTS
    ]
    assert pack_row([Bundle(prompt_ids=r.prompt_ids, answers=[]) for r in requests]).prefix == 30
    together = sampled(kind, requests)
    for ask, group in zip(requests, together, strict=True):
        [by_itself] = sampled(kind, [ask])
        assert tokens([group]) == tokens([by_itself])
        for ours, theirs in zip(group, by_itself, strict=True):
            assert_close(ours.logprobs, theirs.logprobs, rtol=1e-4, atol=1e-4)


def test_a_scripted_engine_says_what_it_is_told() -> None:
    tokenizer = shared_policy("llama").tokenizer
    engine = ScriptedEngine(tokenizer, lambda prompt, k: f"{prompt}{k}")
    ask = Request(prompt=QUESTION, prompt_ids=tuple(tokenizer("hi")["input_ids"]), count=2, seed=(0,))
    answers = engine.sample([ask], Sampling(max_tokens=4))
    assert [c.text for c in answers[0]] == ["hi0", "hi1"]
    ids = (*tokenizer("hi0")["input_ids"], EOS)
    assert answers[0][0] == Completion(
        token_ids=ids, logprobs=(-1.0,) * 4, text="hi0", stop=StopReason.EOS, weight_version=0
    )
    assert engine.seen == [ask]
    engine.load(shared_policy("llama"), version=3)
    cut = engine.sample([ask], Sampling(max_tokens=2))[0][1]
    assert (cut.token_ids, cut.text, cut.stop, cut.weight_version) == (ids[:2], "hi", StopReason.LENGTH, 3)
    with pytest.raises(Interrupted):
        engine.sample([ask], LONG, should_stop=lambda: True)


@pytest.mark.parametrize("prompts", [(5, 20), (5, 20, LONGROPE + 3)], ids=["short", "short and long"])
def test_an_answer_ends_where_its_prompts_angles_would_change(prompts: tuple[int, ...]) -> None:
    """What was drawn with LongRoPE's short factors would be scored with its long ones."""
    policy = make_policy("phi3")
    policy.eos_ids = frozenset()
    requests = [request(length, 2, seed=i) for i, length in enumerate(prompts)]
    results = LocalEngine(policy).sample(requests, LONG)
    for asked, answers in zip(requests, results, strict=True):
        prompt = len(asked.prompt_ids)
        expected = LONGROPE - prompt if prompt <= LONGROPE else LONG.max_tokens
        for answer in answers:
            assert len(answer.token_ids) == expected
            assert answer.stop is StopReason.LENGTH
            row = pack_row([Bundle(prompt_ids=asked.prompt_ids, answers=[answer.token_ids])])
            with torch.no_grad():
                scores = policy.score(row, temperature=LONG.temperature).logprob_M
            assert_close(scores, torch.tensor(answer.logprobs), rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError, match=rf"{LONGROPE} tokens leaves no room .* context of {LONGROPE}\."):
        LocalEngine(policy).sample([request(LONGROPE, 1, seed=0)], LONG)
