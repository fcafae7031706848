"""Prompts in, judged groups out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from ventaja.environments import Environment, check_broken
from ventaja.records import Completion, Group, Prompt
from ventaja.rollouts.early_judge import EarlyJudge
from ventaja.rollouts.engine import Engine, Request, Sampling


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Prompts, and how each of them is to be answered."""

    prompts: Sequence[Prompt]
    prompt_ids: Sequence[tuple[int, ...]]
    """Their tokens."""
    seeds: Sequence[tuple[int, ...]]
    """Names each prompt's random streams."""
    size: int
    """Answers to each prompt."""

    def requests(self) -> list[Request]:
        return [
            Request(prompt_ids=ids, count=self.size, seed=seed)
            for ids, seed in zip(self.prompt_ids, self.seeds, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What somebody who watches the sampling wants to be told, and whether to go on."""

    should_stop: Callable[[], bool] = lambda: False
    """Asked before each token: if True, sampling raises Interrupted."""
    phase: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext()
    """Sampling goes on inside `phase("sampling")`, and what is left to judge after it inside `phase("judging")`."""
    finished: Callable[[int, int, Completion], None] | None = None
    """`finished(prompt, k, completion)` is called for each answer as soon as it has ended, with its prompt's place."""


UNWATCHED = Watch()


def sample_groups(
    engine: Engine, asked: Asked, sampling: Sampling, *, watch: Watch = UNWATCHED
) -> list[Group]:
    """A group of answers to each prompt, not judged yet. Raises Interrupted if `watch` says to stop."""
    told = {} if watch.finished is None else {"finished": watch.finished}
    answers = engine.sample(asked.requests(), sampling, should_stop=watch.should_stop, **told)
    return [
        Group(prompt=prompt, prompt_ids=ids, completions=completions)
        for prompt, ids, completions in zip(asked.prompts, asked.prompt_ids, answers, strict=True)
    ]


def sample_and_judge(
    engine: Engine,
    environment: Environment,
    asked: Asked,
    sampling: Sampling,
    *,
    overlap: bool,
    max_broken_fraction: float,
    watch: Watch = UNWATCHED,
) -> list[Group]:
    """`sample_groups`, judged; with `overlap` answers are judged while others are still being sampled.

    Raises RewardError if more than `max_broken_fraction` of the judgements are broken, and whatever
    `environment.judge` raises.
    """
    early = EarlyJudge(environment, asked.prompts, asked.prompt_ids) if overlap else None

    def tell(prompt: int, k: int, completion: Completion) -> None:
        if early is not None:
            early.begin(prompt, k, completion)
        if watch.finished is not None:
            watch.finished(prompt, k, completion)

    listening = watch if early is None else replace(watch, finished=tell)
    try:
        with watch.phase("sampling"):
            groups = sample_groups(engine, asked, sampling, watch=listening)
        with watch.phase("judging"):
            judged = early.judged(groups) if early else environment.judge(groups)
            check_broken(judged, limit=max_broken_fraction)
    except BaseException:
        if early:
            early.abandon()
        raise
    return judged
