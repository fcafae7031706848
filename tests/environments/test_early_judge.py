"""Judging beside sampling: the same judgements, earlier."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from ventaja.environments import Reward, SingleTurn
from ventaja.environments.early_judge import EarlyJudge
from ventaja.errors import RewardError, RolloutError
from ventaja.models import Policy
from ventaja.records import Completion, Group, Prompt, Request, StopReason
from ventaja.rollouts import Asking, Engine, Sampling, roll_out

WAIT = 20.0
"""Seconds after which a test that hangs fails."""
PROMPTS = [Prompt(id=str(i), content=f"{i}") for i in range(5)]
REQUESTS = [
    Request(prompt=prompt, prompt_ids=(place,), count=2, seed=(0, place))
    for place, prompt in enumerate(PROMPTS)
]


def group(place: int) -> Group:
    return REQUESTS[place].answered(answers(place))


def answers(place: int) -> tuple[Completion, ...]:
    return tuple(
        Completion(
            token_ids=(k,), logprobs=(-1.0,), text=f"{place}.{k}", stop=StopReason.EOS, weight_version=0
        )
        for k in range(2)
    )


def numbers(completions: list[str]) -> list[float]:
    return [float(text) for text in completions]


def world(judge: object = numbers) -> SingleTurn:
    return SingleTurn(prompts=PROMPTS, rewards=[Reward(judge, "r")], overlap=True)  # type: ignore[arg-type]


def run(engine: Engine, environment: SingleTurn, limit: float) -> list[Group]:
    ask = Asking(engine=engine, sampling=Sampling(), vocabulary=9, tokenizer=None)
    return roll_out(environment, ask, REQUESTS, max_broken_fraction=limit)


class Slow:
    """A reward that waits in its first call until it is let go, and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.entered, self.go = threading.Event(), threading.Event()

    def __call__(self, completions: list[str]) -> list[float]:
        self.calls.append(completions)
        self.entered.set()
        assert self.go.wait(WAIT)
        return numbers(completions)


def test_answers_that_wait_are_taken_together() -> None:
    slow = Slow()
    judge = EarlyJudge(world(slow).judge, REQUESTS[:4])
    judge.begin(3, 1, answers(3)[1])
    assert slow.entered.wait(WAIT)  # at work, before the others are even known
    for place, k in ((1, 1), (0, 0), (1, 0), (3, 0), (2, 1), (2, 0), (0, 1)):
        judge.begin(place, k, answers(place)[k])
    slow.go.set()
    four, said = [group(place) for place in range(4)], [answers(place) for place in range(4)]
    assert judge.judged(said) == world().judge(four)
    assert slow.calls == [["3.1"], ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1", "3.0"]]


def test_answers_begun_one_after_the_other() -> None:
    four, said = [group(place) for place in range(4)], [answers(place) for place in range(4)]
    judge = EarlyJudge(world().judge, REQUESTS[:4])
    for place in range(4):
        for k in (1, 0):
            judge.begin(place, k, answers(place)[k])
        while judge._thread is not None:  # it ends; the next answer begins another
            time.sleep(0.001)
    assert judge.judged(said) == world().judge(four)
    assert EarlyJudge(world().judge, []).judged([]) == []
    assert EarlyJudge(world().judge, REQUESTS[:4]).judged(said) == world().judge(four)  # none was begun


def test_a_mistake_of_the_judge_is_raised_where_groups_are_made_and_awaited() -> None:
    def wrong(completions: list[str]) -> list[float]:
        return [float("nan") for _ in completions]

    judge = EarlyJudge(world(wrong).judge, REQUESTS[:1])
    judge.begin(0, 0, answers(0)[0])
    for _ in range(2):
        with pytest.raises(RewardError, match="returned nan"):
            judge.judged([answers(0)])
        with pytest.raises(RewardError, match="returned nan"):
            judge.begin(1, 0, answers(1)[0])


def test_an_environment_that_loses_groups_is_found_out() -> None:
    class Forgetful(SingleTurn):
        def judge(self, groups: Sequence[Group]) -> list[Group]:
            return super().judge(groups)[1:]

    judge = EarlyJudge(Forgetful(prompts=PROMPTS, rewards=[Reward(numbers, "r")]).judge, REQUESTS[:2])
    with pytest.raises(ValueError, match="shorter"):
        judge.judged([answers(0), answers(1)])


class Slower:
    """An engine that ends no other answer before the first has been judged."""

    def __init__(self, judged: threading.Event) -> None:
        self.judged = judged

    def load(self, policy: Policy, *, version: int) -> None: ...

    def release(self) -> None: ...

    def sample(
        self, requests: Sequence[Request], sampling: Sampling, *, should_stop: object = None, finished=None
    ):  # type: ignore[no-untyped-def]
        finished(0, 1, answers(0)[1])
        assert self.judged.wait(WAIT)
        for place in range(1, len(requests)):
            for k, answer in enumerate(answers(place)):
                finished(place, k, answer)
        finished(0, 0, answers(0)[0])
        return [answers(place) for place in range(len(requests))]


def test_judging_goes_on_while_others_are_sampled() -> None:
    judged = threading.Event()

    def tell(completions: list[str]) -> list[float]:
        judged.set()
        return numbers(completions)

    groups = run(Slower(judged), world(tell), 0.0)
    assert groups == world().judge([group(place) for place in range(5)])


def test_the_broken_are_counted_over_all_groups() -> None:
    def fragile(completions: list[str]) -> list[object]:
        return [ValueError("no") if text == "0.1" else 1.0 for text in completions]

    judged = threading.Event()
    judged.set()
    assert len(run(Slower(judged), world(fragile), 0.1)) == 5  # all that was judged first, a tenth of all
    with pytest.raises(RewardError, match="10% of the judgements are broken, and 9% may be"):
        run(Slower(judged), world(fragile), 0.09)


def test_what_is_abandoned_is_not_judged() -> None:
    slow = Slow()

    def fail(completions: list[str]) -> list[float]:
        return slow(completions)

    class Breaking(Slower):
        def sample(self, requests, sampling, *, should_stop=None, finished=None):  # type: ignore[no-untyped-def]
            finished(0, 1, answers(0)[1])
            assert slow.entered.wait(WAIT)
            finished(1, 0, answers(1)[0])
            raise KeyError("the engine broke")

    with pytest.raises(RolloutError, match="KeyError: 'the engine broke'"):
        run(Breaking(threading.Event()), world(fail), 0.0)
    slow.go.set()
    for thread in threading.enumerate():
        if thread.name == "ventaja-early-judge":
            thread.join(WAIT)
    assert slow.calls == [["0.1"]]
