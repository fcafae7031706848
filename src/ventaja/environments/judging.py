"""Judging: reward functions are called for samples, and what they return becomes judgements.

A reward function is called once for all the samples that are judged at once. If that call raises or runs past its limit,
it is called again for each sample alone, so that only the samples that break it are *broken*, and the rest
keep their rewards. What a function returns must have the right form at once: a list of the wrong length or
a NaN is a mistake in the program, not bad luck with a sample. Of steps it is one sample that is broken: how many steps there
are follows from what was sampled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, TypeAlias

from ventaja.environments._calls import Failure, call_all, failure, is_async, start_async
from ventaja.environments._hints import clipped
from ventaja.environments.rewards import (
    STEPS,
    Reward,
    Wanted,
    check_columns,
    check_reserved,
    check_rewards,
)
from ventaja.environments.steps import Offsets, Step, place_of, steps_of
from ventaja.errors import ConfigError, RewardError
from ventaja.records import Completion, Fault, Group, Judgement, Prompt, Trajectory

_INPUT = "\nInput:\n"
_CLIP = 2000

Score: TypeAlias = float | tuple[tuple[Step, float | None], ...] | Fault | None
"""What a function says of one sample: of the whole, or of each of its steps."""


@dataclass(frozen=True)
class _Sample:
    """One trajectory, and where it stands."""

    prompt: Prompt
    trajectory: Trajectory
    index: int
    """Its place in its group."""
    steps: tuple[Step, ...] = ()
    """What it is cut into, for a function that judges steps."""

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
    offsets: Callable[[Completion], Offsets] | None = None,
) -> list[Group]:
    """The groups with a judgement per trajectory: the weighted sum of the rewards, earned at the last token.

    The reward of a step is earned at the last token whose text reaches into the step (`steps.place_of`).
    A function that gives None for a sample does not count there; a sample that no function judges has an
    empty stream. A sample on which a function broke carries a Fault and takes no part in the update.
    Async functions wait together; the others are called one after another, each in a thread.

    Args:
        timeout: seconds that one call may take: the call for all samples, and each call for a single one.
            A thread past its limit cannot be killed; it is left behind.
        columns: the columns of the whole data set, where these groups may lack some; missing values are None.
        offsets: tells where a completion's tokens have their text (`Ask.offsets`): needed where steps are judged.

    Raises:
        ConfigError: a function requires a column that does not exist, two rewards share a name, or steps are judged
            without `offsets`.
        RewardError: a function returned something else than one finite number or None per sample.
    """
    check_rewards(rewards, timeout)
    for reward in rewards:
        if reward.cut is not None and offsets is None:
            raise ConfigError(
                f"the reward {reward.name!r} judges steps, so it must be known where tokens have their text: give "
                "offsets=ask.offsets."
            )
    samples = [
        _Sample(group.prompt, trajectory, index)
        for group in groups
        for index, trajectory in enumerate(group.trajectories)
    ]
    if not samples:
        return [replace(group, judgements=()) for group in groups]
    present = {name for group in groups for name in group.prompt.columns} | set(columns or ())
    check_reserved(present, rewards)
    check_columns(rewards, present)
    scores = _all_scores(rewards, samples, sorted(present), timeout)
    judgements = iter(
        _judgement(rewards, sample, [scores[reward.name][number] for reward in rewards], offsets)
        for number, sample in enumerate(samples)
    )
    return [
        replace(group, judgements=tuple(next(judgements) for _ in group.trajectories)) for group in groups
    ]


def _all_scores(
    rewards: Sequence[Reward], samples: Sequence[_Sample], columns: Sequence[str], timeout: float
) -> dict[str, list[Score]]:
    cut = {reward.name: [_cut(reward, sample, columns) for sample in samples] for reward in rewards}
    whole = {name: [each for each in cut[name] if isinstance(each, _Sample)] for name in cut}
    called = [reward for reward in rewards if whole[reward.name]]
    started = {
        reward.name: start_async(
            reward.function, [_call(reward, whole[reward.name], columns)], timeout=_limit(reward, timeout)
        )
        for reward in called
        if is_async(reward.function)
    }
    outcomes = {
        reward.name: call_all(
            reward.function, [_call(reward, whole[reward.name], columns)], timeout=_limit(reward, timeout)
        )[0]
        for reward in called
        if not is_async(reward.function)
    }
    outcomes |= {name: wait()[0] for name, wait in started.items()}
    scores = {
        reward.name: iter(
            _scores(reward, outcomes[reward.name], whole[reward.name], columns, _limit(reward, timeout))
            if whole[reward.name]
            else ()
        )
        for reward in rewards
    }
    return {
        name: [each if isinstance(each, Fault) else next(scores[name]) for each in cut[name]] for name in cut
    }


def _limit(reward: Reward, timeout: float) -> float:
    """Seconds that one of its calls may take: more than `timeout` if its attribute `least_timeout` says so, for a function
    that computes for long and is known not to hang."""
    return max(timeout, float(getattr(reward.function, "least_timeout", 0.0)))


def _cut(reward: Reward, sample: _Sample, columns: Sequence[str]) -> _Sample | Fault:
    """The sample with the steps that this reward judges; a Fault if they cannot be cut out."""
    if reward.cut is None:
        return sample
    try:
        return replace(sample, steps=steps_of(sample.trajectory, reward.cut))
    except Exception as error:  # also what somebody's own cutter raises
        return _fault(reward, failure(error), sample, columns)


def _scores(
    reward: Reward, outcome: Any, samples: Sequence[_Sample], columns: Sequence[str], timeout: float
) -> list[Score]:
    if not isinstance(outcome, Failure):
        return _checked(reward, outcome, samples, columns)
    if len(samples) == 1:
        return [_fault(reward, outcome, samples[0], columns)]
    singles = [_call(reward, [sample], columns) for sample in samples]
    scores: list[Score] = []
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
    if reward.cut is not None:
        given[STEPS] = lambda: [[step.text for step in sample.steps] for sample in samples]
    arguments = {name: make() for name, make in given.items() if wanted.accepts(name)}
    for name in columns:
        if wanted.accepts(name):
            arguments[name] = [sample.prompt.columns.get(name) for sample in samples]
    return arguments


def _checked(
    reward: Reward, returned: Any, samples: Sequence[_Sample], columns: Sequence[str]
) -> list[Score]:
    each = (
        "one number or None" if reward.cut is None else "a list with one number per step, one number or None"
    )
    expected = f"return {each} per completion, in a list of {len(samples)}"
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
        if reward.cut is None
        else _of_steps(reward, value, sample, columns)
        for value, sample in zip(returned, samples, strict=True)
    ]


def _of_steps(reward: Reward, value: Any, sample: _Sample, columns: Sequence[str]) -> Score:
    """What a function that judges steps says of one sample. A mistake in it breaks this sample, and no other: how many
    steps an answer has is the policy's doing."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    try:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            return _number(reward, value, sample)
        if len(value) != len(sample.steps):
            raise RewardError(
                f"the reward {reward.name!r} returned {len(value)} values for the {len(sample.steps)} steps of {sample}. "
                "Return one number or None for each step, or one number for the whole."
            )
        return tuple(
            (step, _number(reward, number, sample)) for step, number in zip(sample.steps, value, strict=True)
        )
    except RewardError as error:
        return _fault(reward, Failure(error=str(error), trace=str(error)), sample, columns)


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
            + (" To judge steps, set steps." if isinstance(value, Sequence) and reward.cut is None else "")
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
    rewards: Sequence[Reward],
    sample: _Sample,
    scores: Sequence[Score],
    offsets: Callable[[Completion], Offsets] | None,
) -> Judgement:
    faults = tuple(score for score in scores if isinstance(score, Fault))
    components = {reward.name: _sum(score) for reward, score in zip(rewards, scores, strict=True)}
    weighs = any(reward.weight for reward in rewards)
    judging = [reward for reward in rewards if reward.weight or not weighs]  # the others are only reported
    if faults or all(components[reward.name] is None for reward in judging):
        return Judgement(components=components, faults=faults)
    last = max(len(sample.trajectory), 1) - 1
    told: dict[int, Offsets] = {}

    def once(completion: Completion) -> Offsets:
        assert offsets is not None
        if id(completion) not in told:
            told[id(completion)] = offsets(completion)
        return told[id(completion)]

    earned: dict[int, list[float]] = {}
    for reward, score in zip(rewards, scores, strict=True):
        if reward.weight == 0:  # reported, and no part of the reward
            continue
        if isinstance(score, float):
            earned.setdefault(last, []).append(reward.weight * score)
        elif isinstance(score, tuple):
            for step, number in score:
                if number is not None:
                    place = place_of(step, sample.trajectory, once)
                    earned.setdefault(place, []).append(reward.weight * number)
    earned = earned or {last: [0.0]}  # judged, and neither step nor weight in it: 0 for the whole answer
    stream = tuple((place, math.fsum(parts)) for place, parts in sorted(earned.items()))
    return Judgement(stream=stream, components=components)


def _sum(score: Score) -> float | None:
    """A function's reward of a whole sample: the sum over its steps; None if it judged none of them."""
    if not isinstance(score, tuple):
        return None if isinstance(score, Fault) else score
    known = [number for _, number in score if number is not None]
    return math.fsum(known) if known or not score else None


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
