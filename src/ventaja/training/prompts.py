"""The order in which prompts and examples are used: pass after pass, found again from a single number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np

from ventaja.errors import DataError
from ventaja.models import Policy, render_prompt
from ventaja.records import Prompt, Request
from ventaja.settings import Sampling
from ventaja.tracking.words import counted

ORDER = 0x0D
"""Names the random stream of shuffles, apart from those of sampling and minibatches."""
SAMPLING = 0x5A
"""Names the random streams of sampling, apart from those of shuffles and minibatches."""
TURN = 0x0E
"""Names the random stream of whose turn it is, among rows that are not in every pass."""


class Passes:
    """Passes over weighted rows, each in an order of its own that is found again from its number.

    A row of weight w is used w times in a pass: after E passes it has been used E·w times, rounded down or up. So
    with weights of 1 every pass holds every row once; rows of weight 1/2 take turns, and are there in every second
    pass. Rows of one weight take their turns together, in an order that is new whenever all have had one.
    """

    def __init__(self, weights: Sequence[float], *, seed: int) -> None:
        self.seed = seed
        rows: dict[float, list[int]] = {}
        for row, weight in enumerate(weights):
            rows.setdefault(weight, []).append(row)
        # The number that was written, not its nearest binary one: ten passes at 0.1 are one whole turn.
        self._rows = {Fraction(str(weight)): np.array(members) for weight, members in rows.items()}
        self._last: tuple[int, list[int]] = (-1, [])

    def begin(self, number: int) -> int:
        """How many rows all passes before this one hold; passes count from 0."""
        return sum(floor(number * weight * len(rows)) for weight, rows in self._rows.items())

    def length(self, number: int) -> int:
        """How many rows a pass holds: the sum of all weights, rounded down or up for each weight."""
        return self.begin(number + 1) - self.begin(number)

    def order(self, number: int) -> list[int]:
        """The rows of a pass, in its order."""
        if self._last[0] == number:
            return self._last[1]
        chosen = np.sort(
            np.concatenate([self._turns(weight, rows, number) for weight, rows in self._rows.items()])
        )
        order = np.random.default_rng([self.seed, ORDER, number]).permutation(len(chosen))
        self._last = (number, [int(row) for row in chosen[order]])
        return self._last[1]

    def _turns(self, weight: Fraction, rows: np.ndarray, number: int) -> np.ndarray:
        """Of rows of one weight, those whose turn it is in a pass."""
        first, end = (floor(k * weight * len(rows)) for k in (number, number + 1))
        chosen = [rows[:0]]
        while first < end:
            turn, place = divmod(first, len(rows))
            count = min(len(rows) - place, end - first)
            if count == len(rows):  # all of them, so whose turn it is does not matter
                chosen.append(rows)
            else:
                random = np.random.default_rng([self.seed, TURN, turn, weight.numerator, weight.denominator])
                chosen.append(rows[random.permutation(len(rows))[place : place + count]])
            first += count
        return np.concatenate(chosen)

    def stream(self, taken: int, count: int) -> list[int]:
        """The next `count` rows of pass after pass without end, when `taken` have been used."""
        # A pass holds this many on average, and the first so many passes never hold more.
        number = floor(taken / sum(weight * len(rows) for weight, rows in self._rows.items()))
        result: list[int] = []
        while len(result) < count:
            place = taken + len(result) - self.begin(number)
            if place < self.length(number):
                result += self.order(number)[place : place + count - len(result)]
            number += 1
        return result

    def steps(self, passes: int, size: int) -> int:
        """Into how many batches of at most `size` rows so many passes are cut."""
        return sum(-(-self.length(number) // size) for number in range(passes))

    def batch(self, step: int, size: int) -> list[int]:
        """The rows of batch `step` (from 0), when every pass is cut into batches of `size`.

        No batch reaches into the next pass: the last of a pass takes what is left, so that n passes use every row
        of weight 1 exactly n times.
        """
        number = 0
        while step >= (inside := -(-self.length(number) // size)):
            step -= inside
            number += 1
        return self.order(number)[step * size : (step + 1) * size]


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Prompts and their tokens."""

    prompts: Sequence[Prompt]
    token_ids: Sequence[tuple[int, ...]]
    left_out: int = 0
    """How many prompts were too long."""

    def __len__(self) -> int:
        return len(self.prompts)

    def request(self, place: int, *, count: int, seed: tuple[int, ...]) -> Request:
        """Ask for `count` answers to the prompt at this place."""
        return Request(prompt=self.prompts[place], prompt_ids=self.token_ids[place], count=count, seed=seed)


@dataclass(frozen=True, kw_only=True)
class PromptStream:
    """A run's prompts, pass after pass, in an order that follows from the seed."""

    rendered: Rendered
    seed: int

    def requests(self, taken: int, count: int, *, size: int) -> list[Request]:
        """The next `count` prompts after the first `taken`, each to be answered `size` times."""
        passes = Passes([prompt.weight for prompt in self.rendered.prompts], seed=self.seed)
        return [
            self.rendered.request(row, count=size, seed=(self.seed, SAMPLING, taken + place))
            for place, row in enumerate(passes.stream(taken, count))
        ]


def render_all(policy: Policy, prompts: Sequence[Prompt], *, max_prompt_tokens: int | None) -> Rendered:
    """The prompts that are short enough.

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
                f"{prompt.id}: the prompt has {counted(len(tokens), 'token')}, but {policy.name} takes {len(tokens) + room} with the "
                f"answer. Shorten it, or leave out long prompts with data.max_prompt_tokens."
            )
        kept.append(prompt)
        ids.append(tokens)
    if not kept:
        raise DataError(
            f"no prompt is left: each of them ({len(prompts)}) is longer than data.max_prompt_tokens={max_prompt_tokens}. "
            "Raise it."
        )
    return Rendered(prompts=kept, token_ids=ids, left_out=len(prompts) - len(kept))


def left_out_note(count: int) -> str | None:
    """What to say of prompts that `render_all` left out."""
    return f"Left out: {counted(count, 'prompt')} longer than data.max_prompt_tokens." if count else None


def room_note(policy: Policy, prompt_ids: Sequence[Sequence[int]], sampling: Sampling) -> str | None:
    """What to say where the model's context ends an answer before `sampling.max_tokens` does."""
    context = policy.context_length
    longest, shortest = max(map(len, prompt_ids)), min(map(len, prompt_ids))
    if context is None or longest + sampling.max_tokens <= context:
        return None
    least, most = context - longest, min(context - shortest, sampling.max_tokens)
    after = (
        counted(least, "token")
        if least == most
        else f"{least} to {most} tokens, by the length of their prompt"
    )
    return (
        f"sampling.max_tokens is {sampling.max_tokens}, but {policy.name} takes {context} tokens, prompt included: answers "
        f"are cut off after {after}."
    )
