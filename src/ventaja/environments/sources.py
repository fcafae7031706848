"""Where rows come from: files, reasoning-gym's generators and `datasets`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ventaja import hub
from ventaja.environments._hints import listed
from ventaja.environments.generated import generated_rows
from ventaja.environments.named import is_saved, named_rows, saved_rows
from ventaja.errors import ConfigError, DataError, did_you_mean
from ventaja.rows import ENDINGS, file_rows, files_of
from ventaja.settings import GENERATED


@dataclass(frozen=True)
class Row:
    """One row of a source, and what to call it."""

    id: str
    where: str
    """For messages: the source as it was given, and the line."""
    columns: Mapping[str, Any]
    completion: str = "completion"
    """The column that holds the answer to learn."""

    def has(self, name: str) -> bool:
        return self.columns.get(name) is not None

    def error(self, text: str) -> DataError:
        return DataError(f"{self.where}: {text}")


def rows(source: str, options: Mapping[str, Any], size: int | None, seed: int) -> Iterator[Row]:
    """The rows of a source, in its order; the arguments are those of `load_prompts`."""
    if size is not None and size < 1:
        raise ConfigError(f"size is {size}; give a number of rows above 0, or leave it out.")
    row = None
    for row in itertools.islice(_all_rows(source, options, size, seed), size):
        yield row
    if row is None:
        raise DataError(f"{source}: it has no rows. Check that it was written completely.")


def _all_rows(source: str, options: Mapping[str, Any], size: int | None, seed: int) -> Iterator[Row]:
    if source.startswith(GENERATED):
        for index, columns in enumerate(generated_rows(source, options, size, seed)):
            yield Row(f"{source}:{index}", f"{source}:{index}", columns, completion="answer")
        return
    folder = Path(source).expanduser()
    if folder.is_dir() and is_saved(folder):
        name, table = saved_rows(source, options)
        label = name.replace(source, folder.name, 1)
    elif (files := files_of(source)) is not None:
        if options:
            raise ConfigError(
                f"{source}: a file has no options, but {listed(options)} was given. Leave it out."
            )
        for file in files:
            for line, columns in file_rows(file):
                yield Row(f"{file.label}:{line}", f"{file.name}:{line}", columns)
        return
    else:
        _check_name(source)
        name, table = named_rows(source, options)
        label = name
    for index, entry in enumerate(table):
        yield Row(f"{label}:{index}", f"{name}:{index}", dict(entry))


def _check_name(source: str) -> None:
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) and not source.startswith("."):
        return
    if "/" in source and ":" not in source:
        problem = f"{source}: {hub.NOT_HERE}."
    else:
        hint = did_you_mean(source.partition(":")[0], [GENERATED.rstrip(":")]) if ":" in source else ""
        problem = f"{source!r} is no source.{hint}"
    raise DataError(
        f"{problem} A source is a file ({listed(ENDINGS)}), a folder of such files, a glob such as 'data/*.jsonl', "
        "'reasoning_gym:NAME', or a data set's name such as 'org/name'."
    )
