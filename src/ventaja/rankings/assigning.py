"""Who is given what next: so many raters for each item, nobody the same one twice, and what was left comes back."""

from __future__ import annotations

import json
import random
import sqlite3
import statistics
from dataclasses import dataclass
from typing import Literal

from ventaja.rankings.store import Rater, Showing, Store

Way = Literal["given", "random", "uncertain"]

_BY: dict[Way, str] = {
    "given": "item.id",
    "random": "item.shuffle, item.id",
    "uncertain": "item.uncertainty DESC, item.id",
}
REPEAT_AFTER = 5
"""A repeat comes only when at least so many other items were shown since."""
RECENT = 20
"""Rankings whose median time is the pace."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How items are given out."""

    raters_per_item: int = 1
    """So many people rank each item."""
    way: Way = "random"
    """In the order of the files; at random, the same for all raters so that items are soon complete; or where
    `Store.prioritise` says that somebody is least sure."""
    gold_every: int | None = None
    """On average one in so many items is a gold item, if there are any; each rater gets each once."""
    repeat_every: int | None = None
    """On average one in so many items is one that the rater has ranked before, answers in another order."""
    abandoned_after: float = 1800.0
    """Seconds without a sign of life, after which an item that lies open goes to others too."""
    seed: int = 0
    """Of every draw: when gold and repeats come, and the order of answers."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a rater stands."""

    ranked: int
    skipped: int
    left: int
    """Items that are still to be ranked by somebody, and that this rater has not had."""
    pace: float | None
    """Median seconds for a ranking, over the last ones; None before the first."""


def next_showing(store: Store, rater: Rater, plan: Plan) -> Showing | None:
    """What this rater is to rank now, or None if there is nothing left. Asked again, it is the same until judged.

    It is in the store, with the order of its answers, before this returns.
    """
    with store.writing() as db:
        now = store.clock()
        chosen = _still_open(db, rater, plan, now)
        if chosen is None:
            item, repeat = _draw(db, rater, plan, now)
            if item is None:
                return None
            chosen = _show(db, rater, item, repeat, plan, now)
        db.execute("INSERT INTO event (showing, kind, at) VALUES (?, 'shown', ?)", (chosen, now))
        return store.showing(chosen, rater.id)


def progress(store: Store, rater: Rater, plan: Plan) -> Progress:
    """Counts of a rater's work, and how much is left."""
    with store.reading() as db:
        states = dict(
            db.execute(
                "SELECT state, count(*) FROM showing WHERE rater = ? GROUP BY state", (rater.id,)
            ).fetchall()
        )
        left = db.execute(
            """
            SELECT count(*) FROM item WHERE is_gold = 0 AND rankings < ? AND NOT EXISTS (
                SELECT 1 FROM showing AS mine WHERE mine.item = item.id AND mine.rater = ? AND mine.repeat = 0 AND mine.state NOT IN ('open', 'released'))
            """,
            (plan.raters_per_item, rater.id),
        ).fetchone()[0]
        recent = db.execute(
            """
            SELECT event.seconds FROM showing
            JOIN event ON event.showing = showing.id AND event.version = showing.version
            WHERE showing.rater = ? AND showing.state = 'ranked' AND event.seconds IS NOT NULL
            ORDER BY showing.id DESC LIMIT ?
            """,
            (rater.id, RECENT),
        ).fetchall()
    return Progress(
        ranked=states.get("ranked", 0),
        skipped=states.get("skipped", 0),
        left=left,
        pace=statistics.median(row["seconds"] for row in recent) if recent else None,
    )


_OTHERS_HOLD = """
    (SELECT count(*) FROM showing AS other WHERE other.item = item.id AND other.rater <> :rater
        AND other.repeat = 0 AND other.state = 'open' AND other.touched_at > :alive)
"""


def _still_open(db: sqlite3.Connection, rater: Rater, plan: Plan, now: float) -> int | None:
    """What the rater has not finished, if it is still wanted; what others have taken over meanwhile is released."""
    known = {"rater": rater.id, "alive": now - plan.abandoned_after, "raters": plan.raters_per_item}
    rows = db.execute(
        f"""
        SELECT showing.id, showing.repeat > 0 OR item.is_gold OR item.rankings + {_OTHERS_HOLD} < :raters AS wanted
        FROM showing JOIN item ON item.id = showing.item
        WHERE showing.rater = :rater AND showing.state = 'open' ORDER BY showing.id
        """,
        known,
    ).fetchall()
    found = None
    for row in rows:
        if row["wanted"] and found is None:
            found = int(row["id"])
        elif not row["wanted"]:
            db.execute("INSERT INTO event (showing, kind, at) VALUES (?, 'released', ?)", (row["id"], now))
    return found


def _draw(db: sqlite3.Connection, rater: Rater, plan: Plan, now: float) -> tuple[int | None, int]:
    """The item to show next, and whether it is a repeat (1) or not (0)."""
    so_far = db.execute("SELECT count(*) FROM showing WHERE rater = ?", (rater.id,)).fetchone()[0]
    chance = random.Random(f"{plan.seed}/{rater.name}/{so_far}")
    gold_turn = plan.gold_every is not None and chance.random() < 1 / plan.gold_every
    repeat_turn = plan.repeat_every is not None and chance.random() < 1 / plan.repeat_every
    known = {
        "rater": rater.id,
        "alive": now - plan.abandoned_after,
        "raters": plan.raters_per_item,
        "so_far": so_far,
    }
    not_mine = "NOT EXISTS (SELECT 1 FROM showing AS mine WHERE mine.item = item.id AND mine.rater = :rater AND mine.state <> 'released')"
    gold = f"SELECT id FROM item WHERE is_gold = 1 AND {not_mine} ORDER BY shuffle LIMIT 1"
    repeat = f"""
        SELECT item.id FROM showing JOIN item ON item.id = showing.item
        WHERE showing.rater = :rater AND showing.state = 'ranked' AND showing.repeat = 0 AND item.is_gold = 0
        AND NOT EXISTS (SELECT 1 FROM showing AS mine WHERE mine.item = item.id AND mine.rater = :rater AND mine.repeat > 0)
        AND (SELECT count(*) FROM showing AS later WHERE later.rater = :rater AND later.id > showing.id) >= {REPEAT_AFTER}
        ORDER BY showing.id LIMIT 1
    """
    plain = f"""
        SELECT id FROM item WHERE is_gold = 0 AND rankings < :raters AND {not_mine}
        AND rankings + {_OTHERS_HOLD} < :raters ORDER BY {_BY[plan.way]} LIMIT 1
    """
    turns = [(gold, 0)] * gold_turn + [(repeat, 1)] * repeat_turn + [(plain, 0)]
    if plan.gold_every is not None:
        turns.append((gold, 0))
    for query, is_repeat in turns:
        row = db.execute(query, known).fetchone()
        if row is not None:
            return int(row["id"]), is_repeat
    return None, 0


def _show(db: sqlite3.Connection, rater: Rater, item: int, repeat: int, plan: Plan, now: float) -> int:
    answers = db.execute("SELECT count(*) FROM answer WHERE item = ?", (item,)).fetchone()[0]
    shown = list(range(answers))
    random.Random(f"{plan.seed}/{rater.name}/{item}/{repeat}").shuffle(shown)
    released = db.execute(
        "SELECT id FROM showing WHERE item = ? AND rater = ? AND repeat = ?", (item, rater.id, repeat)
    ).fetchone()
    if released is not None:  # somebody else had taken it over, and did not rank it either
        db.execute("INSERT INTO event (showing, kind, at) VALUES (?, 'reopened', ?)", (released["id"], now))
        return int(released["id"])
    id_ = db.execute(
        "INSERT INTO showing (item, rater, repeat, shown, opened_at, touched_at) VALUES (?, ?, ?, ?, ?, ?)",
        (item, rater.id, repeat, json.dumps(shown), now, now),
    ).lastrowid
    assert id_ is not None
    return id_
