"""A round's groups: the next prompts, their answers, and what those are worth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ventaja.environments import Environment
from ventaja.records import Group, Prompt
from ventaja.rollouts import Asked, Engine, Watch, sample_and_judge
from ventaja.tracking import Progress
from ventaja.training.algorithms import Algorithm
from ventaja.training.config import RlConfig
from ventaja.training.credit import has_spread
from ventaja.training.prompts import Passes
from ventaja.training.round import State, timed

SAMPLING = 0x5A
"""Names the random streams of sampling, apart from those of shuffles and minibatches."""


@dataclass(kw_only=True)
class Collector:
    """Has prompts answered and judged. `state.prompts_taken` says which come next, and goes on."""

    config: RlConfig
    algorithm: Algorithm
    engine: Engine
    environment: Environment
    prompts: Sequence[Prompt]
    prompt_ids: Sequence[tuple[int, ...]]
    should_stop: Callable[[], bool]
    progress: Progress

    def collect(self, state: State, seconds: dict[str, float]) -> tuple[list[Group], list[Group]]:
        """Judged groups for one round, and those that dynamic sampling replaced for their equal rewards.

        Raises Interrupted once `should_stop()` is True.
        """
        kept: list[Group] = []
        wanted = self.config.run.completions_per_round // self.algorithm.group_size
        budget = wanted
        if self.algorithm.dynamic_sampling:
            budget = int(wanted * self.algorithm.max_sampling_factor)
        asked = 0
        uniform: list[Group] = []
        while len(kept) < wanted and asked < budget:
            count = min(wanted - len(kept), budget - asked)
            asked += count
            groups = self._sample_and_judge(count, state, seconds)
            if not self.algorithm.dynamic_sampling:
                return groups, []
            for group in groups:
                (kept if self.has_spread(group) else uniform).append(group)
        if not kept:
            return uniform[:wanted], uniform[wanted:]
        return kept, uniform

    def _sample_and_judge(self, count: int, state: State, seconds: dict[str, float]) -> list[Group]:
        seed, taken = self.config.run.seed, state.prompts_taken
        chosen = Passes([prompt.weight for prompt in self.prompts], seed=seed).stream(taken, count)
        judged = sample_and_judge(
            self.engine,
            self.environment,
            Asked(
                prompts=[self.prompts[i] for i in chosen],
                prompt_ids=[self.prompt_ids[i] for i in chosen],
                seeds=[(seed, SAMPLING, taken + i) for i in range(count)],
                size=self.algorithm.group_size,
            ),
            self.config.sampling,
            overlap=self.config.reward.overlap,
            max_broken_fraction=self.config.reward.max_broken_fraction,
            watch=Watch(should_stop=self.should_stop, phase=lambda name: self._phase(name, seconds)),
        )
        state.prompts_taken += count
        return judged

    @contextmanager
    def _phase(self, name: str, seconds: dict[str, float]) -> Iterator[None]:
        self.progress.phase(name)
        with timed(seconds, name):
            yield

    def has_spread(self, group: Group) -> bool:
        """True if the group's answers differ, as this run shapes their rewards: what is kept, and what is reported."""
        return has_spread(group, self.config.reward, max_tokens=self.config.sampling.max_tokens)
