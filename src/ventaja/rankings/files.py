"""Files of rankings: JSON lines, one ranking each. (A stand-in, until the whole is there.)"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ventaja.disk import atomic_file
from ventaja.errors import DataError
from ventaja.records import Answer, Prompt, Ranking


def write_rankings(path: str | Path, rankings: Iterable[Ranking]) -> None:
    """Writes them, whole or not at all."""
    _write(path, [_row(ranking) for ranking in rankings])


def read_rankings(path: str | Path) -> list[Ranking]:
    """Reads what `write_rankings` wrote. Raises DataError with the line."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(_ranking(json.loads(line), f"{path}:{number}"))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: {error}. Mend or drop the line.") from error
    return found


def write_pairs(path: str | Path, rankings: Iterable[Ranking]) -> None:
    """`prompt`, `chosen`, `rejected` for every pair that a ranking tells apart."""
    _write(
        path,
        [
            {
                "prompt": ranking.prompt.content,
                "chosen": ranking.answers[better].text,
                "rejected": ranking.answers[worse].text,
            }
            for ranking in rankings
            for better, worse in ranking.pairs()
        ],
    )


def _row(ranking: Ranking) -> dict[str, Any]:
    return {
        "id": ranking.prompt.id,
        "prompt": ranking.prompt.content,
        "columns": dict(ranking.prompt.columns),
        "answers": [
            {"text": answer.text, "source": answer.source, "token_ids": answer.token_ids}
            for answer in ranking.answers
        ],
        "order": ranking.order,
        "line": ranking.line,
        "rater": ranking.rater,
        "weight": ranking.weight,
    }


def _ranking(row: dict[str, Any], where: str) -> Ranking:
    content = row["prompt"]
    return Ranking(
        prompt=Prompt(
            id=row.get("id", where),
            content=content if isinstance(content, str) else tuple(content),
            columns=row.get("columns", {}),
        ),
        answers=tuple(
            Answer(
                text=answer["text"],
                source=answer.get("source", ""),
                token_ids=None if answer.get("token_ids") is None else tuple(answer["token_ids"]),
            )
            for answer in row["answers"]
        ),
        order=tuple(tuple(tier) for tier in row["order"]),
        line=row.get("line"),
        rater=row.get("rater", ""),
        weight=row.get("weight", 1.0),
    )


def _write(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    with atomic_file(path, flag=None) as temporary:
        temporary.write_text(
            "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8"
        )
