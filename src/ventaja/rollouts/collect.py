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
    finished: Callable[[int, int, Completion], None] = lambda prompt, k, completion: None,
) -> list[Group]:
    """`size` completions for each prompt, not judged yet. `seeds` names each prompt's random streams.

    `finished(prompt, k, completion)` is called for each answer as soon as it has ended, with its prompt's place.
    """
    requests = [
        Request(prompt_ids=ids, count=size, seed=seed) for ids, seed in zip(prompt_ids, seeds, strict=True)
    ]
    answers = engine.sample(requests, sampling, should_stop=should_stop, finished=finished)
    return [
        Group(prompt=prompt, prompt_ids=ids, completions=completions)
        for prompt, ids, completions in zip(prompts, prompt_ids, answers, strict=True)
    ]


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
    finished: Callable[[int, int, Completion], None] | None = None,
) -> list[Group]:
    """`sample_groups`, judged; with `overlap` answers are judged while others are still being sampled.

    `finished` is told of each answer as in `sample_groups`. Both parts go on inside `phase("sampling")` and `phase("judging")`. Raises RewardError if more than
    `max_broken_fraction` of the judgements are broken, and whatever `environment.judge` raises.
    """
    early = EarlyJudge(environment, prompts, prompt_ids) if overlap else None
    listeners: list[Callable[[int, int, Completion], None]] = [early.begin] if early else []
    if finished is not None:
        listeners.append(finished)

    def tell(prompt: int, k: int, completion: Completion) -> None:
        for listener in listeners:
            listener(prompt, k, completion)

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
                **({"finished": tell} if listeners else {}),
            )
        with phase("judging"):
            judged = early.judged(groups) if early else environment.judge(groups)
            check_broken(judged, limit=max_broken_fraction)
    except BaseException:
        if early:
            early.abandon()
        raise
    return judged
