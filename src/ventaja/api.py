"""A run in a few lines of Python: the settings of a run file, with functions and lists in place of names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ventaja.environments import Reward, load_reward
from ventaja.errors import ConfigError, DataError
from ventaja.records import Example, Message, Prompt
from ventaja.tracking import Run
from ventaja.training import Algorithm, RlConfig, SftConfig, parse, train_rl, train_sft
from ventaja.training.config import algorithm_settings

PromptLike = str | Sequence[Message] | Mapping[str, Any]
"""Text, chat messages, or a row: a mapping with `prompt` (either of them) and further columns."""

GIVEN_IN_PYTHON = "(given in Python)"


def rl(
    *,
    model: str | Mapping[str, Any],
    prompts: str | Mapping[str, Any] | Sequence[PromptLike],
    folder: str | Path,
    reward: str | Callable[..., Any] | Sequence[str | Callable[..., Any]] | None = None,
    algorithm: str | Algorithm | Mapping[str, Any] = "grpo",
    rounds: int = 100,
    seed: int = 0,
    **groups: Mapping[str, Any],
) -> Run:
    """Train a model by reinforcement learning and return the run.

    Args:
        model: a short name, folder or hub id, or the settings of the run file's `model` group.
        prompts: a file, task or data set (as `data.source`), the settings of `data`, or a list of prompts.
        folder: where the run goes.
        reward: one or several functions `f(prompts, completions, completion_ids, **columns) -> list`, or their
            names as in a run file; the task's own verifier if left out.
        algorithm: a name, an `Algorithm` such as `ventaja.GRPO`, or the settings of `algorithm`.
        rounds: rounds of sampling and learning.
        seed: everything random follows from it.
        groups: further groups of a run file: `sampling={"max_tokens": 64}`,
            `optimiser={"learning_rate": 2e-5}`, `run={"completions_per_round": 64}`, …

    Raises VentajaError with what to do next.
    """
    values = _values(model, folder, seed, groups)
    values["run"].setdefault("rounds", rounds)
    values["algorithm"] = algorithm_settings(algorithm) if isinstance(algorithm, Algorithm) else algorithm
    rows = None
    if isinstance(prompts, str | Mapping):
        values["data"] = prompts
    else:
        values["data"] = GIVEN_IN_PYTHON
        rows = [_prompt(prompt, number) for number, prompt in enumerate(prompts)]
    rewards: list[Reward] | None = None
    if reward is not None:
        given = [reward] if isinstance(reward, str) or callable(reward) else list(reward)
        rewards = [load_reward(item) for item in given]
        values.setdefault("reward", {})["functions"] = [r.name for r in rewards]
    return train_rl(parse(RlConfig, values), command="ventaja.rl", prompts=rows, rewards=rewards)


def sft(
    *,
    model: str | Mapping[str, Any],
    examples: str | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    folder: str | Path,
    seed: int = 0,
    **groups: Mapping[str, Any],
) -> Run:
    """Train a model on examples and return the run.

    `examples` is a file, task or data set, the settings of `data`, or a list of rows, each with `messages`, or
    with `prompt` and `completion` (text, or messages). The rest is as in `rl`.
    """
    values = _values(model, folder, seed, groups)
    rows = None
    if isinstance(examples, str | Mapping):
        values["data"] = examples
    else:
        values["data"] = GIVEN_IN_PYTHON
        rows = [_example(row, number) for number, row in enumerate(examples)]
    return train_sft(parse(SftConfig, values), command="ventaja.sft", examples=rows)


def _values(
    model: str | Mapping[str, Any], folder: str | Path, seed: int, groups: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    for name, group in groups.items():
        if not isinstance(group, Mapping):
            raise ConfigError(f"{name}: must be a mapping of settings, not {type(group).__name__}")
    values: dict[str, Any] = {name: dict(group) for name, group in groups.items()}
    values["model"] = model
    values["run"] = {"folder": str(folder), "seed": seed, **values.get("run", {})}
    return values


def _prompt(given: PromptLike, number: int) -> Prompt:
    where = f"prompts[{number}]"
    columns: dict[str, Any] = {}
    content: Any = given
    if isinstance(given, Mapping):
        columns = dict(given)
        if "prompt" not in columns:
            raise DataError(
                f"{where}: a row needs 'prompt'; it has {', '.join(map(repr, columns)) or 'nothing'}."
            )
        content = columns.pop("prompt")
    return Prompt(id=where, content=_content(content, where), columns=columns)


def _example(row: Mapping[str, Any], number: int) -> Example:
    where = f"examples[{number}]"
    try:
        if "messages" in row:
            turns = _content(row["messages"], where)
            first = next(i for i, turn in enumerate(turns) if turn["role"] == "assistant")  # type: ignore[index]
            return Example(id=where, prompt=turns[:first], completion=turns[first:])
        prompt, completion = _content(row["prompt"], where), _content(row["completion"], where)
        return Example(id=where, prompt=prompt, completion=completion)
    except (KeyError, StopIteration, ValueError) as error:
        raise DataError(
            f"{where}: a row needs 'messages' with an assistant turn, or 'prompt' and 'completion' ({error})."
        ) from error


def _content(value: Any, where: str) -> str | tuple[Message, ...]:
    if isinstance(value, str):
        if not value:
            raise DataError(f"{where}: the text is empty.")
        return value
    try:
        messages = tuple(Message(role=turn["role"], content=turn["content"]) for turn in value)
    except (TypeError, KeyError) as error:
        raise DataError(f"{where}: neither text nor a list of {{'role', 'content'}} messages.") from error
    if not messages:
        raise DataError(f"{where}: the list of messages is empty.")
    return messages
