"""Judging: reward functions are called for samples, and what they return becomes judgements.

A reward function is called once for all the samples that are judged at once. If that call raises or runs past its limit,
it is called again for each sample alone, so that only the samples that break it are *broken*, and the rest
keep their rewards. What a function returns must have the right form at once: a list of the wrong length or
a NaN is a mistake in the program, not bad luck with a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from ventaja.environments._calls import Failure, call_all, failure, is_async, start_async
from ventaja.environments._hints import clipped
from ventaja.environments.rewards import Reward, Wanted, check_columns, check_reserved, check_rewards
from ventaja.errors import RewardError
from ventaja.records import Fault, Group, Judgement, Prompt, Trajectory

_INPUT = "\nInput:\n"
_CLIP = 2000


@dataclass(frozen=True)
class _Sample:
    """One trajectory, and where it stands."""

    prompt: Prompt
    trajectory: Trajectory
    index: int
    """Its place in its group."""

    @property
    def asked(self) -> str | list[dict[str, str]]:
        content = self.prompt.content
        return content if isinstance(content, str) else [dict(message) for message in content]  # type: ignore[arg-type]

    @property
    def said(self) -> str | list[dict[str, str]]:
        if not self.prompt.is_chat:
            return self.trajectory.text
        return [dict(message) for message in self.trajectory.messages()]  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"completion {self.index} of {self.prompt.id} ({clipped(self.trajectory.text, 80)!r})"


def judge(
    groups: Sequence[Group],
    rewards: Sequence[Reward],
    *,
    timeout: float,
    columns: Collection[str] | None = None,
) -> list[Group]:
    """The groups with a judgement per trajectory: the weighted sum of the rewards, earned at the last token.

    A function that gives None for a sample does not count there; a sample that no function judges has an
    empty stream. A sample on which a function broke carries a Fault and takes no part in the update.
    Async functions wait together; the others are called one after another, each in a thread.

    Args:
        timeout: seconds that one call may take: the call for all samples, and each call for a single one.
            A thread past its limit cannot be killed; it is left behind.
        columns: the columns of the whole data set, where these groups may lack some; missing values are None.

    Raises:
        ConfigError: a function requires a column that does not exist, or two rewards share a name.
        RewardError: a function returned something else than one finite number or None per sample.
    """
    check_rewards(rewards, timeout)
    samples = [
        _Sample(group.prompt, trajectory, index)
        for group in groups
        for index, trajectory in enumerate(group.trajectories)
    ]
    if not samples:
        return [replace(group, judgements=()) for group in groups]
    present = {name for group in groups for name in group.prompt.columns} | set(columns or ())
    check_reserved(present)
    check_columns(rewards, present)
    scores = _all_scores(rewards, samples, sorted(present), timeout)
    judgements = iter(
        _judgement(rewards, sample, [scores[reward.name][number] for reward in rewards])
        for number, sample in enumerate(samples)
    )
    return [
        replace(group, judgements=tuple(next(judgements) for _ in group.trajectories)) for group in groups
    ]


def _all_scores(
    rewards: Sequence[Reward], samples: Sequence[_Sample], columns: Sequence[str], timeout: float
) -> dict[str, list[float | Fault | None]]:
    started = {
        reward.name: start_async(reward.function, [_call(reward, samples, columns)], timeout=timeout)
        for reward in rewards
        if is_async(reward.function)
    }
    outcomes = {
        reward.name: call_all(reward.function, [_call(reward, samples, columns)], timeout=timeout)[0]
        for reward in rewards
        if not is_async(reward.function)
    }
    outcomes |= {name: wait()[0] for name, wait in started.items()}
    return {
        reward.name: _scores(reward, outcomes[reward.name], samples, columns, timeout) for reward in rewards
    }


def _scores(
    reward: Reward, outcome: Any, samples: Sequence[_Sample], columns: Sequence[str], timeout: float
) -> list[float | Fault | None]:
    if not isinstance(outcome, Failure):
        return _checked(reward, outcome, samples, columns)
    if len(samples) == 1:
        return [_fault(reward, outcome, samples[0], columns)]
    singles = [_call(reward, [sample], columns) for sample in samples]
    scores: list[float | Fault | None] = []
    for sample, alone in zip(samples, call_all(reward.function, singles, timeout=timeout), strict=True):
        scores += _scores(reward, alone, [sample], columns, timeout)
    return scores


def _call(reward: Reward, samples: Sequence[_Sample], columns: Sequence[str]) -> dict[str, Any]:
    """The arguments for these samples; lists of their own, which the function may change."""
    wanted = Wanted.of(reward.function, reward.name)
    given: dict[str, Callable[[], list[Any]]] = {
        "prompts": lambda: [sample.asked for sample in samples],
        "completions": lambda: [sample.said for sample in samples],
        "completion_ids": lambda: [list(sample.trajectory.token_ids) for sample in samples],
    }
    arguments = {name: make() for name, make in given.items() if wanted.accepts(name)}
    for name in columns:
        if wanted.accepts(name):
            arguments[name] = [sample.prompt.columns.get(name) for sample in samples]
    return arguments


def _checked(
    reward: Reward, returned: Any, samples: Sequence[_Sample], columns: Sequence[str]
) -> list[float | Fault | None]:
    expected = f"return one number or None per completion, in a list of {len(samples)}"
    if hasattr(returned, "tolist"):  # an array or a tensor
        returned = returned.tolist()
    if not isinstance(returned, Sequence) or isinstance(returned, str | bytes):
        raise RewardError(
            f"the reward {reward.name!r} returned {type(returned).__name__} ({clipped(repr(returned), 80)}): "
            f"{expected}. The first is {samples[0]}."
        )
    if len(returned) != len(samples):
        raise RewardError(
            f"the reward {reward.name!r} returned {len(returned)} values for {len(samples)} completions: "
            f"{expected}. The first is {samples[0]}."
        )
    return [
        _fault(reward, failure(value), sample, columns)
        if isinstance(value, Exception)
        else _number(reward, value, sample)
        for value, sample in zip(returned, samples, strict=True)
    ]


def _number(reward: Reward, value: Any, sample: _Sample) -> float | None:
    if value is None:
        return None
    if (
        callable(getattr(value, "item", None)) and getattr(value, "ndim", None) == 0
    ):  # numpy's and torch's scalars
        value = value.item()
    if not isinstance(value, Real):
        raise RewardError(
            f"the reward {reward.name!r} returned {type(value).__name__} ({clipped(repr(value), 80)}) for "
            f"{sample}. Return a finite number, or None to skip the sample."
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RewardError(
            f"the reward {reward.name!r} returned {clipped(str(value), 80)} for {sample}. "
            "Return a finite number, or None to skip the sample."
        )
    return number


def _fault(reward: Reward, broke: Failure, sample: _Sample, columns: Sequence[str]) -> Fault:
    arguments = _call(reward, [sample], columns)
    arguments.pop("completion_ids", None)
    arguments |= {"prompts": [sample.asked], "completions": [sample.said]}
    shown = "\n".join(f"  {name} = {clipped(repr(value[0]), _CLIP)}" for name, value in arguments.items())
    return Fault(
        function=reward.name,
        error=broke.error,
        detail=f"{broke.trace}{_INPUT}  {sample.prompt.id}, completion {sample.index}\n{shown}",
    )


def _judgement(
    rewards: Sequence[Reward], sample: _Sample, scores: Sequence[float | Fault | None]
) -> Judgement:
    faults = tuple(score for score in scores if isinstance(score, Fault))
    plain = [None if isinstance(score, Fault) else score for score in scores]
    components = {reward.name: score for reward, score in zip(rewards, plain, strict=True)}
    if faults or all(score is None for score in plain):
        return Judgement(components=components, faults=faults)
    total = math.fsum(
        reward.weight * score for reward, score in zip(rewards, plain, strict=True) if score is not None
    )
    return Judgement.outcome(total, length=len(sample.trajectory), components=components)


# ---------------------------------------------------------------------- broken judgements


def broken_fraction(groups: Sequence[Group]) -> float:
    """The share of judged completions on which a reward function broke, between 0 and 1."""
    judgements = [judgement for group in groups for judgement in group.judgements]
    return sum(bool(judgement.faults) for judgement in judgements) / max(len(judgements), 1)


def check_broken(groups: Sequence[Group], *, limit: float) -> None:
    """Raises RewardError, with the first fault, if more than the fraction `limit` is broken."""
    fraction = broken_fraction(groups)
    if fraction <= limit:
        return
    faults = [fault for group in groups for judgement in group.judgements for fault in judgement.faults]
    trace, _, shown = faults[0].detail.partition(_INPUT)
    last_lines = "\n".join(f"  {line}" for line in trace.splitlines()[-8:])
    raise RewardError(
        f"{fraction:.0%} of the judgements are broken, and {limit:.0%} may be. The first is of the reward "
        f"{faults[0].function!r}: {faults[0].error}\n{last_lines}\nwith the input\n{shown}\n"
        "Mend the function, or let it return None for what it cannot judge. If it is only slow, raise its "
        "time limit (reward.timeout); if this is to be expected, raise reward.max_broken_fraction."
    )
