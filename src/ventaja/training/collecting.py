"""A round's groups: the next prompts, their answers, and what those are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ventaja.environments import Environment, noted_metrics
from ventaja.records import Group
from ventaja.rollouts import Asking, roll_out
from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import Batch
from ventaja.training.config import RlConfig
from ventaja.training.credit import has_spread
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
            groups = roll_out(
                environment,
                ask,
                prompts.requests(found.taken, count, size=algorithm.group_size),
                max_broken_fraction=config.reward.max_broken_fraction,
            )
            found.taken += count
            found.spread += (spread := _spread(groups, algorithm, Truncation.of(config)))
            for group, differs in zip(groups, spread, strict=True):
                is_kept = differs or not algorithm.dynamic_sampling
                (found.kept if is_kept else found.replaced).append(group)
    if not found.kept:  # nothing teaches: train on what there is
        found.kept, found.replaced = found.replaced[:wanted], found.replaced[wanted:]
    found.noted = noted.means()
    return found


def _spread(groups: Sequence[Group], algorithm: Algorithm, truncation: Truncation) -> list[bool]:
    spread = has_spread(Batch.of_groups(groups, truncation), algorithm)
    return [spread.get(number, False) for number in range(len(groups))]
