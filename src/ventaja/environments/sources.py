"""Where rows come from: files, reasoning-gym's generators and `datasets`."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ventaja.environments._hints import clipped, kind, listed
from ventaja.environments._worker import build_reasoning_gym
from ventaja.errors import ConfigError, DataError, did_you_mean, nearest

_GYM = "reasoning_gym:"
_GYM_SIZE = 1000
_OTHER_FILES = frozenset(
    f".{ending}"
    for ending in (
        *("txt", "md", "tsv", "xml", "yaml", "yml", "toml", "arrow", "feather", "xlsx", "xls", "py", "pt"),
        *("gz", "bz2", "xz", "zst", "zip", "tar", "pkl", "npz", "jsonlines", "ndjson"),
    )
)
"""Endings that mean a file, though not one that is read here; so they are not taken for a data set's name."""


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
    if source.startswith(_GYM):
        yield from _gym_rows(source.removeprefix(_GYM), options, _GYM_SIZE if size is None else size, seed)
        return
    read = _reader(source)
    rows = _file_rows(source, read, options) if read else _dataset_rows(source, options)
    row = None
    for row in itertools.islice(rows, size):
        yield row
    if row is None:
        raise DataError(f"{source}: it has no rows. Check that it was written completely.")


def _reader(source: str) -> Callable[[Path, str], Iterator[tuple[int, Any]]] | None:
    """How to read the file that the source names; None if it names a data set."""
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if suffix in _READERS:
        if path.is_file():
            return _READERS[suffix]
        raise DataError(_missing(source, path))
    if path.is_dir():
        inside = sorted(
            f"{source.rstrip('/')}/{p.name}" for p in path.iterdir() if p.suffix.lower() in _READERS
        )
        raise DataError(f"{source}: it is a folder. Name one of its files: {listed(inside)}.")
    if path.is_file() or suffix in _OTHER_FILES:
        if not path.is_file():
            raise DataError(_missing(source, path))
        raise DataError(
            f"{source}: the ending {suffix!r} is not known; files are {listed(_READERS)}."
            f"{did_you_mean(suffix, _READERS)} Convert it to JSON lines, with one object per line."
        )
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) or source.startswith((".", "/", "~")):
        hint = did_you_mean(source.partition(":")[0], [_GYM.rstrip(":")]) if ":" in source else ""
        raise DataError(
            f"{source!r} is no source.{hint} A source is a file ({listed(_READERS)}), "
            "'reasoning_gym:NAME', or a data set's name such as 'org/name'."
        )
    return None


def _missing(source: str, path: Path) -> str:
    if not path.parent.is_dir():
        return f"{source}: there is no such file, nor the folder {path.parent}."
    there = [other.name for other in path.parent.iterdir() if other.is_file()]
    found = nearest(path.name, there)
    hint = f" Did you mean {str(path.parent / found)!r}?" if found else ""
    return f"{source}: there is no such file.{hint}"


def _file_rows(
    source: str, read: Callable[[Path, str], Iterator[tuple[int, Any]]], options: Mapping[str, Any]
) -> Iterator[Row]:
    if options:
        raise ConfigError(f"{source}: a file has no options, but {listed(options)} was given. Leave it out.")
    path = Path(source).expanduser()
    try:
        for line, row in read(path, source):
            if not isinstance(row, dict):
                raise DataError(f"{source}:{line}: the row is {kind(row)}, not an object with columns.")
            yield Row(id=f"{path.name}:{line}", where=f"{source}:{line}", columns=row)
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: it is not text in UTF-8 ({error.reason}). Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{source}: it cannot be read: {error}.") from error


def _read_jsonl(path: Path, source: str) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, json.loads(line.rstrip())
                except json.JSONDecodeError as error:
                    raise DataError(
                        f"{source}:{number}: the line is not JSON: {error.msg} at character {error.colno}: "
                        f"{clipped(line.strip(), 80)!r}. Each line must be one complete object."
                    ) from error


def _read_json(path: Path, source: str) -> Iterator[tuple[int, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        hint = " If each line is one object, name the file .jsonl." if error.msg == "Extra data" else ""
        raise DataError(f"{source}:{error.lineno}: it is not JSON: {error.msg}.{hint}") from error
    if not isinstance(rows, list):
        raise DataError(f"{source}: it holds {kind(rows)}; a .json file must hold a list of objects.")
    yield from enumerate(rows, 1)


def _read_csv(path: Path, source: str) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, None)
            start = reader.line_num + 1
            for cells in reader:
                if cells and header:
                    if len(cells) != len(header):
                        raise DataError(
                            f"{source}:{start}: the row has {len(cells)} cells, the header {len(header)}. "
                            "Put text with commas or line breaks in double quotes."
                        )
                    yield start, dict(zip(header, cells, strict=True))
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{source}:{reader.line_num}: the row is not CSV: {error}.") from error


def _read_parquet(path: Path, source: str) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = (batch.to_pylist() for batch in file.iter_batches(batch_size=1024))
            yield from enumerate(itertools.chain.from_iterable(batches), 1)
    except pyarrow.ArrowException as error:
        raise DataError(f"{source}: it is not a Parquet file that can be read: {error}.") from error


_READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".parquet": _read_parquet, ".csv": _read_csv}


def _dataset_rows(source: str, options: Mapping[str, Any]) -> Iterator[Row]:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"{source!r} is the name of a data set, for which the package datasets is needed: "
            f"pip install 'ventaja[datasets]'. If you meant a file, its name ends in {listed(_READERS)}."
        ) from error
    settings = {"split": "train", **options}
    try:
        rows = datasets.load_dataset(source, **settings)
    except Exception as error:
        reason = clipped(str(error).strip() or type(error).__name__, 600)
        raise DataError(
            f"{source}: the data set cannot be loaded with the options {settings}: {reason} "
            "Check its name and options, and whether this machine can reach it."
        ) from error
    if isinstance(rows, Mapping):
        raise DataError(
            f"{source}: it has the splits {listed(map(str, rows))}. Name one in the option 'split'."
        )
    for index, row in enumerate(rows):
        name = f"{source}:{settings['split']}:{index}"
        yield Row(id=name, where=name, columns=dict(row))


def _gym_rows(name: str, options: Mapping[str, Any], size: int, seed: int) -> Iterator[Row]:
    source = _GYM + name
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
    for index, entry in enumerate(entries):
        columns = {
            "prompt": [{"role": "user", "content": entry["question"]}],
            **entry,
            "dataset": name,
            "dataset_options": settings,
        }
        yield Row(id=f"{source}:{index}", where=f"{source}:{index}", columns=columns, completion="answer")


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
