"""Rows that reasoning-gym's tasks make from a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ventaja.environments._hints import listed
from ventaja.environments._worker import build_reasoning_gym
from ventaja.errors import ConfigError, DataError, did_you_mean
from ventaja.settings import GENERATED

SIZE = 1000
"""Rows, if nobody says how many."""


def generated_rows(
    source: str, options: Mapping[str, Any], size: int | None, seed: int
) -> Iterator[dict[str, Any]]:
    """The columns of each row of `reasoning_gym:NAME`."""
    name = source.removeprefix(GENERATED)
    size = SIZE if size is None else size
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ConfigError(
            f"{source} needs the package reasoning-gym, which is not installed: pip install 'ventaja[tasks]'."
        ) from error
    if name not in DATASETS:
        raise DataError(
            f"{source}: reasoning_gym has no data set {name!r}.{did_you_mean(name, DATASETS)} "
            f"It has {listed(sorted(DATASETS), limit=8)}."
        )
    known = {field.name for field in dataclasses.fields(DATASETS[name][1])} - {"size", "seed"}
    for option in options:
        if option not in known:
            own = (
                " The number of prompts and the seed are set beside the source."
                if option in ("size", "seed")
                else ""
            )
            raise DataError(
                f"{source}: it has no option {option!r}.{did_you_mean(option, known)}{own} "
                f"It has {listed(sorted(known), limit=30)}."
            )
    settings = {**options, "size": size, "seed": seed}
    try:
        tasks = build_reasoning_gym(name, settings)
        entries = [_plain(tasks[index]) for index in range(size)]
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{source}: it cannot be made with the options {dict(options)}: {reason}.") from error
    for entry in entries:
        yield {
            "prompt": [{"role": "user", "content": entry["question"]}],
            **entry,
            "dataset": name,
            "dataset_options": settings,
        }


def _plain(value: Any) -> Any:
    """The same value without numpy's and enums' types, which neither JSON nor the verifier's process know."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set) and type(value) in (list, tuple, set):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, bool) or value is None:
        return value
    for plain in (str, int, float):
        if isinstance(value, plain):
            return plain(value)
    return _plain(value.item()) if hasattr(value, "item") else value
