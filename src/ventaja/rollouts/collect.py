"""Prompts in, judged groups out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ventaja.records import Group, Prompt
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
) -> list[Group]:
    """`size` completions for each prompt, not judged yet. `seeds` names each prompt's random streams."""
    requests = [
        Request(prompt_ids=ids, count=size, seed=seed) for ids, seed in zip(prompt_ids, seeds, strict=True)
    ]
    answers = engine.sample(requests, sampling, should_stop=should_stop)
    return [
        Group(prompt=prompt, prompt_ids=ids, completions=completions)
        for prompt, ids, completions in zip(prompts, prompt_ids, answers, strict=True)
    ]


def has_spread(group: Group) -> bool:
    """True if its valid rewards are not all the same, so that comparing them teaches something."""
    return len({j.reward for j in group.judgements if j.is_valid}) > 1
