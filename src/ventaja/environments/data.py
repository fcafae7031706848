"""Prompts and examples from files, from reasoning-gym's generators and from `datasets`.

Every row must be usable. The first one that is not ends the reading, with its place and what to do about it.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ventaja.environments._hints import clipped, listed
from ventaja.environments._worker import build_reasoning_gym
from ventaja.environments.verifiers import GIVEN
from ventaja.errors import ConfigError, DataError, did_you_mean, nearest
from ventaja.records import Example, Message, Prompt

ROLES = ("system", "developer", "user", "assistant", "tool")
"""The roles that a chat message may have."""

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
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
_ASKING = ("question", "problem", "instruction", "query", "input", "text", "conversations", "conversation")
_ANSWERING = ("response", "answer", "output", "solution", "target", "chosen")


def load_prompts(
    source: str,
    *,
    options: Mapping[str, Any] = _NO_OPTIONS,
    size: int | None = None,
    seed: int = 0,
    system_prompt: str | None = None,
) -> list[Prompt]:
    """The prompts of a source, in its order.

    A row's `prompt` is text or chat messages. A row that only has `messages` is asked up to its last
    assistant turn if it ends with one, and in full otherwise. All other columns travel on to the
    reward functions.

    Args:
        source: a `.jsonl`, `.json`, `.parquet` or `.csv` file, `reasoning_gym:NAME`, or the name of a data
            set for `datasets.load_dataset`.
        options: for reasoning_gym the task's settings; for `datasets` the arguments of `load_dataset`
            (`split` is "train" by default); a file has none.
        size: at most so many rows, the first ones; for reasoning_gym how many to make (1000 by default).
        seed: decides what reasoning_gym makes. Files and data sets keep their order.
        system_prompt: a system message to put before every prompt; a text prompt becomes a chat by it.

    Raises:
        DataError: the source or one of its rows cannot be used.
    """
    return [_prompt(row, system_prompt) for row in _rows(source, options, size, seed)]


def load_examples(
    source: str,
    *,
    options: Mapping[str, Any] = _NO_OPTIONS,
    size: int | None = None,
    seed: int = 0,
    system_prompt: str | None = None,
) -> list[Example]:
    """The examples of a source for supervised tuning; the arguments are those of `load_prompts`.

    A row has `prompt` and `completion`, each text or chat messages, or it has `messages`. If only one of the
    two is a chat, or if there is a system prompt, a text becomes one turn: the user's or the assistant's.
    Of `messages` every assistant turn is learned; what follows the last one is left out. In a source of
    reasoning_gym the task's own answer is the completion.
    """
    return [_example(row, system_prompt) for row in _rows(source, options, size, seed)]


def prompt_from_row(row: Mapping[str, Any], where: str) -> Prompt:
    """A prompt from one row, checked as a file's are. `where` is its id, and begins every message."""
    return _prompt(_Row(id=where, where=where, columns=row), None)


def example_from_row(row: Mapping[str, Any], where: str) -> Example:
    """An example from one row, checked as a file's are. `where` is its id, and begins every message."""
    return _example(_Row(id=where, where=where, columns=row), None)


@dataclass(frozen=True)
class _Row:
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


# ---------------------------------------------------------------------- rows into records


def _prompt(row: _Row, system_prompt: str | None) -> Prompt:
    taken = [name for name in GIVEN if name in row.columns]
    if taken:
        raise row.error(f"the column {listed(taken)} has a name that reward functions need. Rename it.")
    if row.has("prompt"):
        content = _content(row, "prompt")
        others = {name: value for name, value in row.columns.items() if name != "prompt"}
        if not isinstance(content, str) and content[-1]["role"] == "assistant":
            raise row.error(
                "the prompt ends with an assistant turn, so there is nothing to answer. "
                "Drop that turn, or call the column 'messages'."
            )
    elif row.has("messages"):
        messages = _messages(row, "messages")
        content = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        others = dict(row.columns)
        if not content:
            raise row.error("'messages' starts with its only assistant turn, so there is nothing to ask.")
    else:
        raise _lacks(row, "prompt", _ASKING)
    return Prompt(id=row.id, content=_with_system(row, content, system_prompt), columns=others)


def _example(row: _Row, system_prompt: str | None) -> Example:
    if row.has("prompt") and row.has(row.completion):
        prompt, completion = _content(row, "prompt"), _content(row, row.completion)
        prompt = _with_system(row, prompt, system_prompt)
        if not isinstance(prompt, str) or not isinstance(completion, str):
            prompt, completion = _as_chat(prompt, "user"), _as_chat(completion, "assistant")
    elif row.has("messages"):
        messages = _messages(row, "messages")
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            raise row.error(
                "'messages' has no assistant turn, so there is nothing to learn from. Drop the row."
            )
        prompt, completion = messages[: answers[0]], messages[answers[0] : answers[-1] + 1]
        if not prompt:
            raise row.error(
                "'messages' starts with an assistant turn. Put the turn that it answers before it."
            )
        prompt = _with_system(row, prompt, system_prompt)
    elif row.has("prompt"):
        raise _lacks(row, row.completion, _ANSWERING)
    else:
        raise _lacks(row, "prompt", _ASKING)
    _check_completion(row, completion)
    return Example(id=row.id, prompt=prompt, completion=completion)


def _check_completion(row: _Row, completion: str | tuple[Message, ...]) -> None:
    if isinstance(completion, str):
        return
    if completion[-1]["role"] != "assistant":
        raise row.error(f"the completion ends with a turn of {completion[-1]['role']!r}, not of 'assistant'.")
    if any(turn["role"] == "assistant" and not turn["content"].strip() for turn in completion):
        raise row.error("an assistant turn is empty, so there is nothing to learn. Fill it, or drop the row.")


def _with_system(
    row: _Row, content: str | tuple[Message, ...], system_prompt: str | None
) -> str | tuple[Message, ...]:
    if system_prompt is None:
        return content
    chat = _as_chat(content, "user")
    if chat[0]["role"] == "system":
        raise row.error(
            "the row has a system message, and system_prompt would be a second one. "
            "Leave out system_prompt, or take the message out of the data."
        )
    return ({"role": "system", "content": system_prompt}, *chat)


def _as_chat(content: str | tuple[Message, ...], role: str) -> tuple[Message, ...]:
    return ({"role": role, "content": content},) if isinstance(content, str) else content


def _content(row: _Row, column: str) -> str | tuple[Message, ...]:
    value = row.columns[column]
    if not isinstance(value, str):
        return _messages(row, column)
    if not value.strip():
        raise row.error(f"the {column} is empty. Fill it, or drop the row.")
    return value


def _messages(row: _Row, column: str) -> tuple[Message, ...]:
    value = row.columns[column]
    if not isinstance(value, list | tuple):
        text = "text or " if column != "messages" else ""
        raise row.error(
            f"'{column}' is {_kind(value)} ({clipped(repr(value), 60)}); it must be {text}a list of messages "
            '{"role": …, "content": …}.'
        )
    if not value:
        raise row.error(f"'{column}' is an empty list. Fill it, or drop the row.")
    return tuple(_message(row, f"{column}[{index}]", message) for index, message in enumerate(value))


def _message(row: _Row, place: str, message: Any) -> Message:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        have = f"has {listed(message)}" if isinstance(message, Mapping) else f"is {_kind(message)}"
        raise row.error(f"{place} {have}; a message has 'role' and 'content'.")
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise row.error(
            f"{place} has the role {role!r}.{did_you_mean(str(role), ROLES)} Roles are {listed(ROLES)}."
        )
    if message.get("tool_calls"):
        raise row.error(f"{place} has 'tool_calls', which are not supported. Write them into 'content'.")
    if not isinstance(content, str):
        raise row.error(f"{place}: 'content' is {_kind(content)}; it must be text.")
    return {"role": role, "content": content}


def _lacks(row: _Row, column: str, usual: Iterable[str]) -> DataError:
    names = [name for name in row.columns if row.has(name)]
    unlike = [name for name in names if name not in ("prompt", "messages")]
    found = nearest(column, unlike) or next((name for name in usual if name in names), None)
    wanted = "messages" if found in ("conversations", "conversation") else column
    hint = f" Rename {found!r} to {wanted!r}?" if found else f" Add a column {column!r}."
    none = " (it is null)" if column in row.columns else ""
    return row.error(f"the row has no {column!r}{none} and no 'messages'; it has {listed(names)}.{hint}")


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(
        type(value), "a number" if isinstance(value, int | float) else f"a {type(value).__name__}"
    )


# ---------------------------------------------------------------------- sources


def _rows(source: str, options: Mapping[str, Any], size: int | None, seed: int) -> Iterator[_Row]:
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
) -> Iterator[_Row]:
    if options:
        raise ConfigError(f"{source}: a file has no options, but {listed(options)} was given. Leave it out.")
    path = Path(source).expanduser()
    try:
        for line, row in read(path, source):
            if not isinstance(row, dict):
                raise DataError(f"{source}:{line}: the row is {_kind(row)}, not an object with columns.")
            yield _Row(id=f"{path.name}:{line}", where=f"{source}:{line}", columns=row)
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
        raise DataError(f"{source}: it holds {_kind(rows)}; a .json file must hold a list of objects.")
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


def _dataset_rows(source: str, options: Mapping[str, Any]) -> Iterator[_Row]:
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
        yield _Row(id=name, where=name, columns=dict(row))


def _gym_rows(name: str, options: Mapping[str, Any], size: int, seed: int) -> Iterator[_Row]:
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
        yield _Row(id=f"{source}:{index}", where=f"{source}:{index}", columns=columns, completion="answer")


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
