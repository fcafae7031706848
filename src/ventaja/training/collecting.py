"""A round's groups: the next prompts, their answers, and what those are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from ventaja.environments import Environment, noted_metrics
from ventaja.records import Group, Request
from ventaja.rollouts import Asking, roll_out
from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import Batch
from ventaja.training.config import RlConfig
from ventaja.training.credit import has_spread, return_of
from ventaja.training.prompts import PromptStream
from ventaja.training.truncation import Truncation


@dataclass(kw_only=True)
class Collected:
    """Judged groups."""

    kept: list[Group] = field(default_factory=list)
    """Those that the round trains on."""
    replaced: list[Group] = field(default_factory=list)
    """Those that dynamic sampling replaced, because comparing their answers teaches nothing."""
    spread: list[bool] = field(default_factory=list)
    """Of each group, in the order in which they were sampled: do its answers differ, as this run shapes their rewards?"""
    greedy: list[float] = field(default_factory=list)
    """For each of `kept`: what the greedy answer to its prompt earned, if the algorithm asks for one."""
    noted: dict[str, float] = field(default_factory=dict)
    """What the judges gave to `log_metric`."""
    taken: int
    """How many prompts of the stream have been used by now."""

    @property
    def groups(self) -> list[Group]:
        return [*self.kept, *self.replaced]


def collect(
    environment: Environment,
    ask: Asking,
    prompts: PromptStream,
    *,
    taken: int,
    config: RlConfig,
    algorithm: Algorithm,
) -> Collected:
    """Groups for one round, of the prompts that come after the first `taken`.

    Raises Interrupted if `ask` is to stop, and what `roll_out` raises.
    """
    wanted = config.run.completions_per_round // algorithm.group_size
    budget = int(wanted * algorithm.max_sampling_factor) if algorithm.dynamic_sampling else wanted
    found = Collected(taken=taken)
    with noted_metrics() as noted:
        while len(found.kept) < wanted and found.taken - taken < budget:
            count = min(wanted - len(found.kept), budget - (found.taken - taken))
            requests = prompts.requests(found.taken, count, size=algorithm.group_size)
            limit = config.reward.max_broken_fraction
            groups = roll_out(environment, ask, requests, max_broken_fraction=limit)
            found.taken += count
            found.spread += (spread := _spread(groups, algorithm, Truncation.of(config)))
            for group, differs in zip(groups, spread, strict=True):
                is_kept = differs or not algorithm.dynamic_sampling
                (found.kept if is_kept else found.replaced).append(group)
    if not found.kept:  # nothing teaches: train on what there is
        found.kept, found.replaced = found.replaced[:wanted], found.replaced[wanted:]
    if algorithm.baseline == "greedy":
        found.greedy = _greedy_rewards(environment, ask, found.kept, config=config)
    found.noted = noted.means()
    return found


def _greedy_rewards(
    environment: Environment, ask: Asking, groups: Sequence[Group], *, config: RlConfig
) -> list[float]:
    """What one greedy answer to each group's prompt earns, penalties for length included. It is judged as all others are,
    and not trained on. One that broke counts as the mean of the others, which depends on the group's answers as little."""
    greedy = replace(ask, sampling=ask.sampling.model_copy(update={"temperature": 0.0}))
    requests = [
        Request(prompt=group.prompt, prompt_ids=group.prompt_ids, count=1, seed=(number,))
        for number, group in enumerate(groups)
    ]
    limit = config.reward.max_broken_fraction
    with noted_metrics():  # what is noted of them is no part of the round's
        answered = roll_out(environment, greedy, requests, max_broken_fraction=limit)
    batch = Batch.of_groups(answered, Truncation.of(config))
    reward_S = return_of(batch.columns["token_reward"])
    earned = dict(zip(batch.group_S.tolist(), reward_S.tolist(), strict=True))
    usual = fmean(earned.values()) if earned else 0.0
    return [earned.get(number, usual) for number in range(len(groups))]


def _spread(groups: Sequence[Group], algorithm: Algorithm, truncation: Truncation) -> list[bool]:
    spread = has_spread(Batch.of_groups(groups, truncation), algorithm)
    return [spread.get(number, False) for number in range(len(groups))]
