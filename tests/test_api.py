"""`ventaja.rl` and `ventaja.sft`: what lists and functions in Python become."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

import ventaja
from ventaja import api
from ventaja.environments import Reward
from ventaja.errors import ConfigError, DataError

USER, BOT = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}


def brief(completions, scale=1.0):
    return [scale / (1 + len(text)) for text in completions]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What training was given; nothing is trained."""
    seen = SimpleNamespace()

    def note(config: object, **given: object) -> object:
        vars(seen).update(given, config=config)
        return object.__new__(ventaja.Run)

    monkeypatch.setattr(api, "train_rl", note)
    monkeypatch.setattr(api, "train_sft", note)
    return seen


def unchecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """As users have it: without the tests' own checks of types."""
    return inspect.unwrap(function)


def rl(**more: Any) -> None:
    unchecked(ventaja.rl)(**{"model": "m", "prompts": ["a"], "reward": brief, "folder": "runs/x", **more})


def test_a_reward_may_be_the_whole_group_of_settings(seen: SimpleNamespace) -> None:
    weighed = {"function": brief, "weight": 0.5, "options": {"scale": 2.0}}
    short = Reward(brief, "short", 3.0)
    rl(
        reward={"functions": [weighed, "exact_match", short], "timeout": 5.0, "truncated": "mask"},
        prompts=[{"prompt": "a", "answer": "b"}],
    )
    settings = seen.config.reward
    assert (settings.timeout, settings.truncated) == (5.0, "mask")
    assert [(f.function, f.weight) for f in settings.functions] == [
        ("brief", 0.5), ("exact_match", 1.0), ("short", 3.0)
    ]  # fmt: skip
    assert [(r.name, r.weight) for r in seen.environment.rewards] == [
        ("brief", 0.5),
        ("exact_match", 1.0),
        ("short", 3.0),
    ]
    assert seen.environment.rewards[0].function(completions=["a"]) == [1.0]  # 2 / (1 + 1)
    assert seen.environment.rewards[2] is short


@pytest.mark.parametrize("one", [brief, "exact_match", Reward(brief, "r"), {"function": brief}, [brief]])
def test_one_reward_needs_no_list(seen: SimpleNamespace, one: object) -> None:
    rl(reward=one, prompts=[{"prompt": "a", "answer": "b"}])
    assert len(seen.environment.rewards) == len(seen.config.reward.functions) == 1


def test_names_and_on_round_are_passed_on(seen: SimpleNamespace) -> None:
    def on_round(run: object, round: int) -> None: ...

    rl(reward=[{"function": brief, "name": "a"}, {"function": brief, "name": "b"}], on_round=on_round)
    assert [r.name for r in seen.environment.rewards] == ["a", "b"]
    assert seen.on_round is on_round


def test_without_functions_the_task_judges(seen: SimpleNamespace) -> None:
    rl(prompts="reasoning_gym:chain_sum", reward={"timeout": 5.0})
    assert seen.environment is None  # training makes it
    assert seen.config.reward.timeout == 5.0


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"function": brief, "wieght": 1.0}, "reward.functions.0.wieght: no such setting. Did you mean"),
        ({"functions": [brief], "timeuot": 1.0}, "reward.timeuot: no such setting. Did you mean"),
        ([{"weight": 1.0}], "reward.functions.0.function: must be set"),
    ],
)
def test_mistakes_in_it_are_named(reward: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rl(reward=reward)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"promts": ["a"]}, "promts: there is no such argument. Did you mean 'prompts'?"),
        ({"rewards": brief}, "rewards: there is no such argument. Did you mean 'reward'?"),
        (
            {"learning_rate": 1e-5},
            "learning_rate: there is no such argument. Did you mean 'optimiser.learning_rate'? It is set as "
            "optimiser={'learning_rate': …}.",
        ),
        ({"samplng": {"max_tokens": 4}}, "samplng: there is no such argument. Did you mean 'sampling'?"),
        ({"zzzz": 1}, "zzzz: there is no such argument."),
        (
            {"use_vllm": True},
            "use_vllm: there is no such argument. TRL's 'use_vllm' has no counterpart here, because",
        ),
        (
            {"sampling": 4},
            "sampling: must be a mapping of settings, such as sampling={'setting': …}, not 4 (int).",
        ),
        ({"data": {"size": 4}}, "data: is given as prompts=, which takes its settings too. Leave it out."),
    ],
)
def test_an_argument_that_does_not_exist(more: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        rl(**more)
    assert str(error.value).startswith(message)


def test_supervised_runs_have_arguments_of_their_own() -> None:
    with pytest.raises(ConfigError, match="reward: there is no such argument"):
        unchecked(ventaja.sft)(model="m", examples=[], folder="runs/x", reward=brief)
    with pytest.raises(ConfigError, match="exmples: there is no such argument. Did you mean 'examples'"):
        unchecked(ventaja.sft)(model="m", examples=[], folder="runs/x", exmples=[])


class Told:
    def __call__(self, run: object, round: int) -> None: ...

    def only_the_run(self, run: object) -> None: ...

    async def later(self, run: object, round: int) -> None: ...


@pytest.mark.parametrize("on_round", [Told(), lambda *all_: None, print, max, lambda a, b, c=1: None])
def test_what_may_be_told_of_rounds(seen: SimpleNamespace, on_round: object) -> None:
    rl(on_round=on_round)
    assert seen.on_round is on_round


@pytest.mark.parametrize(
    ("on_round", "message"),
    [
        (3, r"on_round: must be a function of the run and the round's number, not 3\."),
        (lambda run: None, r"on_round: is called as on_round\(run, round\), but <lambda>\(run\) cannot be"),
        (lambda a, b, c: None, "missing a required argument: 'c'"),
        (lambda *, run, round: None, "on_round: is called as"),
        (Told().only_the_run, r"but only_the_run\(run: .*two arguments, the run and the round's number\."),
        (Told().later, "on_round: later is async, and nothing would wait for it"),
    ],
)
def test_what_cannot_be_told_of_rounds_is_found_out_first(on_round: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rl(on_round=on_round, prompts="nowhere.jsonl", model="nowhere")


def test_rounds_are_said_once(seen: SimpleNamespace) -> None:
    for more, rounds in (({}, 100), ({"rounds": 3}, 3), ({"run": {"rounds": 4}}, 4)):
        rl(**more)
        assert seen.config.run.rounds == rounds
    with pytest.raises(ConfigError, match="rounds is given twice"):
        rl(rounds=3, run={"rounds": 4})


def test_rows_are_those_that_a_file_may_have(seen: SimpleNamespace) -> None:
    rl(prompts=["a", [USER], {"prompt": "b", "answer": "c"}, {"messages": [USER, BOT]}])
    assert [p.id for p in seen.environment.prompts] == [f"prompts[{i}]" for i in range(4)]
    assert [p.content for p in seen.environment.prompts] == ["a", (USER,), "b", (USER,)]
    assert seen.environment.prompts[2].columns == {"answer": "c"}
    ventaja.sft(
        model="m", folder="runs/x", examples=[{"prompt": "a", "completion": "b"}, {"messages": [USER, BOT]}]
    )
    assert [(e.prompt, e.completion) for e in seen.examples] == [("a", "b"), ((USER,), (BOT,))]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", r"prompts\[0\]: the prompt is empty"),
        (
            [{"role": "usr", "content": "a"}],
            r"prompts\[0\]: prompt\[0\] has the role 'usr'. Did you mean 'user'",
        ),
        ([USER, BOT], r"prompts\[0\]: the prompt ends with an assistant turn"),
        ({"question": "a"}, r"prompts\[0\]: the row has no 'prompt'"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(prompt: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rl(prompts=[prompt])
