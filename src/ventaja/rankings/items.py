"""Items to rank, from files: groups that were sampled, prompts with answers, and rankings that exist already.

What cannot be ranked is set aside, with its place and why; the caller writes it beside and says how many there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ventaja.errors import DataError
from ventaja.records import Answer, Group, Prompt, Ranking, read_groups, read_rollouts
from ventaja.records.messages import read_messages

LONGEST_ANSWER = 200_000
"""Characters. No person ranks more, and a page has to hold several."""
MOST_ANSWERS = 26


@dataclass(frozen=True, kw_only=True)
class Order:
    """An order of answers: tiers of their places, best first, and the line; as in `Ranking`."""

    tiers: tuple[tuple[int, ...], ...]
    line: int | None = None


@dataclass(frozen=True, kw_only=True)
class Item:
    """A prompt with the answers that are to be ranked, and what is known of their order."""

    prompt: Prompt
    answers: tuple[Answer, ...]
    gold: Order | None = None
    """Their right order, if this item is there to test raters."""
    rankings: tuple[Ranking, ...] = ()
    """What raters said of them already."""
    uncertainty: float = 0.0

    @property
    def digest(self) -> str:
        """Names the item by what a rater sees: the prompt and the answers, in any order of columns."""
        seen = [self.prompt.content, [answer.text for answer in self.answers]]
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """Something in a file that cannot be an item."""

    where: str
    """Its file and line, or row."""
    why: str
    row: Mapping[str, Any] = field(default_factory=dict)


def read_items(path: str | Path) -> tuple[list[Item], list[SetAside]]:
    """The items of a file, and what of it cannot be ranked.

    Args:
        path: a Parquet file of groups (`ventaja sample`, or of a run's rollouts), a run's folder, or JSON lines of
            `{"prompt": text or messages, "answers": [text or {"text", "source", "token_ids"}, …]}`. Further columns travel
            on with the prompt.

    Raises DataError for a file that is missing, empty, or holds something else.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted((path / "rollouts").glob("*.parquet"))
        if not files:
            raise DataError(
                f"{path}: this is no run's folder with rollouts. Name a file of groups or of answers."
            )
        parts = [read_items(file) for file in files]
        return [item for items, _ in parts for item in items], [one for _, aside in parts for one in aside]
    read = _of_groups if path.suffix == ".parquet" else _of_lines
    items, aside = _sorted(read(path))
    if not items and not aside:
        raise DataError(f"{path}: the file is empty, so there is nothing to rank.")
    return items, aside


def items_of(rankings: Iterable[Ranking], *, gold: bool = False) -> list[Item]:
    """Items of rankings that exist: each with what raters said of it or, with `gold`, the first ranking as its right order.

    Rankings of one prompt that hold its answers in different orders are brought into the first one's.
    """
    found: dict[str, Item] = {}
    for ranking in rankings:
        order = tuple(
            sorted(range(len(ranking.answers)), key=lambda place: _answer_key(ranking.answers[place]))
        )
        key = json.dumps([ranking.prompt.content, [_answer_key(ranking.answers[place]) for place in order]])
        item = found.get(key) or Item(prompt=ranking.prompt, answers=ranking.answers)
        here = sorted(range(len(item.answers)), key=lambda place: _answer_key(item.answers[place]))
        moved = dict(zip(order, here, strict=True))
        tiers = tuple(tuple(moved[place] for place in tier) for tier in ranking.order)
        said = Order(tiers=tiers, line=ranking.line)
        same = Ranking(
            prompt=item.prompt,
            answers=item.answers,
            order=tiers,
            line=ranking.line,
            rater=ranking.rater,
            weight=ranking.weight,
        )
        found[key] = Item(
            prompt=item.prompt,
            answers=item.answers,
            gold=(item.gold or said) if gold else None,
            rankings=() if gold else (*item.rankings, same),
        )
    return list(found.values())


def _answer_key(answer: Answer) -> tuple[str, str]:
    return answer.text, answer.source


def _sorted(rows: Iterable[Item | SetAside]) -> tuple[list[Item], list[SetAside]]:
    items: list[Item] = []
    aside: list[SetAside] = []
    for row in rows:
        if isinstance(row, Item):
            items.append(row)
        else:
            aside.append(row)
    return items, aside


# ------------------------------------------------------------------------------------------------ groups


def _of_groups(path: Path) -> Iterator[Item | SetAside]:
    groups = read_groups(path)
    table = read_rollouts(path)
    sources = table["source"].to_pylist() if "source" in table.column_names else None
    first = 0
    for number, group in enumerate(groups):
        own = sources[first : first + len(group)] if sources is not None else None
        first += len(group)
        yield _checked(partial(_of_group, path, group, own), f"{path}, group {number}", {})


def _of_group(path: Path, group: Group, sources: list[Any] | None) -> Item:
    answers = []
    for place, trajectory in enumerate(group.trajectories):
        one_turn = len(trajectory.turns) == 1
        answers.append(
            Answer(
                text=trajectory.text,
                # Of several turns some tokens were given: they are no answer's.
                token_ids=trajectory.token_ids if one_turn else None,
                source=str(sources[place] or "")
                if sources
                else f"{path.stem}, weights {trajectory.weight_version}",
            )
        )
    return Item(prompt=group.prompt, answers=tuple(answers))


# ------------------------------------------------------------------------------------------------ lines


def _of_lines(path: Path) -> Iterator[Item | SetAside]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text in UTF-8: {error}.") from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            yield SetAside(where=place, why=f"the line is not JSON: {error}", row={"line": line})
            continue
        if not isinstance(row, dict):
            yield SetAside(
                where=place, why="the line is not an object with 'prompt' and 'answers'", row={"line": row}
            )
            continue
        yield _checked(partial(_of_row, row, f"{path.name}:{number}"), place, row)


def _of_row(row: Mapping[str, Any], default_id: str) -> Item:
    for name in ("prompt", "answers"):
        if name not in row:
            raise ValueError(f"there is no {name!r} in it; it has {', '.join(map(repr, row)) or 'nothing'}")
    content = row["prompt"]
    if not isinstance(content, str):
        content = read_messages(content, "prompt", ValueError)
    answers = row["answers"]
    if not isinstance(answers, list):
        raise ValueError("'answers' is a list of texts, or of objects with 'text'")
    columns = {
        name: value for name, value in row.items() if name not in {"prompt", "answers", "id", "uncertainty"}
    }
    uncertainty = row.get("uncertainty", 0.0)
    if isinstance(uncertainty, bool) or not isinstance(uncertainty, int | float):
        raise ValueError("'uncertainty' is a number")
    return Item(
        prompt=Prompt(id=str(row.get("id", default_id)), content=content, columns=columns),
        answers=tuple(_answer(answer, place) for place, answer in enumerate(answers)),
        uncertainty=float(uncertainty),
    )


def _answer(answer: Any, place: int) -> Answer:
    if isinstance(answer, str):
        return Answer(text=answer)
    if not isinstance(answer, dict) or not isinstance(answer.get("text"), str):
        raise ValueError(f"answer {place} is neither text nor an object with 'text'")
    unknown = [name for name in answer if name not in {"text", "source", "token_ids"}]
    if unknown:
        raise ValueError(f"answer {place} has {unknown[0]!r}; it may have 'text', 'source' and 'token_ids'")
    token_ids = answer.get("token_ids")
    if token_ids is not None and not (
        isinstance(token_ids, list) and all(type(token) is int for token in token_ids)
    ):
        raise ValueError(f"'token_ids' of answer {place} is a list of whole numbers")
    return Answer(
        text=answer["text"],
        token_ids=None if token_ids is None else tuple(token_ids),
        source=str(answer.get("source") or ""),
    )


def _checked(make: Callable[[], Item], where: str, row: Mapping[str, Any]) -> Item | SetAside:
    """The item that `make` makes, or why it cannot be one."""
    try:
        item = make()
        if len(item.answers) < 2:
            raise ValueError(
                f"there is nothing to compare in {len(item.answers)} answer{'s' * (not item.answers)}"
            )
        if len(item.answers) > MOST_ANSWERS:
            raise ValueError(f"nobody orders {len(item.answers)} answers at once; at most {MOST_ANSWERS}")
        if len({answer.text for answer in item.answers}) == 1:
            raise ValueError("all of its answers are the same")
        texts = [answer.text for answer in item.answers]
        longest = max(map(len, texts))
        if longest > LONGEST_ANSWER:
            raise ValueError(f"an answer has {longest} characters; at most {LONGEST_ANSWER}")
        for text in (*texts, json.dumps(item.prompt.content, ensure_ascii=False), item.prompt.id):
            text.encode()  # half of a surrogate pair is no text
    except (ValueError, TypeError, UnicodeEncodeError) as error:
        why = (
            "it holds half of a surrogate pair, which is no text"
            if isinstance(error, UnicodeError)
            else str(error)
        )
        return SetAside(where=where, why=why, row=row)
    return item
