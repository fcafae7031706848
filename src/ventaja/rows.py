"""Rows of files: JSON lines, JSON, CSV and Parquet, one file or many of them (a folder, a glob)."""

from __future__ import annotations

import csv
import glob
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ventaja.errors import DataError, clipped, did_you_mean, kind, listed, nearest

_OTHER_ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *("txt", "md", "tsv", "xml", "yaml", "yml", "toml", "arrow", "feather", "xlsx", "xls", "py", "pt"),
        *("gz", "bz2", "xz", "zst", "zip", "tar", "pkl", "npz", "jsonlines", "ndjson"),
    )
)
"""Endings that mean a file, though not one that is read here; so they are not taken for a data set's name."""

_SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("validation", "valid", "val", "dev"), "validation"
)
"""Words in a file's name that say which part of a data set it holds."""


@dataclass(frozen=True)
class DataFile:
    """A file, what to call it in messages (as the user wrote it), and in ids (short)."""

    path: Path
    name: str
    label: str

    @property
    def ending(self) -> str:
        """`.jsonl`, or with compression `.jsonl.gz`; in small letters."""
        suffixes = [suffix.lower() for suffix in self.path.suffixes]
        return "".join(suffixes[-2:] if suffixes[-1:] == [".gz"] else suffixes[-1:])


def files_of(source: str) -> list[DataFile] | None:
    """The files that a source names, in their order, each of a known ending; None if it names no files.

    Raises DataError for a file that is missing or of no known ending, a folder without or with unlike files, and
    a glob that matches nothing.
    """
    path = Path(source).expanduser()
    one = DataFile(path, source, path.name)
    if path.is_dir():
        return _files_in(source, path)
    if glob.has_magic(source) and not path.is_file():
        return _files_like(source)
    if not path.is_file():
        if one.ending in ENDINGS or path.suffix.lower() in _OTHER_ENDINGS:
            raise DataError(_missing(source, path))
        return None
    _check_ending(one)
    return [one]


def file_rows(file: DataFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each row of a file with its number, for messages: its line, or in Parquet and .json its place from 1."""
    read = _READERS[file.ending.removesuffix(".gz")]
    try:
        for number, row in read(file):
            if not isinstance(row, dict):
                raise DataError(f"{file.name}:{number}: the row is {kind(row)}, not an object with columns.")
            yield number, row
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.name}:{_line_that_is_no_text(file)}: the line is not text in UTF-8 ({error.reason}). Save the "
            "file as UTF-8."
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{file.name}: it cannot be unpacked: {error}. Copy or download it again, or leave off .gz if it is not "
            "compressed."
        ) from error
    except OSError as error:
        raise DataError(f"{file.name}: it cannot be read: {error}.") from error


# ------------------------------------------------------------------------------------------------ many files


def _files_in(source: str, folder: Path) -> list[DataFile]:
    """All files of a folder, which must be of one ending and of one split."""
    below = source.rstrip("/")
    found = [
        DataFile(path, f"{below}/{path.name}", path.name)
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith((".", "_"))
    ]
    found = [file for file in found if file.ending in ENDINGS]
    if not found:
        deeper = sorted(
            {f"{below}/{p.parent.relative_to(folder)}" for e in ENDINGS for p in folder.rglob(f"*{e}")}
        )
        hint = f" There are some in {listed(deeper, limit=6)}: name one of these folders." if deeper else ""
        raise DataError(f"{source}: the folder holds no file that ends in {listed(ENDINGS)}.{hint}")
    by_ending: dict[str, list[DataFile]] = {}
    by_split: dict[str, list[DataFile]] = {}
    for file in found:
        by_ending.setdefault(file.ending, []).append(file)
        by_split.setdefault(_split(file), []).append(file)
    for kinds, what in ((by_ending, "endings"), (by_split, "splits")):
        if len(kinds) > 1:
            raise DataError(
                f"{source}: the folder holds files of {len(kinds)} {what}: "
                f"{listed(files[0].label for files in kinds.values())}. Name those that are meant by a glob, such as "
                f"{_glob_of(below, next(iter(kinds.values()))[0], by_ending=what == 'endings')!r}."
            )
    return found


def _files_like(pattern: str) -> list[DataFile]:
    """The files that a glob matches, sorted by path; `**` stands for any folders."""
    fixed = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts[:-1]))
    found = [
        DataFile(Path(path), path, str(Path(path).relative_to(fixed.expanduser())))
        for path in sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))
        if Path(path).is_file()
    ]
    if not found:
        raise DataError(
            f"{pattern}: no file matches. It is read from the current folder, {Path.cwd()}; `*` stands for any name, "
            "`**` for any folders."
        )
    for file in found:
        _check_ending(file)
    return found


def _split(file: DataFile) -> str:
    words = re.split(r"[^a-z]+", file.label.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), "")


def _glob_of(folder: str, file: DataFile, *, by_ending: bool) -> str:
    word = (
        "" if by_ending else next((w for w in re.split(r"[^a-z]+", file.label.lower()) if w in _SPLITS), "")
    )
    return f"{folder}/{word}*{file.ending}"


def _check_ending(file: DataFile) -> None:
    if file.ending not in ENDINGS:
        raise DataError(
            f"{file.name}: the ending {file.ending!r} is not known; files are {listed(ENDINGS)}."
            f"{did_you_mean(file.ending, ENDINGS)} Convert it to JSON lines, with one object per line."
        )


def _missing(source: str, path: Path) -> str:
    if not path.parent.is_dir():
        return f"{source}: there is no such file, nor the folder {path.parent}."
    there = [other.name for other in path.parent.iterdir() if other.is_file()]
    found = nearest(path.name, there)
    hint = f" Did you mean {str(path.parent / found)!r}?" if found else ""
    return f"{source}: there is no such file.{hint}"


# ------------------------------------------------------------------------------------------------ one file


def _open(file: DataFile) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(file.path) if file.ending.endswith(".gz") else file.path.open("rb")


def _open_text(file: DataFile, *, newline: str | None = None) -> io.TextIOWrapper:
    """The file as text; a byte order mark, which Excel writes, is no part of it."""
    return io.TextIOWrapper(_open(file), encoding="utf-8-sig", newline=newline)


def _line_that_is_no_text(file: DataFile) -> int:
    """The first line that is not UTF-8: no character of more than one byte contains a line's end."""
    with _open(file) as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    raise AssertionError(f"{file.name} was not text, and now it is")


class _TwiceError(ValueError):
    """An object of JSON has a key twice, and readers differ in which of the two they take."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, each of whose keys is there once. Raises _TwiceError otherwise."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in row if names.count(name) > 1)
        raise _TwiceError(f"the key {twice!r} is there twice in one object. Keep one of them.")
    return row


def _read_jsonl(file: DataFile) -> Iterator[tuple[int, Any]]:
    with _open_text(file) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, json.loads(line.rstrip(), object_pairs_hook=_object)
                except json.JSONDecodeError as error:
                    raise DataError(
                        f"{file.name}:{number}: the line is not JSON: {error.msg} at character {error.colno}: "
                        f"{clipped(line.strip(), 80)!r}. Each line must be one complete object."
                    ) from error
                except _TwiceError as error:
                    raise DataError(f"{file.name}:{number}: {error}") from error


def _read_json(file: DataFile) -> Iterator[tuple[int, Any]]:
    with _open_text(file) as opened:
        text = opened.read()
    if not text.strip():
        return
    try:
        rows = json.loads(text, object_pairs_hook=_object)
    except _TwiceError as error:
        raise DataError(f"{file.name}:{_row_with_a_key_twice(text)}: {error}") from error
    except json.JSONDecodeError as error:
        hint = " If each line is one object, name the file .jsonl." if error.msg == "Extra data" else ""
        raise DataError(f"{file.name}:{error.lineno}: it is not JSON: {error.msg}.{hint}") from error
    if not isinstance(rows, list):
        raise DataError(f"{file.name}: it holds {kind(rows)}; a .json file must hold a list of objects.")
    yield from enumerate(rows, 1)


def _row_with_a_key_twice(text: str) -> int:
    """The place of the first such row in a JSON list, found by reading it again with every object marked."""

    class Twice(dict[str, Any]):
        """An object that has a key twice, or holds such an object."""

    def mark(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        row = dict(pairs)
        return Twice(row) if len(row) < len(pairs) or any(map(has_twice, row.values())) else row

    def has_twice(value: Any) -> bool:
        return isinstance(value, Twice) or (isinstance(value, list) and any(map(has_twice, value)))

    rows = json.loads(text, object_pairs_hook=mark)
    return next((n for n, row in enumerate(rows, 1) if has_twice(row)), 1) if isinstance(rows, list) else 1


def _read_csv(file: DataFile) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(2**31 - 1)
    with _open_text(file, newline="") as text:
        reader = csv.reader(text, strict=True)
        try:
            header = next(reader, None)
            start = reader.line_num + 1
            if header and len(set(header)) < len(header):
                twice = next(name for name in header if header.count(name) > 1)
                raise DataError(
                    f"{file.name}:1: the column {twice!r} is there twice. Rename or drop one of them."
                )
            for cells in reader:
                if cells and header:
                    if len(cells) != len(header):
                        raise DataError(
                            f"{file.name}:{start}: the row has {len(cells)} cells, the header {len(header)}. "
                            "Put text with commas or line breaks in double quotes."
                        )
                    yield start, dict(zip(header, cells, strict=True))
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{file.name}:{reader.line_num}: the row is not CSV: {error}.") from error


def _read_parquet(file: DataFile) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file.path) as opened:
            batches = (batch.to_pylist() for batch in opened.iter_batches(batch_size=1024))
            yield from enumerate(itertools.chain.from_iterable(batches), 1)
    except pyarrow.ArrowException as error:
        raise DataError(f"{file.name}: it is not a Parquet file that can be read: {error}.") from error


_READERS: dict[str, Callable[[DataFile], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}
ENDINGS = (*_READERS, ".jsonl.gz", ".json.gz", ".csv.gz")
"""What a file's name must end in for its rows to be read."""
