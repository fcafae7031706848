"""What a training loop needs of a world: prompts to ask, and judged groups of what was answered."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from ventaja.environments.early_judge import EarlyJudge
from ventaja.environments.judging import judge
from ventaja.environments.rewards import Reward, check_columns, check_reserved, check_rewards
from ventaja.environments.steps import Offsets
from ventaja.errors import DataError
from ventaja.records import Completion, Finished, Group, Prompt, Request
from ventaja.records.files import check_columns_are_json


@runtime_checkable
class Ask(Protocol):
    """The policy, as an environment sees it: it answers, and nothing else is known of it."""

    def __call__(
        self, requests: Sequence[Request], *, finished: Finished | None = None
    ) -> list[tuple[Completion, ...]]:
        """`count` completions for each request, in order. It may be asked several times in one rollout."""
        ...

    def offsets(self, completion: Completion) -> tuple[tuple[int, int], ...]:
        """Where each token's text begins and ends in the completion's text, in characters: (start, end) per token.

        From the tokens as they were sampled. The pieces, one behind the other, are the text; a character that is spread
        over several tokens belongs to the last of them, and a token without text begins and ends at the same place.
        Raises RolloutError if the text is not that of the tokens.
        """
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """The policy's tokens for a text that is put between its turns (`Given`): no token is added at either end, and
        names of special tokens in the text become those tokens."""
        ...


@runtime_checkable
class Environment(Protocol):
    """Anything that has prompts, and plays them through with whoever answers."""

    @property
    def prompts(self) -> Sequence[Prompt]:
        """What may be asked."""

    def rollout(self, ask: Ask, requests: Sequence[Request]) -> list[Group]:
        """One group for each request, in order, with `count` trajectories and a judgement for each."""


@dataclass(frozen=True, kw_only=True)
class SingleTurn:
    """One question, one answer, judged by reward functions."""

    prompts: Sequence[Prompt]
    rewards: Sequence[Reward]
    timeout: float = 60.0
    """Seconds that one call of a reward function may take."""
    overlap: bool = False
    """Judge answers while others are still being sampled, in several calls instead of one."""
    _columns: frozenset[str] = field(init=False, repr=False, compare=False, default=frozenset())

    def __post_init__(self) -> None:
        if not self.prompts:
            raise DataError("there are no prompts to ask.")
        columns = frozenset(name for prompt in self.prompts for name in prompt.columns)
        object.__setattr__(self, "_columns", columns)
        check_rewards(self.rewards, self.timeout)
        for prompt in self.prompts:  # now, rather than when the first round's rollouts are written
            check_columns_are_json(prompt)
        check_reserved(columns, self.rewards)
        check_columns(self.rewards, columns)

    def rollout(self, ask: Ask, requests: Sequence[Request]) -> list[Group]:
        """A judged group of answers to each request. Raises RewardError if a reward is not a number."""
        judge = self.judge
        if any(reward.cut for reward in self.rewards):
            judge = functools.partial(self.judge, offsets=ask.offsets)
        if not self.overlap:
            answers = ask(requests)
            return judge([r.answered(a) for r, a in zip(requests, answers, strict=True)])
        with EarlyJudge(judge, requests) as early:
            return early.judged(ask(requests, finished=early.begin))

    def judge(
        self, groups: Sequence[Group], *, offsets: Callable[[Completion], Offsets] | None = None
    ) -> list[Group]:
        """The groups with their judgements. Raises RewardError if a reward is not a number.

        Rewards of steps need `offsets`, which tells where tokens' text is: `Ask.offsets`.
        """
        return judge(groups, self.rewards, timeout=self.timeout, columns=self._columns, offsets=offsets)
