"""Rankings of two answers as arenas publish their battles: `model_a`, `model_b`, `winner`, `conversation_a`, …"""

from __future__ import annotations

import re
from typing import Any

from ventaja.errors import listed
from ventaja.rankings._row import Row, Unusable, from_json, split
from ventaja.records import Answer, Message, Prompt, Ranking, read_messages

_ORDERS: dict[str, tuple[tuple[tuple[int, ...], ...], int | None]] = {
    "modela": (((0,), (1,)), None),
    "modelb": (((1,), (0,)), None),
    "tie": (((0, 1),), None),
    # Both are bad: a tie below the line.
    "tiebothbad": (((0, 1),), 0),
    "bothbad": (((0, 1),), 0),
}
_WINNERS = ("model_a", "model_b", "tie", "tie (bothbad)", "both_bad")
_ONE_HOT = {"winner_model_a": "modela", "winner_model_b": "modelb", "winner_tie": "tie"}
_CHATS = ("conversation_a", "conversation_b")
_TEXTS = ("response_a", "response_b")
_USED = ("model_a", "model_b", "winner", *_ONE_HOT, *_CHATS, *_TEXTS, "prompt", "judge")


def is_battle(row: Row) -> bool:
    """True if the row is a battle of two models."""
    has_winner = "winner" in row.columns or all(name in row.columns for name in _ONE_HOT)
    return has_winner and any(
        all(name in row.columns for name in names) for names in (_CHATS, ("prompt", *_TEXTS))
    )


def battle(row: Row) -> Ranking:
    """The ranking of a row. Raises DataError if it cannot be read, Unusable if there is nothing in it to learn."""
    order, line = _order(row)
    prompt, first, second = _conversations(row) if row.has(*_CHATS) else _responses(row)
    if first.text == second.text:
        raise Unusable("both answers are the same")
    answers = (
        Answer(text=first.text, source=row.text("model_a")),
        Answer(text=second.text, source=row.text("model_b")),
    )
    return Ranking(
        # Ids of arenas name battles, in one of several columns and as text or numbers: they travel on as columns.
        prompt=Prompt(id=row.id, content=prompt, columns=row.others(_USED)),
        answers=answers,
        order=order,
        line=line,
        rater=row.text("judge"),
    )


def _order(row: Row) -> tuple[tuple[tuple[int, ...], ...], int | None]:
    if "winner" in row.columns:
        said = row.columns["winner"]
        if said is None or said == "":
            raise Unusable("it has no winner")
        found = _ORDERS.get(re.sub(r"[^a-z]", "", str(said).lower()))
        if found is None:
            raise row.error(f"'winner' is {said!r}; it is one of {listed(_WINNERS)}.")
        return found
    won = [name for name in _ONE_HOT if str(row.columns[name]) in ("1", "1.0", "True", "true")]
    if len(won) != 1:
        raise Unusable(f"{len(won)} of {', '.join(_ONE_HOT)} are 1, and one should be")
    return _ORDERS[_ONE_HOT[won[0]]]


def _conversations(row: Row) -> tuple[tuple[Message, ...], Answer, Answer]:
    first, second = (read_messages(from_json(row.columns[name]), name, row.error) for name in _CHATS)
    shared, *answers = split(first, second)
    if not shared:
        raise Unusable("the two conversations begin with different questions")
    return shared, answers[0], answers[1]


def _responses(row: Row) -> tuple[tuple[Message, ...], Answer, Answer]:
    if not row.has("prompt", *_TEXTS):
        raise Unusable("the prompt or an answer is null")
    said = [_only(row, name) for name in ("prompt", *_TEXTS)]
    return ({"role": "user", "content": said[0]},), Answer(text=said[1]), Answer(text=said[2])


def _only(row: Row, name: str) -> str:
    """The text of a column: as it is, or the only item of a list of turns, which may be written as JSON."""
    turns: Any = from_json(row.columns[name])
    if not isinstance(turns, list):
        return row.text(name)
    if len(turns) != 1:
        raise Unusable(f"'{name}' has {len(turns)} turns, and a ranking compares single answers")
    if not isinstance(turns[0], str):
        raise Unusable(f"'{name}' has no text")
    return turns[0]
