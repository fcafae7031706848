"""The order of rows over passes, and what a weight means in it."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ventaja.errors import ConfigError
from ventaja.training import EvaluationConfig, RlConfig, SftConfig, parse
from ventaja.training.config import RewardConfig
from ventaja.training.data import held_out_prompts, training_examples, training_prompts
from ventaja.training.joints import load_rewards
from ventaja.training.prompts import ORDER, Passes

weights = st.lists(st.sampled_from([0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0]), min_size=1, max_size=12)


def test_with_equal_weights_a_pass_is_one_shuffle():
    # the order that runs had before there were weights, so that they go on as they began
    for number in (0, 1, 7):
        expected = np.random.default_rng([5, ORDER, number]).permutation(4).tolist()
        assert Passes([1.0] * 4, seed=5).order(number) == expected
        assert Passes([1.0] * 4, seed=5).stream(4 * number, 4) == expected


@given(weights, st.integers(1, 12), st.integers(0, 3))
def test_a_row_of_weight_w_is_used_w_times_a_pass(weights, count, seed):
    passes = Passes(weights, seed=seed)
    used = Counter(row for number in range(count) for row in passes.order(number))
    for row, weight in enumerate(weights):
        # E·w, rounded down or up
        assert abs(used[row] - count * weight) < 1


@given(weights, st.integers(0, 60), st.integers(1, 30))
def test_the_stream_is_pass_after_pass_from_anywhere(weights, taken, count):
    passes = Passes(weights, seed=1)
    whole, number = [], 0
    while len(whole) < taken + count:
        whole += passes.order(number)
        number += 1
    assert passes.stream(taken, count) == whole[taken : taken + count]


@given(weights, st.integers(1, 5), st.integers(1, 7))
def test_batches_cut_each_pass_and_never_cross_it(weights, count, size):
    passes = Passes(weights, seed=2)
    batches = [passes.batch(step, size) for step in range(passes.steps(count, size))]
    assert all(0 < len(batch) <= size for batch in batches)
    assert [row for batch in batches for row in batch] == [
        row for number in range(count) for row in passes.order(number)
    ]


def test_a_half_takes_turns_and_two_come_twice():
    # rows 0 and 1 in every second pass, row 2 once, row 3 twice: 1 + 1 + 2 rows a pass
    passes = Passes([0.5, 0.5, 1.0, 2.0], seed=0)
    first, second = (Counter(passes.order(number)) for number in (0, 1))
    assert (first[2], first[3], second[2], second[3]) == (1, 2, 1, 2)
    assert {first[0] + second[0], first[1] + second[1]} == {1}
    assert first[0] + first[1] == second[0] + second[1] == 1


# ---------------------------------------------------------------------- in a run file


def config(data, kind=SftConfig):
    run = {} if kind is EvaluationConfig else {"run": {"folder": "f"}}
    return parse(kind, {"model": "m", "data": data, **run})


@pytest.fixture
def sources(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t.jsonl").write_text(f'{{"prompt": "{name}?", "completion": "{name}"}}\n')
    return str(tmp_path / "a"), str(tmp_path / "b" / "t.jsonl")


def test_sources_are_mixed_with_their_weights(sources):
    a, b = sources
    rows = training_examples(config([{"source": a, "weight": 2}, b]).data)
    assert [(row.prompt, row.weight) for row in rows] == [("a?", 2.0), ("b?", 1.0)]
    assert [row.id for row in rows] == [
        "source 1: t.jsonl:1",
        "source 2: t.jsonl:1",
    ]  # both files are t.jsonl
    alone = training_prompts(config({"source": [{"source": b, "weight": 0.5}]}).data)
    assert [(row.id, row.weight) for row in alone] == [("t.jsonl:1", 0.5)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data.source: the list of sources is empty"),
        (
            [{"source": "a", "wieght": 2}],
            "data.source.0.wieght: no such setting. Did you mean 'data.source.weight'?",
        ),
        ([{"source": "a", "weight": 0}], "data.source.0.weight: must be above 0, not 0."),
        ([{"source": "a", "weight": float("nan")}], "data.source.0.weight: "),
        (
            {"source": ["a"], "size": 3},
            "size would have no effect: data.source is a list. Give each source its own",
        ),
        ({"source": ["a"], "seed": 3}, "seed would have no effect: data.source is a list."),
        ({"source": 3}, "data.source: must be text, not 3. In quotes it is text: '3'."),
    ],
)
def test_mixes_that_cannot_be_meant(data, message):
    with pytest.raises(ConfigError) as error:
        config(data)
    assert message in str(error.value)


def test_to_measure_weighs_nothing():
    assert len(config(["a", "b"], EvaluationConfig).data.sources) == 2
    with pytest.raises(
        ConfigError, match="a weight would have no effect, for every problem is measured once"
    ):
        config(["a", {"source": "b", "weight": 2}], EvaluationConfig)


def test_a_mix_of_tasks_brings_its_verifier_and_any_other_mix_needs_one():
    tasks = ["reasoning_gym:chain_sum", {"source": "reasoning_gym:gcd", "size": 3}]
    (reward,) = load_rewards(RewardConfig(), config(tasks).data.source)
    assert reward.name == "reasoning_gym"
    with pytest.raises(ConfigError, match="t.jsonl"):
        load_rewards(RewardConfig(), config([*tasks, "t.jsonl"]).data.source)
    rows = training_prompts(config([{**tasks[1], "seed": 1}, {**tasks[1], "seed": 2}]).data)
    assert len({row.id for row in rows}) == len(rows) == 6


def test_a_mix_cannot_make_its_own_held_out_problems():
    values = {"model": "m", "data": ["reasoning_gym:chain_sum"], "eval": {"every": 1}, "run": {"folder": "f"}}
    with pytest.raises(ConfigError, match="eval.source: must be set"):
        held_out_prompts(parse(RlConfig, values))
