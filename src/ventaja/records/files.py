"""Groups in a Parquet file: one row per trajectory, bit-exact, written whole or not at all.

The columns, so that any tool can read the file without this module:

| column | type | what |
|---|---|---|
| `group_index`, `completion_index` | int32 | which group of the file, which trajectory of the group |
| `prompt_id` | string | `Prompt.id` |
| `prompt`, `columns` | string | `Prompt.content` and `Prompt.columns`, as JSON |
| `prompt_ids`, `token_ids` | list of int32 | the prompt's and the trajectory's tokens |
| `is_chosen` | list of bool | True at the tokens that the policy chose, False at those that it was given |
| `logprobs` | list of float64 | the sampler's log-probability of each token; null where it was given |
| `text`, `stop`, `weight_version` | string, string, int64 | as in `Trajectory`; `stop` is the enum's value |
| `is_truncated` | bool | a limit cut the episode off |
| `turns` | list of (role, tokens, text, stop, weight_version) | its turns; `tokens` counts each one's, and a turn that \
was given has neither `stop` nor `weight_version` |
| `reward` | float64 | the judgement's reward; null when not judged, or broken |
| `components` | map of string to float64 | each reward function's own score; null where it did not judge |
| `stream` | list of (token, reward) | the judgement's stream; null when not judged |
| `faults` | string | JSON list of (function, error, detail); null when not judged |

Anything more (`advantage`, `old_logprob`, …) is a column that the caller of `write_groups` adds. Files written before
trajectories had turns lack `is_chosen`, `is_truncated` and `turns`, and are read as answers of one turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ventaja.disk import atomic_file
from ventaja.errors import DataError
from ventaja.records.group import Group
from ventaja.records.judgement import Fault, Judgement
from ventaja.records.prompt import Message, Prompt
from ventaja.records.trajectory import ASSISTANT, Completion, Given, StopReason, Trajectory

if TYPE_CHECKING:
    import pyarrow


NEWER_COLUMNS = {"is_chosen", "is_truncated", "turns"}
"""Those that files of earlier versions lack."""


def write_groups(
    path: str | Path,
    groups: Sequence[Group],
    *,
    token_columns: Mapping[str, Sequence[Sequence[int | float | None] | None]] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    flag: str | None = "--run.folder",
) -> None:
    """Writes groups, judged or not, one row per trajectory; `read_groups` gives equal groups back.

    `token_columns` holds further numbers per token (one list per trajectory, as long as its tokens, or None
    where there are none) and `columns` further values per trajectory; both follow the trajectories' order,
    group after group. Floats keep every bit. Prompt columns go through JSON: their tuples come back as lists.
    `flag` is as in `atomic_file`, which says what a power cut leaves.

    Raises DataError for a prompt column that JSON cannot hold, ValueError for a further column of the wrong
    length or name, RunError when the file cannot be written.
    """
    import pyarrow
    from pyarrow import parquet

    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    judgements = [judgement for group in groups for judgement in group.judgements or (None,) * len(group)]
    for group in groups:
        if not group.trajectories:
            raise ValueError(
                f"the group of prompt {group.prompt.id!r} has no trajectories: there is no row to write"
            )

    def per_group(values: Sequence[Any]) -> list[Any]:
        return [value for group, value in zip(groups, values, strict=True) for _ in group.trajectories]

    data: dict[str, list[Any]] = {
        "group_index": per_group(range(len(groups))),
        "completion_index": [index for group in groups for index in range(len(group))],
        "prompt_id": per_group([group.prompt.id for group in groups]),
        "prompt": per_group([_content_to_json(group.prompt) for group in groups]),
        "columns": per_group([_columns_to_json(group.prompt) for group in groups]),
        "prompt_ids": per_group([group.prompt_ids for group in groups]),
        "token_ids": [trajectory.token_ids for trajectory in trajectories],
        "is_chosen": [trajectory.is_chosen for trajectory in trajectories],
        "logprobs": [trajectory.logprobs for trajectory in trajectories],
        "text": [trajectory.text for trajectory in trajectories],
        "stop": [trajectory.stop.value for trajectory in trajectories],
        "weight_version": [trajectory.weight_version for trajectory in trajectories],
        "is_truncated": [trajectory.is_truncated for trajectory in trajectories],
        "turns": [[_turn_to_struct(turn) for turn in trajectory.turns] for trajectory in trajectories],
        "reward": [
            judgement.reward if judgement and judgement.is_valid else None for judgement in judgements
        ],
        "components": [judgement and _components_to_pairs(judgement) for judgement in judgements],
        "stream": [judgement and _stream_to_structs(judgement) for judgement in judgements],
        "faults": [
            judgement and json.dumps([asdict(fault) for fault in judgement.faults])
            for judgement in judgements
        ],
    }
    schema = _schema()
    arrays = {name: _array(name, values, schema.field(name).type) for name, values in data.items()}
    for name, lists in (token_columns or {}).items():
        _check_further_column(name, lists, arrays, len(trajectories))
        for row, (numbers, trajectory) in enumerate(zip(lists, trajectories, strict=True)):
            if numbers is not None and len(numbers) != len(trajectory):
                raise ValueError(
                    f"token column {name!r}, row {row}: {len(numbers)} values for {len(trajectory)} tokens"
                )
        arrays[name] = _array(name, lists, pyarrow.list_(pyarrow.float64()))
    for name, values in (columns or {}).items():
        _check_further_column(name, values, arrays, len(trajectories))
        arrays[name] = _array(name, values, None)

    table = pyarrow.table(arrays)
    with atomic_file(path, flag=flag) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def read_groups(path: str | Path) -> list[Group]:
    """Reads back what `write_groups` wrote; further columns are left out (see `read_rollouts`).

    Raises DataError when the file is missing, is not Parquet or was written by something else.
    """
    table = read_rollouts(path)
    missing = [name for name in _schema().names if name not in {*table.column_names, *NEWER_COLUMNS}]
    if missing:
        raise DataError(
            f"{path}: column {missing[0]!r} is missing, so this is not a file of rollouts from Ventaja."
        )
    try:
        rows = table.select([name for name in _schema().names if name in table.column_names]).to_pylist()
        return [_group(list(group)) for _, group in groupby(rows, key=itemgetter("group_index"))]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: a row cannot be read back as a trajectory: {error}.") from error


def read_rollouts(path: str | Path) -> pyarrow.Table:
    """The file as a table, one row per trajectory, further columns included.

    Raises DataError when the file is missing or is not Parquet.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        # ParquetFile reads this one file: no guessing of partitions from the folder's name.
        with parquet.ParquetFile(path) as file:
            return file.read()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from error


def _schema() -> pyarrow.Schema:
    import pyarrow as pa

    return pa.schema(
        {
            "group_index": pa.int32(),
            "completion_index": pa.int32(),
            "prompt_id": pa.string(),
            "prompt": pa.string(),
            "columns": pa.string(),
            "prompt_ids": pa.list_(pa.int32()),
            "token_ids": pa.list_(pa.int32()),
            "is_chosen": pa.list_(pa.bool_()),
            "logprobs": pa.list_(pa.float64()),
            "text": pa.string(),
            "stop": pa.string(),
            "weight_version": pa.int64(),
            "is_truncated": pa.bool_(),
            "turns": pa.list_(
                pa.struct(
                    {
                        "role": pa.string(),
                        "tokens": pa.int32(),
                        "text": pa.string(),
                        "stop": pa.string(),
                        "weight_version": pa.int64(),
                    }
                )
            ),
            "reward": pa.float64(),
            "components": pa.map_(pa.string(), pa.float64()),
            "stream": pa.list_(pa.struct({"token": pa.int32(), "reward": pa.float64()})),
            "faults": pa.string(),
        }
    )


def _array(name: str, values: Sequence[Any], type_: pyarrow.DataType | None) -> pyarrow.Array:
    import pyarrow

    try:
        return pyarrow.array(values, type=type_)
    # A lone surrogate in a string is a UnicodeEncodeError, a number out of range an OverflowError.
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"column {name!r} cannot be written to Parquet: {error}") from error


def _check_further_column(name: str, values: Sequence[Any], taken: Mapping[str, Any], rows: int) -> None:
    if name in taken:
        raise ValueError(f"column {name!r} is there already; choose another name")
    if len(values) != rows:
        raise ValueError(f"column {name!r} has {len(values)} rows for {rows} trajectories")


def _content_to_json(prompt: Prompt) -> str:
    return json.dumps(prompt.content)


def check_columns_are_json(prompt: Prompt) -> None:
    """Raises DataError, with the prompt's id and the column, if a column would not survive JSON."""
    for name, value in prompt.columns.items():
        if not isinstance(name, str):
            raise DataError(f"{prompt.id}: a column has the name {name!r}. A name is text; rename it.")
        problem = _not_json(value)
        if problem:
            raise DataError(
                f"{prompt.id}: column {name!r} holds {problem}, which JSON cannot keep. "
                "Turn it into text, numbers, lists or dicts with text keys, or drop the column."
            )


def _columns_to_json(prompt: Prompt) -> str:
    check_columns_are_json(prompt)
    return json.dumps(dict(prompt.columns))


def _not_json(value: Any) -> str | None:
    """What inside `value` would not survive JSON, or None if all would. Tuples count as lists."""
    if value is None or isinstance(value, str | bool | int | float):
        return None
    if isinstance(value, list | tuple):
        return next((problem for item in value if (problem := _not_json(item))), None)
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"a dict with the key {key!r}"
            if problem := _not_json(item):
                return problem
        return None
    return f"a value of type {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")


def _components_to_pairs(judgement: Judgement) -> list[tuple[str, float | None]]:
    return [(name, None if score is None else float(score)) for name, score in judgement.components.items()]


def _stream_to_structs(judgement: Judgement) -> list[dict[str, int | float]]:
    return [{"token": token, "reward": float(reward)} for token, reward in judgement.stream]


def _group(rows: Sequence[Mapping[str, Any]]) -> Group:
    first = rows[0]
    content = json.loads(first["prompt"])
    return Group(
        prompt=Prompt(
            id=first["prompt_id"],
            content=content
            if isinstance(content, str)
            else tuple(cast(Message, message) for message in content),
            columns=json.loads(first["columns"]),
        ),
        prompt_ids=tuple(first["prompt_ids"]),
        trajectories=tuple(_trajectory(row) for row in rows),
        judgements=() if first["stream"] is None else tuple(_judgement(row) for row in rows),
    )


def _turn_to_struct(turn: Completion | Given) -> dict[str, Any]:
    own: dict[str, Any]
    if isinstance(turn, Given):
        own = {"role": turn.role, "stop": None, "weight_version": None}
    else:
        own = {"role": ASSISTANT, "stop": turn.stop.value, "weight_version": turn.weight_version}
    return {**own, "tokens": len(turn), "text": turn.text}


def _trajectory(row: Mapping[str, Any]) -> Trajectory:
    if row.get("turns") is None:  # written before there were turns
        turns = [{"stop": row["stop"], "weight_version": row["weight_version"], "text": row["text"]}]
        turns[0]["tokens"] = len(row["token_ids"])
        is_truncated = row["stop"] == StopReason.LENGTH.value
    else:
        turns, is_truncated = row["turns"], row["is_truncated"]
    result: list[Completion | Given] = []
    start = 0
    for turn in turns:
        end = start + turn["tokens"]
        token_ids = tuple(row["token_ids"][start:end])
        if turn["stop"] is None:
            result.append(Given(token_ids=token_ids, text=turn["text"], role=turn["role"]))
        else:
            result.append(
                Completion(
                    token_ids=token_ids,
                    logprobs=tuple(row["logprobs"][start:end]),
                    text=turn["text"],
                    stop=StopReason(turn["stop"]),
                    weight_version=turn["weight_version"],
                )
            )
        start = end
    return Trajectory(turns=tuple(result), is_truncated=is_truncated)


def _judgement(row: Mapping[str, Any]) -> Judgement:
    return Judgement(
        stream=tuple((pair["token"], pair["reward"]) for pair in row["stream"]),
        components=dict(row["components"]),
        faults=tuple(Fault(**fault) for fault in json.loads(row["faults"])),
    )
