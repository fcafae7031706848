"""Reward functions: how they are named and loaded, and which columns they take."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ventaja.environments._hints import listed
from ventaja.environments.steps import Cutter, StepsLike, cutter
from ventaja.environments.verifiers import BUILT_IN, GIVEN, RewardFunction, built_in
from ventaja.errors import ConfigError, did_you_mean
from ventaja.named import load_named, own_name
from ventaja.settings import GENERATED, NO_OPTIONS

STEPS = "steps"
"""The parameter of a function that judges steps."""


@dataclass(frozen=True)
class Reward:
    """A reward function, the name it is reported under, and its share in the sum."""

    function: RewardFunction
    name: str
    weight: float = 1.0
    steps: StepsLike | None = None
    """Where answers are cut, if it judges their steps: `line`, `sentence`, `turn`, `{"tag": NAME}`, or a function of
    one's own, text → [(start, end), …]. The function is then given `steps`, and may return one reward for each."""
    cut: Cutter | None = field(init=False, repr=False, compare=False, default=None)
    """What `steps` names."""

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ConfigError(f"reward {self.name!r}: {self.function!r} cannot be called; give a function.")
        if not self.name:
            raise ConfigError("a reward needs a name: it is reported under rewards/NAME.")
        if not math.isfinite(self.weight):
            raise ConfigError(f"reward {self.name!r}: its weight is {self.weight}; give a finite number.")
        if self.steps is not None:
            object.__setattr__(self, "cut", cutter(self.steps, self.name))
            if STEPS not in Wanted.of(self.function, self.name).names:
                raise ConfigError(
                    f"reward {self.name!r}: steps would have no effect, for the function takes no parameter {STEPS!r}: a "
                    "list with the texts of each completion's steps. Give it one, or leave steps out."
                )

    @property
    def full_marks(self) -> float | None:
        """What the function gives a right answer, by its attribute `full_marks`; None if it does not say."""
        function: Any = self.function
        while isinstance(function, functools.partial):
            function = function.func
        mark = getattr(function, "full_marks", None)
        return None if mark is None else float(mark)


# ---------------------------------------------------------------------- loading


def load_reward(
    spec: str | RewardFunction,
    *,
    name: str | None = None,
    weight: float = 1.0,
    options: Mapping[str, Any] = NO_OPTIONS,
    steps: StepsLike | None = None,
) -> Reward:
    """A reward from a function, or from the words that name one.

    Args:
        spec: a callable, `path/to/file.py:function`, `package.module:function`, or a built-in name
            (`exact_match`, `math_verify`, `reasoning_gym`, `regex`). A file is executed, and its folder
            (for a module, the current one) joins the end of the import path.
        name: the name to report it under; by default the function's.
        weight: its share in the weighted sum.
        options: a built-in's options; for any other function, keyword arguments that are bound to it.
        steps: where answers are cut for it, if it judges steps: see `Reward`.

    Raises:
        ConfigError: nothing has this name, or the options or the steps do not fit.
    """
    if callable(spec):
        return Reward(_with_options(spec, options, own_name(spec)), name or own_name(spec), weight, steps)
    if not isinstance(spec, str):
        raise ConfigError(f"a reward is a function or its name, not {type(spec).__name__}: {spec!r}.")
    if ":" not in spec:
        return Reward(_built_in(spec, options), name or spec, weight, steps)
    function = load_named(spec, "a reward")
    if not callable(function):
        raise ConfigError(f"the reward {spec!r} is a {type(function).__name__}, not a function.")
    return Reward(_with_options(function, options, spec), name or own_name(function), weight, steps)


def default_rewards(source: str) -> tuple[Reward, ...]:
    """The rewards that a source of prompts brings along: `reasoning_gym:NAME` has its task's own verifier.

    Raises:
        ConfigError: the source has none.
    """
    if source.startswith(GENERATED):
        return (load_reward("reasoning_gym"),)
    raise ConfigError(
        f"the prompts of {source!r} bring no reward of their own. Name one: 'file.py:function', "
        f"'package.module:function' or a built-in ({listed(BUILT_IN)})."
    )


def _built_in(name: str, options: Mapping[str, Any]) -> RewardFunction:
    if name not in BUILT_IN:
        hint = f" To name a function of a file, write '{name}:function'." if name.endswith(".py") else ""
        raise ConfigError(
            f"there is no built-in reward {name!r}.{did_you_mean(name, BUILT_IN)}{hint} Built in are "
            f"{listed(BUILT_IN)}; a function of your own is 'file.py:function' or 'package.module:function'."
        )
    factory = BUILT_IN[name]
    known = inspect.signature(factory).parameters
    _check_options(options, known, name)
    missing = [key for key, value in known.items() if value.default is value.empty and key not in options]
    if missing:
        raise ConfigError(f"the reward {name!r} needs the option {listed(missing)}.")
    return built_in(name, options)


def _with_options(function: RewardFunction, options: Mapping[str, Any], where: str) -> RewardFunction:
    if not options:
        return function
    wanted = Wanted.of(function, where)
    taken = [name for name in options if name in GIVEN]
    if taken:
        raise ConfigError(f"the reward {where!r} cannot have the option {listed(taken)}: a run fills it in.")
    if not wanted.takes_all:
        _check_options(options, wanted.names - set(GIVEN), where)
    return functools.partial(function, **options)


def _check_options(options: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    known = sorted(known)
    for option in options:
        if option not in known:
            raise ConfigError(
                f"the reward {where!r} has no option {option!r}.{did_you_mean(option, known)} "
                f"It has {listed(known)}."
            )


# ---------------------------------------------------------------------- what functions take


@dataclass(frozen=True)
class Wanted:
    """The parameters of a reward function."""

    names: frozenset[str]
    required: tuple[str, ...]
    bound: frozenset[str]
    """Set by its options: a column of the same name does not replace them."""
    takes_all: bool

    @classmethod
    def of(cls, function: RewardFunction, where: str) -> Wanted:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError) as error:
            raise ConfigError(f"reward {where!r}: its parameters cannot be read ({error}).") from error
        unnamed = [each.name for each in parameters if each.kind is each.POSITIONAL_ONLY]
        if unnamed:
            raise ConfigError(f"reward {where!r}: {listed(unnamed)} is positional-only; columns go by name.")
        named = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
        bound = frozenset(function.keywords) if isinstance(function, functools.partial) else frozenset()
        return cls(
            names=frozenset(each.name for each in named) - bound,
            required=tuple(each.name for each in named if each.default is each.empty),
            bound=bound,
            takes_all=any(each.kind is each.VAR_KEYWORD for each in parameters),
        )

    def accepts(self, name: str) -> bool:
        return name in self.names or (self.takes_all and name not in self.bound)


def check_columns(rewards: Sequence[Reward], columns: Collection[str]) -> None:
    """Raises ConfigError if a reward function requires a column that is not among these."""
    for reward in rewards:
        given = given_to(reward)
        for name in Wanted.of(reward.function, reward.name).required:
            if name not in given and name not in columns:
                hint = did_you_mean(name, [*columns, *given])
                if name == STEPS:
                    hint = " If it judges an answer's steps, say where they are cut: steps: line, for one."
                raise ConfigError(
                    f"the reward {reward.name!r} requires {name!r}, which the prompts do not have.{hint} They have the "
                    f"columns {listed(sorted(columns))}; a function may also take {', '.join(given)}."
                )


def check_rewards(rewards: Sequence[Reward], timeout: float) -> None:
    """Raises ConfigError if there is no reward, two share a name, or the time limit is not above 0."""
    if not rewards:
        raise ConfigError("there is no reward function: without one there is nothing to learn from.")
    names = [reward.name for reward in rewards]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"two rewards are named {listed(twice)}. Give one of them another name, as in "
            f"{{function: {twice[0]}, name: another}}."
        )
    if not timeout > 0:
        raise ConfigError(f"the time limit of the rewards is {timeout} s; give a number above 0.")


def given_to(reward: Reward) -> tuple[str, ...]:
    """What the reward's function may take besides the prompts' columns."""
    return GIVEN if reward.cut is None else (*GIVEN, STEPS)


def check_reserved(columns: Collection[str], rewards: Sequence[Reward]) -> None:
    """Raises ConfigError if a column has a name that these reward functions know for something else."""
    taken = sorted({name for reward in rewards for name in given_to(reward) if name in columns})
    if taken:
        raise ConfigError(
            f"the prompts have the column {listed(taken)}, a name that rewards need. Rename it."
        )
