"""A run in a few lines of Python: the settings of a run file, with functions and lists in place of names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from inspect import iscoroutinefunction, signature
from pathlib import Path
from typing import Any

from ventaja.environments import Environment, Reward, example_from_row, load_reward, prompt_from_row
from ventaja.errors import ConfigError, DataError
from ventaja.named import GIVEN_IN_PYTHON, own_name, spec_of
from ventaja.records import Example, Message, Prompt, Ranking
from ventaja.rollouts import Engine
from ventaja.tracking import Run
from ventaja.training import (
    Algorithm,
    DpoConfig,
    RewardModelConfig,
    RlConfig,
    SftConfig,
    parse,
    train_dpo,
    train_reward_model,
    train_rl,
    train_sft,
)
from ventaja.training.config import Config, algorithm_settings, changed_settings, setting_names
from ventaja.training.joints import check_engine, check_environment, make_environment, make_reward
from ventaja.training.validation import setting_hint

PromptLike = str | Sequence[Message] | Mapping[str, Any]
"""Text, chat messages, or a row: a mapping with `prompt` (either of them) or `messages`, and further columns."""

RewardLike = str | Callable[..., Any] | Reward | Mapping[str, Any]
"""A function, its name, a `Reward`, or a mapping of `function` (either of the first two), `name`, `weight`, `options` and
`steps`."""

RewardGroup = RewardLike | Sequence[RewardLike]


def rl(
    *,
    model: str | Mapping[str, Any],
    folder: str | Path,
    prompts: str | Mapping[str, Any] | Sequence[PromptLike] | None = None,
    reward: RewardGroup | None = None,
    algorithm: str | Algorithm | Mapping[str, Any] = "grpo",
    rounds: int | None = None,
    seed: int = 0,
    engine: Engine | str | Mapping[str, Any] | None = None,
    environment: Environment | str | Mapping[str, Any] | None = None,
    on_round: Callable[[Run, int], None] | None = None,
    **groups: Mapping[str, Any],
) -> Run:
    """Train a model by reinforcement learning and return the run.

    Args:
        model: a short name, folder or hub id, or the settings of the run file's `model` group.
        folder: where the run goes.
        prompts: a file, folder, task or data set (as `data.source`), the settings of `data`, or a list of prompts. An
            environment of your own may bring them instead.
        reward: one or several functions `f(prompts, completions, completion_ids, **columns) -> list`, or their
            names as in a run file, a reward model's folder among them; the task's own verifier if left out. Or the settings of the run file's
            `reward` group, `{"functions": [brief, {"function": polite, "weight": 0.5}], "timeout": 5.0}`.
        algorithm: a name, an `Algorithm` such as `ventaja.GRPO`, or the settings of `algorithm`.
        rounds: rounds of sampling and learning; 100 by default.
        seed: everything random follows from it.
        engine: what samples, if not this process: an object with the methods of `ventaja.rollouts.Engine`, or the
            settings of the run file's `engine` group.
        environment: what asks and judges, if not one question, one answer and the rewards: an object with the methods of
            `ventaja.environments.Environment`, or the settings of the run file's `environment` group.
        on_round: called as `on_round(run, round)` after each round's record is written, with the run to read and the
            round's number, from 1: `run.metrics[-1]` is its metrics, `run.rollouts(round)` what was said. What it raises
            ends the run, which can be resumed; a round that is then played again is told of again.
        groups: further groups of a run file: `sampling={"max_tokens": 64}`,
            `optimiser={"learning_rate": 2e-5}`, `run={"completions_per_round": 64}`, …

    Raises VentajaError with what to do next.
    """
    _check_on_round(on_round)
    values = _values(RlConfig, model, folder, seed, groups)
    if rounds is not None:
        if "rounds" in values["run"]:
            raise ConfigError("rounds is given twice, as rounds= and in run=. Leave one of them out.")
        values["run"]["rounds"] = rounds
    values["algorithm"] = algorithm_settings(algorithm) if isinstance(algorithm, Algorithm) else algorithm
    rows = None
    if isinstance(prompts, str | Mapping):
        values["data"] = prompts
    elif prompts is not None:
        values["data"] = GIVEN_IN_PYTHON
        rows = [_prompt(prompt, number) for number, prompt in enumerate(prompts)]
    own_engine = _joint(values, "engine", engine, check_engine)
    own_environment = _joint(values, "environment", environment, check_environment)
    functions: list[Any] = []
    if reward is not None:
        values["reward"], functions = _reward_group(reward)
    config = parse(RlConfig, values)
    rewards = [
        item
        if isinstance(item, Reward)
        else make_reward(
            item.get("function"),
            name=named.name,
            weight=named.weight,
            options=named.options,
            steps=item.get("steps"),
        )
        for item, named in zip(functions, config.reward.functions, strict=True)
    ]
    if own_environment is not None:
        changed = changed_settings(config.reward)
        unused = [("prompts", prompts is not None)]
        unused += [(f"reward.{name}", name in changed) for name in ("functions", "timeout", "overlap")]
        for name in (name for name, given in unused if given):
            raise ConfigError(f"{name} would have no effect: the environment has its own. Leave it out.")
    elif rows is not None or rewards:
        own_environment = make_environment(config, prompts=rows, rewards=rewards or None)
    return train_rl(
        config,
        engine=own_engine,
        environment=own_environment,
        on_round=on_round,
        command="ventaja.rl",
    )


def sft(
    *,
    model: str | Mapping[str, Any],
    examples: str | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    folder: str | Path,
    seed: int = 0,
    **groups: Mapping[str, Any],
) -> Run:
    """Train a model on examples and return the run.

    `examples` is a file, folder, task or data set, the settings of `data`, or a list of rows, each with `messages`,
    with `prompt` and `completion` (text, or messages), or with `text`. The rest is as in `rl`.
    """
    values = _values(SftConfig, model, folder, seed, groups)
    rows = None
    if isinstance(examples, str | Mapping):
        values["data"] = examples
    else:
        values["data"] = GIVEN_IN_PYTHON
        rows = [_example(row, number) for number, row in enumerate(examples)]
    return train_sft(parse(SftConfig, values), command="ventaja.sft", examples=rows)


def reward(
    *,
    model: str | Mapping[str, Any],
    rankings: str | Mapping[str, Any] | Sequence[Ranking],
    folder: str | Path,
    seed: int = 0,
    **groups: Mapping[str, Any],
) -> Run:
    """Train a reward model on rankings and return the run.

    `rankings` is a file of rankings or preference pairs, the settings of `data`, or a list of `ventaja.records.Ranking`.
    The rest is as in `rl`; the groups are those of `ventaja reward`. The run's folder is then a reward of `rl`.
    """
    values, given = _ranking_values(RewardModelConfig, model, rankings, folder, seed, groups)
    return train_reward_model(parse(RewardModelConfig, values), command="ventaja.reward", rankings=given)


def dpo(
    *,
    model: str | Mapping[str, Any],
    rankings: str | Mapping[str, Any] | Sequence[Ranking],
    folder: str | Path,
    seed: int = 0,
    **groups: Mapping[str, Any],
) -> Run:
    """Train a model on rankings directly and return the run. The arguments are those of `reward`."""
    values, given = _ranking_values(DpoConfig, model, rankings, folder, seed, groups)
    return train_dpo(parse(DpoConfig, values), command="ventaja.dpo", rankings=given)


def _ranking_values(
    kind: type[Config],
    model: str | Mapping[str, Any],
    rankings: str | Mapping[str, Any] | Sequence[Ranking],
    folder: str | Path,
    seed: int,
    groups: Mapping[str, Any],
) -> tuple[dict[str, Any], list[Ranking] | None]:
    values = _values(kind, model, folder, seed, groups)
    if isinstance(rankings, str | Mapping):
        values["data"] = rankings
        return values, None
    values["data"] = GIVEN_IN_PYTHON
    given = list(rankings)
    for number, ranking in enumerate(given):
        if not isinstance(ranking, Ranking):
            raise DataError(
                f"rankings[{number}]: {type(ranking).__name__} is no ventaja.records.Ranking. Rows of a file are read by "
                "ventaja.rankings.read_rankings."
            )
    if not given:
        raise DataError("rankings: the list is empty.")
    return values, given


def _values(
    kind: type[Config],
    model: str | Mapping[str, Any],
    folder: str | Path,
    seed: int,
    groups: Mapping[str, Any],
) -> dict[str, Any]:
    function, given_as = _GIVEN[kind]
    arguments = [name for name in signature(function).parameters if name != "groups"]
    for name, group in groups.items():
        if name == "data":
            raise ConfigError(f"data: is given as {given_as}=, which takes its settings too. Leave it out.")
        if name not in kind.model_fields:
            hint = setting_hint(name, [*arguments, *setting_names(kind)], group)
            raise ConfigError(f"{name}: there is no such argument.{hint}{_how_settings_are_given(hint)}")
        if not isinstance(group, Mapping):
            raise ConfigError(
                f"{name}: must be a mapping of settings, such as {name}={{'setting': …}}, not {group!r} "
                f"({type(group).__name__})."
            )
    values: dict[str, Any] = {name: dict(group) for name, group in groups.items()}
    values["model"] = model
    values["run"] = {"folder": str(folder), "seed": seed, **values.get("run", {})}
    return values


_GIVEN: Mapping[type[Config], tuple[Callable[..., Run], str]] = {
    RlConfig: (rl, "prompts"),
    SftConfig: (sft, "examples"),
    RewardModelConfig: (reward, "rankings"),
    DpoConfig: (dpo, "rankings"),
}
"""The function of each kind of run, and its argument that `data` is given as."""


def _joint(values: dict[str, Any], group: str, given: Any, check: Callable[[Any], None]) -> Any:
    """The engine or environment that was given as an object, if it was; its settings go into `values`."""
    if given is None:
        return None
    if isinstance(given, str | Mapping):
        values[group] = given
        return None
    check(given)
    values[group] = {"kind": f"{own_name(given)} {GIVEN_IN_PYTHON}"}
    return given


def _how_settings_are_given(hint: str) -> str:
    named = re.search(r"'(\w+)\.([\w.]+)'(?: here|\?)", hint)
    return f" It is set as {named[1]}={{'{named[2]}': …}}." if named and "." not in named[2] else ""


def _check_on_round(on_round: Any) -> None:
    """Before the run: else it would be found out after the first round."""
    if on_round is None:
        return
    if not callable(on_round):
        raise ConfigError(
            f"on_round: must be a function of the run and the round's number, not {on_round!r}."
        )
    name = getattr(on_round, "__name__", type(on_round).__name__)
    if iscoroutinefunction(on_round):
        raise ConfigError(f"on_round: {name} is async, and nothing would wait for it. Give a plain function.")
    try:
        takes = signature(on_round)
    except ValueError:  # some that are written in C do not tell
        return
    try:
        takes.bind(None, 1)
    except TypeError as error:
        raise ConfigError(
            f"on_round: is called as on_round(run, round), but {name}{takes} cannot be ({error}). Give a function of "
            "two arguments, the run and the round's number."
        ) from error


def _prompt(given: PromptLike, number: int) -> Prompt:
    return prompt_from_row(given if isinstance(given, Mapping) else {"prompt": given}, f"prompts[{number}]")


def _example(row: Mapping[str, Any], number: int) -> Example:
    where = f"examples[{number}]"
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: a row is a mapping with 'messages', 'prompt' and 'completion', or 'text'.")
    return example_from_row(row, where)


def _reward_group(reward: RewardGroup) -> tuple[dict[str, Any], list[Any]]:
    """The settings of the group `reward` with functions as their names, and those functions as they were given."""
    if isinstance(reward, Mapping) and "function" not in reward:
        group = dict(reward)
    else:
        group = {"functions": reward}
    given = group.get("functions", ())
    if isinstance(given, str) or not isinstance(given, Sequence):
        given = [given]
    group["functions"] = [_reward_settings(item) for item in given]
    return group, [item if isinstance(item, Mapping | Reward) else {"function": item} for item in given]


def _reward_settings(item: RewardLike) -> dict[str, Any]:
    if isinstance(item, Reward):
        return {"function": item.name, "weight": item.weight, "steps": _steps_setting(item.steps)}
    settings = dict(item) if isinstance(item, Mapping) else {"function": item}
    if "steps" in settings:
        settings["steps"] = _steps_setting(settings["steps"])
    if callable(settings.get("function")):
        settings["function"] = load_reward(settings["function"]).name
    return settings


def _steps_setting(steps: Any) -> Any:
    """How a run file says it: a function by its name."""
    return spec_of(steps) if callable(steps) else steps
