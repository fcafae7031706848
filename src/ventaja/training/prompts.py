"""The order in which prompts are used: a new shuffle for every pass, found again from a single number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ventaja.errors import DataError
from ventaja.models import Policy, render_prompt
from ventaja.records import Prompt

ORDER = 0x0D
"""Names the random stream of shuffles, apart from those of sampling and minibatches."""


def shuffled(items: int, taken: int, count: int, *, seed: int) -> list[int]:
    """The next `count` of an endless stream of passes over `items` indices, after `taken` have been used."""
    result: list[int] = []
    while len(result) < count:
        epoch, place = divmod(taken + len(result), items)
        order = np.random.default_rng([seed, ORDER, epoch]).permutation(items)
        result += order[place : place + count - len(result)].tolist()
    return result


def render_all(
    policy: Policy, prompts: Sequence[Prompt], *, max_prompt_tokens: int | None
) -> tuple[list[Prompt], list[tuple[int, ...]], int]:
    """Prompts that are short enough, their token ids, and how many were left out.

    Raises DataError for a prompt that leaves no room for an answer, unless `max_prompt_tokens` excludes it.
    """
    kept: list[Prompt] = []
    ids: list[tuple[int, ...]] = []
    for prompt in prompts:
        tokens = render_prompt(policy.tokenizer, prompt)
        if max_prompt_tokens is not None and len(tokens) > max_prompt_tokens:
            continue
        if (room := policy.room(len(tokens))) is not None and room < 1:
            raise DataError(
                f"{prompt.id}: the prompt has {len(tokens)} tokens, but {policy.name} takes {len(tokens) + room} with the "
                f"answer. Shorten it, or leave out long prompts with data.max_prompt_tokens."
            )
        kept.append(prompt)
        ids.append(tokens)
    if not kept:
        raise DataError(
            f"no prompt is left: all {len(prompts)} are longer than data.max_prompt_tokens={max_prompt_tokens}. "
            "Raise it."
        )
    return kept, ids, len(prompts) - len(kept)
