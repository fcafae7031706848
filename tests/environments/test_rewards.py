"""Reward functions: what they are given, what they may return, and what happens when they break."""

import asyncio
import functools
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from ventaja.environments import (
    Reward,
    broken_fraction,
    check_broken,
    judge,
    load_reward,
    log_metric,
    noted_metrics,
)
from ventaja.environments import _calls as calls
from ventaja.errors import ConfigError, RewardError


def length(completions):
    return [float(len(text)) for text in completions]


def rewards_of(groups):
    return [[judgement.reward for judgement in group.judgements] for group in groups]


def judged(groups, *functions, timeout=5.0):
    return judge(groups, [load_reward(function) for function in functions], timeout=timeout)


# ---------------------------------------------------------------------- what a function gets


def test_a_text_prompt_gives_text_and_a_chat_gives_messages(group):
    seen = {}

    def look(prompts, completions, completion_ids, answer, **columns):
        seen.update(locals())
        return [0.0] * len(prompts)

    chat = ({"role": "user", "content": "Hi"},)
    judged([group("4", "5", answer="4", level=1), group("b", content=chat, answer="x")], look)
    assert seen["prompts"] == ["2+2=", "2+2=", [{"role": "user", "content": "Hi"}]]
    assert seen["completions"] == ["4", "5", [{"role": "assistant", "content": "b"}]]
    assert seen["completion_ids"] == [[52], [53], [98]]
    assert seen["answer"] == ["4", "4", "x"]
    assert seen["columns"] == {"level": [1, 1, None]}  # the second prompt has no level


def test_a_function_gets_only_what_it_names(group):
    assert rewards_of(judged([group("abc", "d", answer="4")], length)) == [[3.0, 1.0]]


def test_a_column_that_no_prompt_has(group):
    def needs(completions, anwser):
        return [0.0]

    with pytest.raises(ConfigError) as error:
        judged([group("a", answer="4", level=1)], needs)
    assert str(error.value) == (
        "the reward 'needs' requires 'anwser', which the prompts do not have. Did you mean 'answer'? "
        "They have the columns 'answer', 'level'; a function may also take prompts, completions, "
        "completion_ids."
    )


def test_a_known_column_that_these_prompts_lack_is_none(group):
    def look(completions, level):
        return [None if value is None else 1.0 for value in level]

    judged_groups = judge([group("a")], [load_reward(look)], timeout=5.0, columns={"level"})
    assert not judged_groups[0].judgements[0].is_valid


def test_a_column_with_a_reserved_name(group):
    with pytest.raises(ConfigError, match="the column 'prompts', a name that rewards need"):
        judged([group("a", prompts="x")], length)


def test_a_function_may_change_its_arguments(group):
    def spoil(prompts, completions):
        prompts[0][0]["content"] = "spoilt"
        completions.clear()
        return [1.0]

    before = group("a", content=({"role": "user", "content": "Hi"},))
    after = judged([before], spoil, length)[0]
    assert after.prompt.content == ({"role": "user", "content": "Hi"},)


# ---------------------------------------------------------------------- sums


def test_the_weighted_sum_by_hand(group):
    def three(completions):
        return [3.0] * len(completions)

    rewards = [Reward(length, "length", 0.5), Reward(three, "three", -1.0)]
    judgement = judge([group("abcd")], rewards, timeout=5.0)[0].judgements[0]
    # 0.5 · 4 − 1 · 3 = −1, at the last of four tokens
    assert judgement.stream == ((3, -1.0),)
    assert judgement.components == {"length": 4.0, "three": 3.0}


def test_none_from_one_function_is_skipped_and_none_from_all_is_not_judged(group):
    def only_b(completions):
        return [1.0 if text == "b" else None for text in completions]

    def never(completions):
        return [None] * len(completions)

    a, b = judged([group("a", "b")], only_b, never)[0].judgements
    assert b.reward == 1.0
    assert b.components == {"only_b": 1.0, "never": None}
    assert (a.is_valid, a.stream, a.faults) == (False, (), ())
    assert math.isnan(a.reward)


@pytest.mark.parametrize(
    "returned",
    [
        [True, False],
        [np.float32(1), np.bool_(False)],
        np.array([1, 0]),
        [torch.tensor(1.0), np.array(0)],
        torch.tensor([1.0, 0.0]),
        (1, 0),
    ],
    ids=["bool", "numpy scalars", "array", "0-d", "tensor", "tuple"],
)
def test_what_counts_as_numbers(group, returned):
    assert rewards_of(judged([group("a", "b")], lambda completions: returned)) == [[1.0, 0.0]]


def test_no_groups_and_no_completions(group):
    assert judged([], length) == []
    assert judged([group()], length)[0].judgements == ()


def test_an_empty_completion_has_its_reward_at_index_0(group):
    assert judged([group("")], length)[0].judgements[0].stream == ((0, 0.0),)


# ---------------------------------------------------------------------- mistakes in the program


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            [1.0],
            "the reward 'f' returned 1 values for 2 completions: return one number or None per completion, "
            "in a list of 2. The first is completion 0 of t.jsonl:1 ('a').",
        ),
        (
            0.5,
            "the reward 'f' returned float (0.5): return one number or None per completion, in a list of 2. "
            "The first is completion 0 of t.jsonl:1 ('a').",
        ),
        (
            [0.0, math.nan],
            "the reward 'f' returned nan for completion 1 of t.jsonl:1 ('b'). Return a finite number, or "
            "None to skip the sample.",
        ),
        ([0.0, -math.inf], "the reward 'f' returned -inf for completion 1 of t.jsonl:1 ('b')."),
        ([0.0, 10**400], "for completion 1 of t.jsonl:1 ('b')."),
        (["1", 0.0], "the reward 'f' returned str ('1') for completion 0 of t.jsonl:1 ('a')."),
        ([[1.0], [0.0]], "the reward 'f' returned list ([1.0]) for completion 0"),
        (None, "the reward 'f' returned NoneType (None)"),
    ],
)
def test_a_wrong_result_is_an_error_at_once(group, returned, message):
    with pytest.raises(RewardError) as error:
        judge([group("a", "b")], [Reward(lambda completions: returned, "f")], timeout=5.0)
    assert message in str(error.value)


def test_set_ups_that_cannot_be_meant(group):
    with pytest.raises(ConfigError, match="there is no reward function"):
        judge([], [], timeout=1.0)
    with pytest.raises(ConfigError, match="two rewards are named 'length'"):
        judged([], length, length)
    with pytest.raises(ConfigError, match="the time limit of the rewards is 0"):
        judged([], length, timeout=0.0)
    with pytest.raises(ConfigError, match="its weight is nan"):
        Reward(length, "length", math.nan)
    with pytest.raises(ConfigError, match="'text' is positional-only"):
        judged([group("a")], lambda text, /: [0.0])


# ---------------------------------------------------------------------- faults


def test_only_the_culprits_are_broken(group):
    def picky(completions, answer):
        if "bad" in completions:
            raise ValueError("cannot read bad")
        return [1.0] * len(completions)

    groups = judged([group("a", "bad", answer="4"), group("b", id="t.jsonl:2", answer="5")], picky, length)
    (a, bad), (b,) = (each.judgements for each in groups)
    assert (a.reward, b.reward) == (2.0, 2.0)
    assert not bad.is_valid
    assert bad.components == {"picky": None, "length": 3.0}
    (fault,) = bad.faults
    assert (fault.function, fault.error) == ("picky", "ValueError: cannot read bad")
    assert 'raise ValueError("cannot read bad")' in fault.detail
    assert "_calls.py" not in fault.detail
    assert fault.detail.endswith(
        "Input:\n  t.jsonl:1, completion 1\n  completions = 'bad'\n  answer = '4'\n  prompts = '2+2='"
    )
    assert broken_fraction(groups) == 1 / 3


def test_an_exception_in_the_list_breaks_one_sample_without_a_second_call(group):
    number_of_calls = []

    def careful(completions):
        number_of_calls.append(1)
        return [1.0, KeyError("x"), 2.0]

    a, b, c = judged([group("a", "b", "c")], careful)[0].judgements
    assert (a.reward, c.reward, len(number_of_calls)) == (1.0, 2.0, 1)
    assert b.faults[0].error == "KeyError: 'x'"


def test_a_single_sample_is_not_called_twice(group):
    number_of_calls = []

    def broken(completions):
        number_of_calls.append(1)
        raise SystemExit(3)

    (judgement,) = judged([group("a")], broken)[0].judgements
    assert judgement.faults[0].error == "SystemExit: 3"
    assert len(number_of_calls) == 1


def test_the_time_limit_breaks_only_the_slow_sample(group):
    release = threading.Event()

    def slow(completions):
        if "slow" in completions:
            release.wait(20)
        return [1.0] * len(completions)

    started = time.monotonic()
    a, b, c = judged([group("a", "slow", "c")], slow, timeout=0.2)[0].judgements
    release.set()
    assert time.monotonic() - started < 3
    assert (a.reward, c.reward) == (1.0, 1.0)
    assert b.faults[0].error == "ran past its limit of 0.2 s"
    assert "release.wait(20)" in b.faults[0].detail  # the line where it was


def test_when_nothing_answers_the_rest_is_not_waited_for(group, monkeypatch):
    monkeypatch.setattr(calls, "THREADS", 2)
    release = threading.Event()

    def dead(completions):
        release.wait(20)
        return [1.0] * len(completions)

    judgements = judged([group(*"abcdef")], dead, timeout=0.1)[0].judgements
    release.set()
    assert [judgement.faults[0].error[:10] for judgement in judgements] == ["ran past i"] * 2 + [
        "not called"
    ] * 4


def test_when_no_coroutine_answers_the_rest_is_not_waited_for(group, monkeypatch):
    monkeypatch.setattr(calls, "COROUTINES", 2)

    async def dead(completions):
        await asyncio.sleep(20)

    judgements = judged([group(*"abcdef")], dead, timeout=0.1)[0].judgements
    assert [judgement.faults[0].error[:10] for judgement in judgements] == ["ran past i"] * 2 + [
        "not called"
    ] * 4


def test_more_samples_than_threads(group, monkeypatch):
    monkeypatch.setattr(calls, "THREADS", 2)
    monkeypatch.setattr(calls, "COROUTINES", 2)

    def bad_c(completions):
        if "c" in completions:
            raise ValueError
        return [1.0] * len(completions)

    async def bad_d(completions):
        await asyncio.sleep(0)
        if "d" in completions:
            raise ValueError
        return [1.0] * len(completions)

    judgements = judged([group(*"abcdef")], bad_c, bad_d)[0].judgements
    assert [judgement.is_valid for judgement in judgements] == [True, True, False, False, True, True]


def test_our_own_errors_pass_through(group):
    def needs_a_key(completions):
        raise ConfigError("set the key")

    async def also(completions):
        raise ConfigError("set the key")

    for function in (needs_a_key, also):
        with pytest.raises(ConfigError, match="set the key"):
            judged([group("a", "b")], function)


def test_past_the_limit_of_broken_judgements(group):
    def broken(completions):
        raise ValueError("cannot read it")

    groups = judged([group("a", answer="4")], broken)
    check_broken(groups, limit=1.0)
    with pytest.raises(RewardError) as error:
        check_broken(groups, limit=0.25)
    text = str(error.value)
    assert text.startswith(
        "100% of the judgements are broken, and 25% may be. The first is of the reward 'broken': "
        "ValueError: cannot read it\n  Traceback (most recent call last):\n"
    )
    assert "with the input\n  t.jsonl:1, completion 0\n  completions = 'a'" in text
    assert "raise its time limit (reward.timeout)" in text
    assert "raise reward.max_broken_fraction." in text
    assert broken_fraction([]) == 0.0


# ---------------------------------------------------------------------- async


def test_async_functions_wait_together(group):
    both_wait = asyncio.Barrier(2)

    async def first(completions):
        await both_wait.wait()
        return [1.0] * len(completions)

    async def second(completions):
        await both_wait.wait()
        return [2.0] * len(completions)

    assert rewards_of(judged([group("a", "b")], first, second, length)) == [[4.0, 4.0]]


def test_all_forms_of_async(group):
    class Judge:
        async def __call__(self, completions):
            return [1.0] * len(completions)

    async def two(completions, bonus=0.0):
        return [2.0 + bonus] * len(completions)

    rewards = [
        load_reward(Judge()),
        load_reward(functools.partial(two, bonus=4.0)),
        load_reward(lambda completions: two(completions)),
    ]
    assert [reward.name for reward in rewards] == ["Judge", "two", "lambda"]
    assert rewards_of(judge([group("a")], rewards, timeout=5.0)) == [[1.0 + 6.0 + 2.0]]


def test_async_culprits_are_isolated(group):
    async def picky(completions):
        if "slow" in completions:
            await asyncio.sleep(20)
        if "bad" in completions:
            raise TimeoutError("the server's own")
        return [1.0] * len(completions)

    a, slow, bad = judged([group("a", "slow", "bad")], picky, timeout=0.2)[0].judgements
    assert a.reward == 1.0
    assert slow.faults[0].error == "ran past its limit of 0.2 s"
    assert "await asyncio.sleep(20)" in slow.faults[0].detail
    assert bad.faults[0].error == "TimeoutError: the server's own"


def test_one_event_loop_serves_all_rounds_even_inside_another(group):
    loops = set()

    async def remember(completions):
        loops.add(asyncio.get_running_loop())
        return [1.0] * len(completions)

    async def notebook():
        return judged([group("a")], remember)

    judged([group("a")], remember)
    asyncio.run(notebook())
    assert len(loops) == 1


def test_a_blocked_event_loop_is_replaced(group, monkeypatch):
    monkeypatch.setattr(calls, "_GRACE", 0.1)
    release = threading.Event()

    async def blocks(completions):
        release.wait(20)
        return [1.0]

    async def awaits(completions):
        return [1.0]

    (judgement,) = judged([group("a")], blocks, timeout=0.1)[0].judgements
    assert judgement.faults[0].error.startswith("blocked the event loop")
    assert rewards_of(judged([group("a")], awaits)) == [[1.0]]
    release.set()


# ---------------------------------------------------------------------- loading


def test_from_a_file_with_options(tmp_path, group):
    (tmp_path / "neighbour_of_mine.py").write_text("FACTOR = 10.0\n")
    path = tmp_path / "mine.py"
    path.write_text(
        "from neighbour_of_mine import FACTOR\n"
        "def long_enough(completions, at_least=3):\n"
        "    return [FACTOR * (len(text) >= at_least) for text in completions]\n"
    )
    reward = load_reward(f"{path}:long_enough", weight=0.5, options={"at_least": 2})
    assert (reward.name, reward.weight) == ("long_enough", 0.5)
    # at_least is bound: the column of that name does not replace it
    assert rewards_of(judge([group("a", "bc", at_least=9)], [reward], timeout=5.0)) == [[0.0, 5.0]]


def test_from_a_module_and_by_attribute(group):
    reward = load_reward("operator:itemgetter.__call__", name="odd")
    assert reward.name == "odd"


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("exact_mach", {}, "there is no built-in reward 'exact_mach'. Did you mean 'exact_match'?"),
        ("mine.py", {}, "To name a function of a file, write 'mine.py:function'."),
        ("exact_match", {"colum": "x"}, "has no option 'colum'. Did you mean 'column'?"),
        ("regex", {}, "the reward 'regex' needs the option 'pattern'."),
        ("regex", {"pattern": "("}, "the pattern '(' is not a regular expression"),
        ("regex", {"pattern": "(a)", "group": 2}, "has no group 2; it has 1 numbered from 1"),
        ("no.such.module:f", {}, "ModuleNotFoundError: No module named 'no'. Install it"),
        ("math:sqr", {}, "there is no 'sqr' in it. Did you mean 'sqrt'?"),
        ("math:pi", {}, "the reward 'math:pi' is a float, not a function."),
        (length, {"completions": []}, "cannot have the option 'completions': a run fills it in"),
        (length, {"x": 1}, "the reward 'length' has no option 'x'."),
    ],
)
def test_names_that_cannot_be_loaded(spec, options, message):
    with pytest.raises(ConfigError) as error:
        load_reward(spec, options=options)
    assert message in str(error.value)


def test_files_that_cannot_be_loaded(tmp_path):
    good, wrong, raises = tmp_path / "good.py", tmp_path / "wrong.py", tmp_path / "raises.py"
    good.write_text("def accuracy(completions): ...\n")
    wrong.write_text("def f(:\n")
    raises.write_text("x = 1\ny = x / 0\n")
    with pytest.raises(ConfigError, match=r"there is no file .*goood\.py\. Did you mean 'good\.py'\?"):
        load_reward(f"{tmp_path}/goood.py:accuracy")
    with pytest.raises(
        ConfigError, match=r"no 'acuracy' in it\. Did you mean 'accuracy'\? It has 'accuracy'\."
    ):
        load_reward(f"{good}:acuracy")
    with pytest.raises(ConfigError, match=r"wrong\.py:1: SyntaxError: "):
        load_reward(f"{wrong}:f")
    with pytest.raises(ConfigError, match=r"raises\.py:2: ZeroDivisionError: division by zero\."):
        load_reward(f"{raises}:f")


# ---------------------------------------------------------------------- metrics that functions note


def noted(groups, *functions, timeout=5.0):
    with noted_metrics() as gathered:
        judged(groups, *functions, timeout=timeout)
    return gathered.means()


def test_noted_metrics_are_means_over_all_calls(group):
    def first(completions):
        log_metric("characters", sum(map(len, completions)))  # 6, once for all
        return [0.0] * len(completions)

    def second(completions):
        for text in completions:
            log_metric("long", np.bool_(len(text) > 1))
            log_metric("characters", torch.tensor(len(text)))
        return [0.0] * len(completions)

    # (6 + 1 + 2 + 3) / 4, and 2 of 3
    assert noted([group("a", "bb", "ccc")], first, second) == {
        "reward_metrics/characters": 3.0, "reward_metrics/long": pytest.approx(2 / 3),
    }  # fmt: skip


def test_metrics_come_from_any_thread_and_coroutine(group):
    async def waits(completions):
        await asyncio.sleep(0.01)

        async def one(text):
            await asyncio.sleep(0.01)
            await asyncio.to_thread(log_metric, "async", len(text))
            return 0.0

        return await asyncio.gather(*map(one, completions))

    def has_threads(completions):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda text: log_metric("pool", len(text)), completions))
        return [0.0] * len(completions)

    assert noted([group("a", "bbb")], waits, has_threads, lambda completions: waits(completions)) == {
        "reward_metrics/async": 2.0, "reward_metrics/pool": 2.0,
    }  # fmt: skip


def test_a_call_that_broke_or_was_late_notes_nothing(group):
    def fragile(completions):
        for text in completions:
            log_metric("characters", len(text))
            if text == "broken":
                raise ValueError("no")
            if text == "slow":
                time.sleep(0.4)
        return [0.0] * len(completions)

    # judged again one by one: each that does not break counts once
    assert noted([group("a", "bbb", "broken")], fragile) == {"reward_metrics/characters": 2.0}
    assert noted([group("a", "slow")], fragile, timeout=0.2) == {"reward_metrics/characters": 1.0}


def test_outside_a_run_nothing_is_noted(group):
    log_metric("x", 1.0)
    judged([group("a")], lambda completions: [log_metric("x", 1.0) or 0.0])
    assert noted([group("a")], length) == {}


@pytest.mark.parametrize(
    ("name", "value"), [("x", math.nan), ("x", math.inf), ("x", "1"), ("x", None), ("", 1.0)]
)
def test_a_metric_that_is_no_number_is_a_mistake(group, name, value):
    def judge(completions):
        log_metric(name, value)
        return [0.0]

    with pytest.raises(RewardError, match="log_metric: "):
        judged([group("a")], judge)
