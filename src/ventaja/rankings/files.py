"""Files of rankings: ours, which keep everything; preference pairs, for other libraries; and others' files, read.

A row of ours, as one line of JSON:

| key | what |
|---|---|
| `id` | the prompt's id; file and line if left out |
| `prompt` | text, or chat messages |
| `answers` | texts, or objects of `text` and, where known, `token_ids` and `source` |
| `order` | tiers of places in `answers` (from 0), best first: `[[2], [0, 1]]`, or `[2, 0, 1]` where nothing is tied; those in \
no tier are worse than all that are, and in no order |
| `line` | how many tiers are acceptable; null where no line was drawn |
| `rater`, `weight` | who said so, and how much it counts; "" and 1 if left out |
| `columns` | the prompt's other columns |

In Parquet they are columns of the same names, each tier is a list, a prompt of chat messages stands in `messages` instead of
`prompt`, and `columns` is JSON.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ventaja.disk import atomic_file
from ventaja.errors import DataError, RunError, clipped, did_you_mean, kind, listed, nearest
from ventaja.rankings._arena import battle, is_battle
from ventaja.rankings._pairs import is_pair, pair
from ventaja.rankings._row import Row, Unusable, from_json
from ventaja.records import Answer, Message, Prompt, Ranking
from ventaja.records.files import check_columns_are_json
from ventaja.rows import file_rows, files_of

Say = Callable[[str], None]

_NAMES = ("id", "prompt", "messages", "answers", "order", "line", "rater", "weight", "columns")
_OF_AN_ANSWER = ("text", "token_ids", "source")


def _on_stderr(text: str) -> None:
    print(text, file=sys.stderr)


# ------------------------------------------------------------------------------------------------ reading


def read_rankings(path: str | Path, *, say: Say = _on_stderr) -> list[Ranking]:
    """The rankings of a file, in its order.

    A row is one of ours (see above); or a preference pair, `chosen` and `rejected` with `prompt`, each text or chat messages,
    or without `prompt` two whole chats; or a battle of an arena: `winner` (or `winner_model_a`, …), `conversation_a` and
    `conversation_b` (or `prompt`, `response_a` and `response_b`), `model_a` and `model_b`. Both become rankings of two answers;
    where both are bad, they are tied below the line. Further columns travel on with the prompt.

    What cannot be learned from is set aside in `NAME.rejected.jsonl` beside the file, with its line and why, and `say` is told
    how much that is: answers that are the same, a single answer, an order that names one twice or one that is not there.

    Args:
        path: a `.jsonl`, `.json`, `.parquet` or `.csv` file; all but Parquet also with `.gz` behind.
        say: is given each message for a person; standard error, if left out.

    Raises:
        DataError: the file is missing, empty or no such file, a row is malformed, or no row is left.
    """
    files = files_of(str(path))
    if files is None or Path(path).is_dir() or len(files) != 1:
        raise DataError(f"{path}: this is no file of rankings. Name one file, such as rankings.jsonl.")
    [file] = files
    rankings: list[Ranking] = []
    aside: list[dict[str, Any]] = []
    for line, columns in file_rows(file):
        row = Row(f"{file.label}:{line}", f"{file.name}:{line}", columns)
        try:
            rankings.append(_ranking(row))
        except Unusable as why:
            aside.append({"line": line, "why": str(why), "row": columns})
    if not rankings and not aside:
        raise DataError(
            f"{path}: the file is empty, so there are no rankings. Check that it was written completely."
        )
    if aside:
        _set_aside(file.path, aside, of=len(rankings) + len(aside), say=say)
    if not rankings:
        raise DataError(
            f"{path}: no ranking is left. The first row: {aside[0]['why']}. All of them, with the reason, are in "
            f"{_beside(file.path)}."
        )
    return rankings


def _beside(path: Path) -> Path:
    """Where to put what of a file cannot be used."""
    return path.with_name(f"{path.name.removesuffix(path.suffix).removesuffix('.jsonl')}.rejected.jsonl")


def _set_aside(path: Path, rows: Sequence[Mapping[str, Any]], *, of: int, say: Say) -> None:
    beside = _beside(path)
    reasons = Counter(row["why"] for row in rows).most_common()
    why = "; ".join(f"{count} × {reason}" for reason, count in reasons[:6])
    more = f"; and {len(reasons) - 6} more reasons" if len(reasons) > 6 else ""
    try:
        with atomic_file(beside, flag=None) as temporary:
            _write_lines(temporary, rows)
    except RunError as error:
        raise DataError(
            f"{path}: {len(rows)} of {of} rows cannot be used ({why}{more}), and the file that says which cannot be written: "
            f"{error} Or copy the file to a folder of yours."
        ) from error
    say(f"{path}: {len(rows)} of {of} rows are set aside in {beside.name} ({why}{more}).")


def _ranking(row: Row) -> Ranking:
    """Raises DataError if the row cannot be read, Unusable if there is nothing in it to learn."""
    if "answers" in row.columns and "order" in row.columns:
        read = _own
    elif is_battle(row):
        read = battle
    elif is_pair(row):
        read = pair
    else:
        names = [name for name in row.columns if row.has(name)]
        wanted = ("order",) if "answers" in names else ("chosen", "rejected", "answers")
        near = ((found, name) for name in wanted if (found := nearest(name, names)) not in (None, name))
        hint = "".join(f" Rename {found!r} to {name!r}?" for found, name in near)
        if "answers" in names:
            hint += " Answers without an order are what `ventaja rank` asks people about."
        else:
            hint += " A row has 'answers' and 'order', 'chosen' and 'rejected', or 'winner' with two conversations."
        raise row.error(f"this is no ranking: the row has {listed(names)}.{hint}")
    try:
        ranking = read(row)
    except ValueError as error:  # of Ranking itself: what its order or line says cannot be
        raise Unusable(str(error)) from error
    for better, worse in ranking.pairs():
        if ranking.answers[better].text == ranking.answers[worse].text:
            raise Unusable(f"answers {better} and {worse} are the same, and one is ranked above the other")
    if not ranking.order and ranking.line is None:
        raise Unusable("its order is empty and it has no line, so it says nothing")
    return ranking


def _own(row: Row) -> Ranking:
    for name in row.columns:
        lacking = [known for known in _NAMES if known not in row.columns]
        meant = next(iter(get_close_matches(name.lower(), lacking, n=1, cutoff=0.8)), None)
        if meant is not None and name not in _NAMES:
            raise row.error(
                f"there is nothing called {name!r}. Did you mean {meant!r}? Other columns go into 'columns'."
            )
    if row.has("prompt"):
        content = row.content("prompt")
    elif row.has("messages"):
        content = row.messages("messages")
    else:
        raise row.error("the row has no 'prompt'. Add it: text, or chat messages.")
    answers = row.columns["answers"]
    if not isinstance(answers, list):
        raise row.error(
            f"'answers' is {kind(answers)}; it must be a list of texts, or of objects with 'text'."
        )
    columns = from_json(row.columns["columns"]) if row.has("columns") else {}
    if not isinstance(columns, dict):
        raise row.error(f"'columns' is {kind(columns)}; it must be an object.")
    line = row.columns.get("line")
    if line is not None and type(line) is not int:
        raise row.error(f"'line' is {line!r:.60}; it must be a number of tiers, or null.")
    return Ranking(
        prompt=Prompt(id=row.name("id"), content=content, columns={**columns, **row.others(_NAMES)}),
        answers=tuple(_answer(row, place, answer) for place, answer in enumerate(answers)),
        order=_tiers(row),
        line=line,
        rater=row.text("rater"),
        weight=row.weight(),
    )


def _tiers(row: Row) -> tuple[tuple[int, ...], ...]:
    order = row.columns["order"]
    if not isinstance(order, list):
        raise row.error(f"'order' is {kind(order)}; it must be a list of tiers, best first: [[2], [0, 1]].")
    tiers = tuple(tuple(tier) if isinstance(tier, list) else (tier,) for tier in order)
    for place in (place for tier in tiers for place in tier):
        if type(place) is not int:
            raise row.error(f"'order' holds {place!r:.60}; it names answers by their places, counted from 0.")
    return tiers


def _answer(row: Row, place: int, answer: Any) -> Answer:
    if isinstance(answer, str):
        return Answer(text=answer)
    if not isinstance(answer, Mapping) or not isinstance(answer.get("text"), str):
        raise row.error(
            f"answers[{place}] is {clipped(repr(answer), 60)}; it must be text, or an object with 'text'."
        )
    for name in answer:
        if name not in _OF_AN_ANSWER:
            raise row.error(
                f"answers[{place}] has {name!r}.{did_you_mean(name, _OF_AN_ANSWER)} It may have {listed(_OF_AN_ANSWER)}."
            )
    tokens, source = answer.get("token_ids"), answer.get("source")
    if tokens is not None and not (isinstance(tokens, list) and all(type(token) is int for token in tokens)):
        raise row.error(f"answers[{place}]: 'token_ids' must be a list of whole numbers.")
    if source is not None and not isinstance(source, str):
        raise row.error(f"answers[{place}]: 'source' is {kind(source)}; it must be text.")
    return Answer(
        text=answer["text"], token_ids=None if tokens is None else tuple(tokens), source=source or ""
    )


# ------------------------------------------------------------------------------------------------ writing


def write_rankings(path: str | Path, rankings: Iterable[Ranking]) -> None:
    """Writes rankings as JSON lines or Parquet, by the name's ending, whole or not at all; `read_rankings` gives equal ones back.

    Prompt columns go through JSON: their tuples come back as lists. A prompt's weight is not kept.

    Raises DataError if there are none, for a prompt column that JSON cannot hold and for another ending, RunError when the
    file cannot be written.
    """
    rankings = _some(path, rankings)
    for ranking in rankings:
        check_columns_are_json(ranking.prompt)
    if _is_parquet(path):
        _write_table(path, _columns(rankings), _schema())
    else:
        _write_jsonl(path, [_line(ranking) for ranking in rankings])


def write_pairs(path: str | Path, rankings: Iterable[Ranking], *, say: Say = _on_stderr) -> int:
    """Writes each pair of answers that a ranking tells apart as `prompt`, `chosen` and `rejected`; returns how many.

    This is the preference format that TRL and others read: text where the prompt is text, chat messages where it is a chat.
    Ties and lines cannot be said in it; `say` is told how many are left out.

    Raises DataError as `write_rankings` does, if some prompts are text and others are chats, and if no pair is left.
    """
    rankings = _some(path, rankings)
    text = next((ranking for ranking in rankings if not ranking.prompt.is_chat), None)
    chat = next((ranking for ranking in rankings if ranking.prompt.is_chat), None)
    if text is not None and chat is not None:
        raise DataError(
            f"{path}: {text.prompt.id} asks in text and {chat.prompt.id} in a chat, and a column holds one of the two. Write them "
            "into two files."
        )
    rows = [
        {
            "prompt": ranking.prompt.content,
            "chosen": _said(ranking, better),
            "rejected": _said(ranking, worse),
        }
        for ranking in rankings
        for better, worse in ranking.pairs()
    ]
    if not rows:
        raise DataError(f"{path}: no ranking tells two answers apart, so there are no pairs to write.")
    if _is_parquet(path):
        import pyarrow as pa

        kinds = pa.string() if chat is None else _messages_type()
        _write_table(
            path,
            {name: [_structs(row[name]) for row in rows] for name in rows[0]},
            pa.schema(dict.fromkeys(rows[0], kinds)),
        )
    else:
        _write_jsonl(path, rows)
    pairs_there = sum(len(ranking.answers) * (len(ranking.answers) - 1) // 2 for ranking in rankings)
    open_ = pairs_there - len(rows)
    lines = sum(ranking.line is not None for ranking in rankings)
    lost = [
        *([f"{_counted(open_, 'pair')} of answers that are tied or in no order"] if open_ else []),
        *([f"{_counted(lines, 'line')} between acceptable and not"] if lines else []),
    ]
    if lost:
        say(f"{path}: {_counted(len(rows), 'pair')}. Pairs cannot say, and so leave out: {'; '.join(lost)}.")
    return len(rows)


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _said(ranking: Ranking, place: int) -> str | list[Message]:
    text = ranking.answers[place].text
    return [{"role": "assistant", "content": text}] if ranking.prompt.is_chat else text


def _some(path: str | Path, rankings: Iterable[Ranking]) -> list[Ranking]:
    rankings = list(rankings)
    if not rankings:
        raise DataError(f"{path}: there are no rankings to write.")
    return rankings


def _is_parquet(path: str | Path) -> bool:
    endings = (".jsonl", ".parquet")
    suffix = Path(path).suffix
    if suffix not in endings:
        raise DataError(
            f"{path}: rankings are written as {listed(endings)}, by the file's ending. Call it so."
        )
    return suffix == ".parquet"


def _line(ranking: Ranking) -> dict[str, Any]:
    return {
        "id": ranking.prompt.id,
        "prompt": ranking.prompt.content,
        "answers": [_fields(answer) for answer in ranking.answers],
        "order": ranking.order,
        "line": ranking.line,
        "rater": ranking.rater,
        **({"weight": ranking.weight} if ranking.weight != 1 else {}),
        **({"columns": dict(ranking.prompt.columns)} if ranking.prompt.columns else {}),
    }


def _fields(answer: Answer) -> dict[str, Any]:
    return {
        "text": answer.text,
        **({} if answer.token_ids is None else {"token_ids": answer.token_ids}),
        **({"source": answer.source} if answer.source else {}),
    }


def _write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with atomic_file(path, flag=None) as temporary:
        _write_lines(temporary, rows)


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, default=str)
            try:
                line.encode()
            except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can say
                line = json.dumps(row, default=str)
            file.write(f"{line}\n")


def _columns(rankings: Sequence[Ranking]) -> dict[str, list[Any]]:
    prompts = [ranking.prompt for ranking in rankings]
    return {
        "id": [prompt.id for prompt in prompts],
        "prompt": [None if prompt.is_chat else prompt.content for prompt in prompts],
        "messages": [_structs(prompt.content) if prompt.is_chat else None for prompt in prompts],
        "answers": [
            [{"text": a.text, "token_ids": a.token_ids, "source": a.source} for a in ranking.answers]
            for ranking in rankings
        ],
        "order": [ranking.order for ranking in rankings],
        "line": [ranking.line for ranking in rankings],
        "rater": [ranking.rater for ranking in rankings],
        "weight": [ranking.weight for ranking in rankings],
        "columns": [json.dumps(dict(prompt.columns)) for prompt in prompts],
    }


def _structs(content: Any) -> Any:
    return content if isinstance(content, str) else [dict(message) for message in content]


def _messages_type() -> Any:
    import pyarrow as pa

    return pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        {
            "id": pa.string(),
            "prompt": pa.string(),
            "messages": _messages_type(),
            "answers": pa.list_(
                pa.struct({"text": pa.string(), "token_ids": pa.list_(pa.int32()), "source": pa.string()})
            ),
            "order": pa.list_(pa.list_(pa.int32())),
            "line": pa.int32(),
            "rater": pa.string(),
            "weight": pa.float64(),
            "columns": pa.string(),
        }
    )


def _write_table(path: str | Path, columns: Mapping[str, Sequence[Any]], schema: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    try:
        table = pyarrow.table(dict(columns), schema=schema)
    # A lone surrogate in a string is a UnicodeEncodeError, a number out of range an OverflowError.
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: a ranking cannot be written to Parquet: {error}. Write .jsonl instead."
        ) from error
    with atomic_file(path, flag=None) as temporary:
        parquet.write_table(table, temporary, compression="zstd")
