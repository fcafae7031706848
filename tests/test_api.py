"""`ventaja.rl` and `ventaja.sft`: what lists and functions in Python become."""

from __future__ import annotations

from collections.abc import Mapping
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


def rl(**more: Any) -> None:
    ventaja.rl(**{"model": "m", "prompts": ["a"], "reward": brief, "folder": "runs/x", **more})


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
