"""What a training loop needs of a world: prompts to ask, and a judge of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from ventaja.environments.judging import judge
from ventaja.environments.rewards import Reward, check_columns, check_reserved, check_rewards
from ventaja.errors import DataError
from ventaja.records import Group, Prompt
from ventaja.records.files import check_columns_are_json


@runtime_checkable
class Environment(Protocol):
    """Anything with prompts and a judge."""

    @property
    def prompts(self) -> Sequence[Prompt]:
        """What may be asked."""

    def judge(self, groups: Sequence[Group]) -> list[Group]:
        """The same groups, in order, with one judgement per completion."""


@dataclass(frozen=True, kw_only=True)
class SingleTurn:
    """One question, one answer, judged by reward functions."""

    prompts: Sequence[Prompt]
    rewards: Sequence[Reward]
    timeout: float = 60.0
    """Seconds that one call of a reward function may take."""
    _columns: frozenset[str] = field(init=False, repr=False, compare=False, default=frozenset())

    def __post_init__(self) -> None:
        if not self.prompts:
            raise DataError("there are no prompts to ask.")
        columns = frozenset(name for prompt in self.prompts for name in prompt.columns)
        object.__setattr__(self, "_columns", columns)
        check_rewards(self.rewards, self.timeout)
        for prompt in self.prompts:  # now, rather than when the first round's rollouts are written
            check_columns_are_json(prompt)
        check_reserved(columns)
        check_columns(self.rewards, columns)

    def judge(self, groups: Sequence[Group]) -> list[Group]:
        """The groups with their judgements. Raises RewardError if a reward is not a number."""
        return judge(groups, self.rewards, timeout=self.timeout, columns=self._columns)
