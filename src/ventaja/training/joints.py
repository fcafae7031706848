"""The engine and the environment that a run file names: ours, or somebody's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ventaja.environments import Environment, Reward, SingleTurn, default_rewards, load_reward
from ventaja.errors import ConfigError, did_you_mean, listed
from ventaja.models import Policy
from ventaja.named import GIVEN_IN_PYTHON, load_named, one_line
from ventaja.records import Prompt
from ventaja.records.files import check_columns_are_json
from ventaja.rollouts import Engine, LocalEngine
from ventaja.settings import GENERATED
from ventaja.training.config import (
    EngineConfig,
    MixedSourceConfig,
    RewardConfig,
    RolloutConfig,
    changed_settings,
)
from ventaja.training.data import training_prompts
from ventaja.training.model_reward import is_model, load_model_reward


def make_engine(config: EngineConfig, policy: Policy) -> Engine:
    """The engine of these settings, which has yet to be handed the policy's weights by `load`.

    Raises ConfigError if there is none of that name, if its options do not fit, or if it is no engine.
    """
    if not config.is_own:
        return LocalEngine(policy, max_batch=config.max_batch)
    engine = _made("engine", config.kind, config.options)
    check_engine(engine)
    return engine


def make_environment(
    config: RolloutConfig, *, prompts: Sequence[Prompt] | None = None, rewards: Sequence[Reward] | None = None
) -> Environment:
    """The environment of these settings; `prompts` and `rewards` stand in for what they would load.

    One of somebody's own is called with those of `prompts`, `rewards`, `timeout`, `overlap` and its options that it
    takes. Raises ConfigError as `make_engine` does, and for a setting that it does not take.
    """
    if prompts is None and config.data is not None:
        prompts = training_prompts(config.data)
    if not config.environment.is_own:
        assert config.data is not None
        rewards = rewards or load_rewards(config.reward, config.data.source)
        if config.reward.gold is not None:
            check_gold(config.reward.gold, rewards)
        return SingleTurn(
            prompts=prompts or (),
            rewards=rewards,
            timeout=config.reward.timeout,
            overlap=config.reward.overlap,
        )
    if rewards is None and config.reward.functions:
        rewards = load_rewards(config.reward, "")
    given = {"prompts": ("data", prompts), "rewards": ("reward.functions", rewards)}
    given |= {
        name: (f"reward.{name}", getattr(config.reward, name))
        for name in ("timeout", "overlap")
        if name in changed_settings(config.reward)
    }
    environment = _made(
        "environment",
        config.environment.kind,
        config.environment.options,
        {name: pair for name, pair in given.items() if pair[1] is not None},
    )
    check_environment(environment)
    return environment


def load_rewards(config: RewardConfig, source: str | tuple[MixedSourceConfig, ...]) -> tuple[Reward, ...]:
    """The configured reward functions, or the task's own verifier if none is."""
    if not config.functions:
        names = [source] if isinstance(source, str) else [part.source for part in source]
        # All of them must be tasks: the first that is none says what is missing.
        return default_rewards(next((name for name in names if not name.startswith(GENERATED)), names[0]))
    return tuple(
        make_reward(f.function, name=f.name, options=f.options, weight=f.weight, steps=f.steps)
        for f in config.functions
    )


def check_gold(name: str, rewards: Sequence[Reward]) -> None:
    """Raises ConfigError unless this is the name of a reward function that is measured and not learned from."""
    weights = {reward.name: reward.weight for reward in rewards}
    if name not in weights:
        raise ConfigError(
            f"reward.gold: there is no reward function {name!r}.{did_you_mean(name, weights)} There are {listed(weights)}."
        )
    if weights[name] != 0:
        raise ConfigError(
            f"reward.gold: the policy would learn from {name!r}, whose weight is {weights[name]:g}, so it could not tell what "
            "the others miss. Set its weight to 0."
        )
    if not any(weights.values()):
        raise ConfigError(
            "reward.gold: it is compared with what is learned from, and no other function has a weight."
        )


def make_reward(
    function: Any, *, name: str | None, weight: float, options: Mapping[str, Any], steps: Any = None
) -> Reward:
    """A reward by its function, a function's name, or the folder of a reward model.

    Raises ConfigError or ModelError if there is none.
    """
    if is_model(function):
        return load_model_reward(function, name=name, weight=weight, options=options, steps=steps)
    return load_reward(function, name=name, weight=weight, options=options, steps=steps)


def check_engine(engine: Any) -> None:
    """Raises ConfigError, with what is missing, if this is no engine."""
    _check_has(engine, "engine", ("sample", "load", "release"))
    try:
        signature = inspect.signature(engine.sample)
    except (TypeError, ValueError):  # some that are written in C do not tell
        return
    try:
        signature.bind((), None, should_stop=None, finished=None)
    except TypeError as error:
        raise ConfigError(
            f"engine: {type(engine).__name__}.sample{signature} cannot be called with should_stop and finished "
            f"({error}). Take them, or add **_ to its parameters."
        ) from error


def check_environment(environment: Any) -> None:
    """Raises ConfigError, with what is missing, if this is no environment."""
    _check_has(environment, "environment", ("prompts", "rollout"))
    if not environment.prompts:
        raise ConfigError(f"environment: {type(environment).__name__} has no prompts.")
    for prompt in environment.prompts:
        if not isinstance(prompt, Prompt):
            raise ConfigError(
                f"environment: {type(environment).__name__}.prompts holds {type(prompt).__name__} ({prompt!r:.60}). They "
                "are ventaja.records.Prompt(id=…, content=…)."
            )
        check_columns_are_json(prompt)


def _made(
    what: str, kind: str, options: Mapping[str, Any], given: Mapping[str, tuple[str, Any]] | None = None
) -> Any:
    """What `kind` names, called with its options and with those of `given` (the setting, the value) that it takes."""
    if kind.endswith(GIVEN_IN_PYTHON):
        raise ConfigError(
            f"{what}.kind: {kind} cannot be found again from here. Go on with the program that gave it."
        )
    make: Callable[..., Any] = load_named(kind, f"the {what}")
    parameters = inspect.signature(make).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    arguments = dict(options)
    for name, (setting, value) in (given or {}).items():
        if not takes_all and name not in parameters:
            raise ConfigError(
                f"{setting} would have no effect: the {what} {kind} does not take {name!r}. Leave it out of the run file, "
                f"or take {name!r} where the {what} is made."
            )
        arguments[name] = value
    if not takes_all and (unknown := [name for name in options if name not in parameters]):
        raise ConfigError(
            f"{what}.options: {kind} does not take {listed(unknown)}. It takes {listed(parameters)}."
        )
    missing = [
        name
        for name, p in parameters.items()
        if p.default is p.empty
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and name not in arguments
    ]
    if missing:
        where = (
            "data" if missing[0] == "prompts" else "reward" if missing[0] == "rewards" else f"{what}.options"
        )
        raise ConfigError(f"the {what} {kind} needs {listed(missing)}: set {where}.")
    try:
        return make(**arguments)
    except Exception as error:
        raise ConfigError(f"the {what} {kind} could not be made: {one_line(error)}") from error


def _check_has(joint: object, what: str, names: Sequence[str]) -> None:
    if isinstance(joint, type):
        raise ConfigError(f"{what}: {joint.__name__} is a class. Give one made of it: {joint.__name__}(…).")
    if missing := [name for name in names if not hasattr(joint, name)]:
        raise ConfigError(
            f"{what}: {type(joint).__name__} has no {listed(missing)}. Its contract is ventaja."
            f"{'rollouts.Engine' if what == 'engine' else 'environments.Environment'}."
        )
