"""Prompts in, judged groups out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from ventaja.environments import Environment, check_broken
from ventaja.records import Completion, Group, Prompt
from ventaja.rollouts.early_judge import EarlyJudge
from ventaja.rollouts.engine import Engine, Request, Sampling


def sample_groups(
    engine: Engine,
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[tuple[int, ...]],
    sampling: Sampling,
    *,
    size: int,
    seeds: Sequence[tuple[int, ...]],
    should_stop: Callable[[], bool] = lambda: False,
    finished: Callable[[int, Group], None] = lambda place, group: None,
) -> list[Group]:
    """`size` completions for each prompt, not judged yet. `seeds` names each prompt's random streams.

    `finished(place, group)` is called for each group, as soon as its last answer has ended.
    """
    requests = [
        Request(prompt_ids=ids, count=size, seed=seed) for ids, seed in zip(prompt_ids, seeds, strict=True)
    ]

    def group(place: int, completions: tuple[Completion, ...]) -> Group:
        return Group(prompt=prompts[place], prompt_ids=prompt_ids[place], completions=completions)

    answers = engine.sample(
        requests,
        sampling,
        should_stop=should_stop,
        finished=lambda place, completions: finished(place, group(place, completions)),
    )
    return [group(place, completions) for place, completions in enumerate(answers)]


def sample_and_judge(
    engine: Engine,
    environment: Environment,
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[tuple[int, ...]],
    sampling: Sampling,
    *,
    size: int,
    seeds: Sequence[tuple[int, ...]],
    overlap: bool,
    max_broken_fraction: float,
    should_stop: Callable[[], bool] = lambda: False,
    phase: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
) -> list[Group]:
    """`sample_groups`, judged; with `overlap` groups are judged while others are still being sampled.

    Both parts go on inside `phase("sampling")` and `phase("judging")`. Raises RewardError if more than
    `max_broken_fraction` of the judgements are broken, and whatever `environment.judge` raises.
    """
    early = EarlyJudge(environment) if overlap else None
    try:
        with phase("sampling"):
            groups = sample_groups(
                engine,
                prompts,
                prompt_ids,
                sampling,
                size=size,
                seeds=seeds,
                should_stop=should_stop,
                **({"finished": early.begin} if early else {}),
            )
        with phase("judging"):
            judged = early.judged(groups) if early else environment.judge(groups)
            check_broken(judged, limit=max_broken_fraction)
    except BaseException:
        if early:
            early.abandon()
        raise
    return judged


def has_spread(group: Group) -> bool:
    """True if its valid rewards are not all the same, so that comparing them teaches something."""
    return len({j.reward for j in group.judgements if j.is_valid}) > 1
