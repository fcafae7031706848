"""The order in which prompts are used: a new shuffle for every pass, found again from a single number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ventaja.errors import DataError
from ventaja.models import Policy, render_prompt
from ventaja.records import Prompt
from ventaja.settings import Sampling

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


def left_out_note(count: int) -> str | None:
    """What to say of prompts that `render_all` left out."""
    return f"{count} prompts are longer than data.max_prompt_tokens and are left out." if count else None


def room_note(policy: Policy, prompt_ids: Sequence[Sequence[int]], sampling: Sampling) -> str | None:
    """What to say where the model's context ends an answer before `sampling.max_tokens` does."""
    context = policy.context_length
    longest, shortest = max(map(len, prompt_ids)), min(map(len, prompt_ids))
    if context is None or longest + sampling.max_tokens <= context:
        return None
    least, most = context - longest, min(context - shortest, sampling.max_tokens)
    after = f"{least} tokens" if least == most else f"{least} to {most} tokens, by the length of their prompt"
    return (
        f"sampling.max_tokens is {sampling.max_tokens}, but {policy.name} takes {context} tokens, prompt included: answers "
        f"are cut off after {after}."
    )
