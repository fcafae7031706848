"""One SQLite file: what is to be ranked, who ranks, and everything that they did, as events that nothing overwrites.

Several threads, and several processes, may use one file at once. A commit is on the disk when it returns
(WAL, synchronous=FULL), so whatever kills a process takes nothing back that was said to be saved.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ventaja.disk import atomic_file
from ventaja.errors import RankingError, did_you_mean
from ventaja.rankings.items import Item, Order
from ventaja.rankings.schema import connect, damaged, prepare
from ventaja.records import Answer, Prompt, Ranking

State = Literal["open", "ranked", "skipped", "released"]
LONGEST_COMMENT = 2000
"""Characters of a flag's comment."""
LONGEST_LOOK = 86_400.0
"""Seconds; a page that claims to have been looked at for longer has a clock that is wrong."""


class StaleError(RankingError):
    """A page that shows an earlier state than the one kept, such as a second tab. Nothing was changed."""


@dataclass(frozen=True, kw_only=True)
class Rater:
    """Somebody who ranks."""

    id: int
    name: str
    secret: str | None
    """Of the rater's link; None for one who only came with a file."""


@dataclass(frozen=True, kw_only=True)
class Showing:
    """One item in front of one rater, and what became of it. Answers are named by their place in the item."""

    id: int
    item: int
    rater: int
    repeat: int
    """0 the first time, 1 when it is shown again to see whether the rater says the same."""
    shown: tuple[int, ...]
    """The places of the answers in the order in which they stand on the page."""
    state: State
    version: int
    """How many judgements (rankings and skips) there were; a page names the one that it saw."""
    prompt: Prompt
    answers: tuple[Answer, ...]
    order: Order | None = None
    """The ranking that counts, if any; of one that was skipped afterwards, the last one."""
    draft: Order | None = None
    """What was laid out since, and not submitted."""
    comment: str = ""
    """Of the flag; empty where there is none."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A rater's judgement of a showing, as a page hands it in."""

    key: str
    """Chosen by the page at random: a judgement that arrives twice counts once."""
    seen: int
    """The version that the page showed."""
    order: Order | None
    """None: skipped."""
    seconds: float | None = None
    """How long the rater looked at it."""
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Added:
    """What became of items that were added."""

    new: int
    known: int
    """Items that were there already: same prompt, same answers."""
    rankings: int
    """Rankings that came with them and are kept."""
    said_before: int
    """Rankings that are left out, because there is one of this rater and item already."""


class Store:
    """A file of rankings. Use it as a context, or call `close`.

    Args:
        path: the file; it is made if it is not there, unless `create` is False.
        clock: what the time is, in seconds since 1970.

    Raises RankingError for a file that is damaged, from a newer version, or no store of rankings.
    """

    def __init__(
        self, path: str | Path, *, create: bool = True, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = Path(path)
        self.clock = clock
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        if self.path.is_dir():
            raise RankingError(
                f"{path}: this is a folder. Name a file in it, such as {self.path}/rankings.db."
            )
        if not self.path.exists():
            if not create:
                there = self.path.parent.iterdir() if self.path.parent.is_dir() else ()
                near = did_you_mean(str(path), [str(other) for other in there if other.is_file()])
                raise RankingError(f"{path}: there is no such file.{near}")
            with _told(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # Only its owner may read it: it holds the secrets of the raters' links.
                with suppress(FileExistsError):
                    os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with _told(self.path):
            try:
                prepare(self._connection(), self.path)
            except sqlite3.OperationalError as error:
                if "already exists" not in str(error):
                    raise
                prepare(self._connection(), self.path)  # another process made the tables in between

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections of all threads; none may be using the store."""
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()
            self._local = threading.local()

    # ---------------------------------------------------------------------------------------------- reading, writing

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view for the block. Raises RankingError where the file cannot be read."""
        connection = self._connection()
        with _told(self.path):
            if connection.in_transaction:  # within another block
                yield connection
                return
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, alone among writers; on the disk when the block has ended, or not made at all.

        Raises RankingError where the file cannot be written, such as on a full disk.
        """
        connection = self._connection()
        with _told(self.path):
            if connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # Some errors, a full disk among them, have rolled back by themselves.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            with _told(self.path):
                connection = connect(self.path)
            self._local.connection = connection
            with self._lock:
                self._open.append(connection)
        return connection

    # ---------------------------------------------------------------------------------------------- items and raters

    def add(self, items: Iterable[Item]) -> Added:
        """Adds items that are not there yet, and with each its right order or the rankings that came with it: the first of
        each rater, if the store has none of theirs."""
        new = known = rankings = said_before = 0
        with self.writing() as db:
            for item in items:
                row = db.execute("SELECT id FROM item WHERE digest = ?", (item.digest,)).fetchone()
                if row is None:
                    new += 1
                    where = self._insert(db, item)
                else:
                    known += 1
                    where = row["id"]
                if item.gold is not None:
                    db.execute(
                        "UPDATE item SET is_gold = 1, gold_tiers = ?, gold_line = ? WHERE id = ?",
                        (json.dumps(item.gold.tiers), item.gold.line, where),
                    )
                for ranking in item.rankings:
                    kept = self._bring_in(db, where, ranking)
                    rankings += kept
                    said_before += not kept
        return Added(new=new, known=known, rankings=rankings, said_before=said_before)

    def _insert(self, db: sqlite3.Connection, item: Item) -> int:
        where = db.execute(
            "INSERT INTO item (digest, shuffle, uncertainty) VALUES (?, ?, ?)",
            (item.digest, int(item.digest[:12], 16), item.uncertainty),
        ).lastrowid
        assert where is not None
        prompt = item.prompt
        db.execute(
            "INSERT INTO content VALUES (?, ?, ?, ?, ?)",
            (where, prompt.id, json.dumps(prompt.content), json.dumps(dict(prompt.columns)), prompt.weight),
        )
        db.executemany(
            "INSERT INTO answer VALUES (?, ?, ?, ?, ?)",
            [
                (
                    where,
                    place,
                    answer.text,
                    None if answer.token_ids is None else json.dumps(answer.token_ids),
                    answer.source,
                )
                for place, answer in enumerate(item.answers)
            ],
        )
        return where

    def _bring_in(self, db: sqlite3.Connection, item: int, ranking: Ranking) -> bool:
        """Keeps a ranking that came with a file; False if its rater has said something of this item already."""
        rater = self._rater_id(db, ranking.rater)
        now = self.clock()
        row = db.execute(
            "INSERT INTO showing (item, rater, repeat, shown, opened_at, touched_at) VALUES (?, ?, 0, ?, ?, ?) "
            "ON CONFLICT DO NOTHING RETURNING id",
            (item, rater, json.dumps(list(range(len(ranking.answers)))), now, now),
        ).fetchone()
        if row is None:
            return False
        order = Order(tiers=ranking.order, line=ranking.line)
        judged = Judged(key=f"import {row['id']}", seen=0, order=order, weight=ranking.weight)
        self._judge(db, row["id"], judged)
        return True

    def prioritise(self, uncertainty: Mapping[str, float]) -> tuple[int, list[str]]:
        """Sets how unsure somebody is of each prompt's answers, by the prompt's id: higher comes first where the plan goes
        by uncertainty. Returns how many items were changed, and the ids that no item has."""
        changed, unknown = 0, []
        with self.writing() as db:
            for prompt_id, score in uncertainty.items():
                rows = db.execute(
                    "UPDATE item SET uncertainty = ? WHERE id IN (SELECT item FROM content WHERE prompt_id = ?)",
                    (float(score), prompt_id),
                ).rowcount
                changed += rows
                unknown += [] if rows else [prompt_id]
        return changed, unknown

    def rater(self, name: str) -> Rater:
        """The rater of this name, with a link; made if there is none. Raises RankingError for a name without text."""
        if not name.strip() or len(name) > 80 or not name.isprintable():
            raise RankingError(f"{name!r} is no name for a rater: it is 1 to 80 printable characters.")
        with self.writing() as db:
            where = self._rater_id(db, name)
            db.execute(
                "UPDATE rater SET secret = ? WHERE id = ? AND secret IS NULL",
                (secrets.token_urlsafe(18), where),
            )
            return _rater(db.execute("SELECT * FROM rater WHERE id = ?", (where,)).fetchone())

    def _rater_id(self, db: sqlite3.Connection, name: str) -> int:
        db.execute("INSERT INTO rater (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
        return int(db.execute("SELECT id FROM rater WHERE name = ?", (name,)).fetchone()["id"])

    def raters(self) -> list[Rater]:
        """Everybody who has ranked or has a link, by name."""
        with self.reading() as db:
            return [_rater(row) for row in db.execute("SELECT * FROM rater ORDER BY name")]

    def organiser(self) -> str:
        """The secret of the link to the page of agreement."""
        with self.writing() as db:
            db.execute(
                "INSERT INTO meta VALUES ('organiser', ?) ON CONFLICT DO NOTHING",
                (secrets.token_urlsafe(18),),
            )
            return str(db.execute("SELECT value FROM meta WHERE name = 'organiser'").fetchone()["value"])

    def renew_links(self) -> None:
        """All links become invalid; new ones are made when they are asked for."""
        with self.writing() as db:
            db.execute("UPDATE rater SET secret = NULL")
            db.execute("DELETE FROM meta WHERE name = 'organiser'")

    def counts(self) -> dict[str, int]:
        """How many items, gold items, rankings, skips and flags there are."""
        with self.reading() as db:
            one = lambda query: int(db.execute(query).fetchone()[0])  # noqa: E731
            return {
                "items": one("SELECT count(*) FROM item"),
                "gold": one("SELECT count(*) FROM item WHERE is_gold"),
                "rankings": one("SELECT count(*) FROM showing WHERE state = 'ranked'"),
                "skips": one("SELECT count(*) FROM showing WHERE state = 'skipped'"),
                "flags": len(self.flags()),
            }

    # ---------------------------------------------------------------------------------------------- showings

    def showing(self, id: int, rater: int) -> Showing | None:
        """A showing of this rater's with its texts; None if there is none, or it is another's."""
        with self.reading() as db:
            row = db.execute("SELECT * FROM showing WHERE id = ? AND rater = ?", (id, rater)).fetchone()
            return None if row is None else self._whole(db, row)

    def _whole(self, db: sqlite3.Connection, row: sqlite3.Row) -> Showing:
        prompt, answers = _content(db, row["item"])
        latest = "SELECT tiers, line, comment, id FROM event WHERE showing = ? AND kind = ? ORDER BY id DESC LIMIT 1"
        ranked, draft, flag, skipped = (
            db.execute(latest, (row["id"], kind)).fetchone()
            for kind in ("ranked", "draft", "flagged", "skipped")
        )
        judged = max((event["id"] for event in (ranked, skipped) if event is not None), default=0)
        return Showing(
            id=row["id"],
            item=row["item"],
            rater=row["rater"],
            repeat=row["repeat"],
            shown=tuple(json.loads(row["shown"])),
            state=row["state"],
            version=row["version"],
            prompt=prompt,
            answers=answers,
            order=_order(ranked),
            draft=_order(draft) if draft is not None and draft["id"] > judged else None,
            comment=flag["comment"] or "" if flag is not None else "",
        )

    def look(self, showing: int, rater: int) -> None:
        """Keeps that a showing was shown once more."""
        with self.writing() as db:
            self._own(db, showing, rater)
            db.execute(
                "INSERT INTO event (showing, kind, at) VALUES (?, 'shown', ?)", (showing, self.clock())
            )

    def judge(self, showing: int, rater: int, judged: Judged) -> int:
        """Keeps a ranking or a skip, durably, and returns the showing's version.

        The same key again changes nothing and returns the same. Raises StaleError if the showing has another version than
        the one that was seen, RankingError if the showing is not this rater's or the order does not fit its answers.
        """
        with self.writing() as db:
            row = self._own(db, showing, rater)
            earlier = db.execute("SELECT * FROM event WHERE key = ?", (judged.key,)).fetchone()
            if earlier is not None:
                if earlier["showing"] != showing or _order(earlier) != judged.order:
                    raise StaleError("this key has been used for another judgement; load the page again")
                return int(earlier["version"])
            if row["version"] != judged.seen:
                raise StaleError(
                    f"it was judged elsewhere since (version {row['version']}, this page shows {judged.seen})"
                )
            if judged.order is not None:
                self._fits(db, row["item"], judged.order)
            return self._judge(db, showing, judged)

    def _judge(self, db: sqlite3.Connection, showing: int, judged: Judged) -> int:
        order = judged.order
        db.execute(
            "INSERT INTO event (showing, kind, version, key, at, seconds, tiers, line, weight) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                showing,
                "skipped" if order is None else "ranked",
                judged.seen + 1,
                judged.key,
                self.clock(),
                None if judged.seconds is None else min(max(judged.seconds, 0.0), LONGEST_LOOK),
                None if order is None else json.dumps(order.tiers),
                None if order is None else order.line,
                None if order is None else judged.weight,
            ),
        )
        return judged.seen + 1

    def draft(self, showing: int, rater: int, seen: int, order: Order) -> None:
        """Keeps what is laid out so far. Raises as `judge` does."""
        with self.writing() as db:
            row = self._own(db, showing, rater)
            if row["version"] != seen:
                raise StaleError(
                    f"it was judged elsewhere since (version {row['version']}, this page shows {seen})"
                )
            if any(not 0 <= place < len(json.loads(row["shown"])) for tier in order.tiers for place in tier):
                raise RankingError("the order names an answer that is not there")
            db.execute(
                "INSERT INTO event (showing, kind, at, tiers, line) VALUES (?, 'draft', ?, ?, ?)",
                (showing, self.clock(), json.dumps(order.tiers), order.line),
            )

    def flag(self, showing: int, rater: int, comment: str) -> None:
        """Marks a showing with a comment; an empty one takes the mark away. Raises RankingError if it is too long."""
        if len(comment) > LONGEST_COMMENT:
            raise RankingError(
                f"a comment has at most {LONGEST_COMMENT} characters, and this has {len(comment)}"
            )
        with self.writing() as db:
            self._own(db, showing, rater)
            db.execute(
                "INSERT INTO event (showing, kind, at, comment) VALUES (?, 'flagged', ?, ?)",
                (showing, self.clock(), comment.strip()),
            )

    def history(self, rater: int, *, before: int | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """What this rater has judged, the latest first: `id`, `state`, `at`, the prompt's text, `comment`, and `place`, from
        which the next page goes on as `before`."""
        with self.reading() as db:
            rows = db.execute(
                """
                SELECT showing.id, showing.state, max(event.id) AS place, max(event.at) AS at, content.prompt,
                    (SELECT comment FROM event AS flag WHERE flag.showing = showing.id AND flag.kind = 'flagged'
                     ORDER BY flag.id DESC LIMIT 1) AS comment
                FROM showing JOIN event ON event.showing = showing.id AND event.version IS NOT NULL
                JOIN content ON content.item = showing.item
                WHERE showing.rater = ? AND showing.version > 0 GROUP BY showing.id
                HAVING place < ? ORDER BY place DESC LIMIT ?
                """,
                (rater, before if before is not None else 2**62, limit),
            )
            return [{**dict(row), "prompt": json.loads(row["prompt"])} for row in rows]

    # ---------------------------------------------------------------------------------------------- what people said

    def rankings(self, *, repeats: bool = False, gold: bool = False) -> list[Ranking]:
        """The rankings that count, item after item, the answers in the item's own order.

        Second rankings of a repeat, and those of gold items, are left out unless they are asked for.
        """
        with self.reading() as db:
            rows = db.execute(
                """
                SELECT showing.item, rater.name, event.tiers, event.line, event.weight
                FROM showing JOIN event ON event.showing = showing.id AND event.version = showing.version
                JOIN rater ON rater.id = showing.rater JOIN item ON item.id = showing.item
                WHERE showing.state = 'ranked' AND (showing.repeat = 0 OR ?) AND (item.is_gold = 0 OR ?)
                ORDER BY showing.item, showing.id
                """,
                (repeats, gold),
            ).fetchall()
            found: list[Ranking] = []
            item: int | None = None
            prompt: Prompt | None = None
            answers: tuple[Answer, ...] = ()
            for row in rows:
                if row["item"] != item:
                    item = row["item"]
                    prompt, answers = _content(db, item)
                order = _order(row)
                assert prompt is not None
                assert order is not None
                found.append(
                    Ranking(
                        prompt=prompt,
                        answers=answers,
                        order=order.tiers,
                        line=order.line,
                        rater=row["name"],
                        weight=row["weight"],
                    )
                )
            return found

    def flags(self) -> list[dict[str, Any]]:
        """Every flag that stands: `prompt_id`, `prompt`, `rater`, `comment`."""
        with self.reading() as db:
            rows = db.execute(
                """
                SELECT content.prompt_id, content.prompt, rater.name AS rater, event.comment
                FROM event JOIN showing ON showing.id = event.showing JOIN rater ON rater.id = showing.rater
                JOIN content ON content.item = showing.item
                WHERE event.id IN (SELECT max(id) FROM event WHERE kind = 'flagged' GROUP BY showing)
                    AND event.comment <> '' ORDER BY event.id
                """
            )
            return [{**dict(row), "prompt": json.loads(row["prompt"])} for row in rows]

    def backup(self, path: str | Path) -> None:
        """A copy as of now, whole, while others go on. Raises RunError if it cannot be written."""
        if Path(path).resolve() == self.path.resolve():
            raise RankingError(f"{path}: a backup of a file cannot be that file. Name another place.")
        with atomic_file(path, flag=None) as temporary, _told(self.path):
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            copy = sqlite3.connect(temporary, isolation_level=None)
            try:
                self._connection().backup(
                    copy
                )  # all pages in one go: writers need not wait for it in WAL mode
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside
            finally:
                copy.close()

    def _own(self, db: sqlite3.Connection, showing: int, rater: int) -> sqlite3.Row:
        row: sqlite3.Row | None = db.execute(
            "SELECT * FROM showing WHERE id = ? AND rater = ?", (showing, rater)
        ).fetchone()
        if row is None:
            raise RankingError("this item was not shown to you")
        return row

    def _fits(self, db: sqlite3.Connection, item: int, order: Order) -> None:
        prompt, answers = _content(db, item)
        try:
            Ranking(prompt=prompt, answers=answers, order=order.tiers, line=order.line)
        except ValueError as error:
            raise RankingError(str(error)) from error
        if not order.tiers and order.line is None:
            raise RankingError("the order is empty. Place an answer, draw the line, or skip")


def _content(db: sqlite3.Connection, item: int) -> tuple[Prompt, tuple[Answer, ...]]:
    row = db.execute("SELECT * FROM content WHERE item = ?", (item,)).fetchone()
    content = json.loads(row["prompt"])
    prompt = Prompt(
        id=row["prompt_id"],
        content=content if isinstance(content, str) else tuple(content),
        columns=json.loads(row["columns"]),
        weight=row["weight"],
    )
    answers = tuple(
        Answer(
            text=answer["text"],
            token_ids=None if answer["token_ids"] is None else tuple(json.loads(answer["token_ids"])),
            source=answer["source"],
        )
        for answer in db.execute("SELECT * FROM answer WHERE item = ? ORDER BY place", (item,))
    )
    return prompt, answers


def _order(row: sqlite3.Row | None) -> Order | None:
    if row is None or row["tiers"] is None:
        return None
    return Order(tiers=tuple(tuple(tier) for tier in json.loads(row["tiers"])), line=row["line"])


def _rater(row: sqlite3.Row) -> Rater:
    return Rater(id=row["id"], name=row["name"], secret=row["secret"])


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """SQLite's errors, and the system's, as a sentence with what to do."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith("SQLITE_FULL"):
            raise RankingError(
                f"{path}: the disk is full. What was saved before is safe; this was not saved. Make room, and send it again."
            ) from error
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise RankingError(damaged(path, str(error))) from error
        if name.startswith(
            ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_BUSY", "SQLITE_PERM")
        ):
            raise RankingError(
                f"{path}: the database cannot be used: {error}. What was saved before is safe. Look at the disk, and who may "
                "write this file and its folder."
            ) from error
        raise
    except OSError as error:
        raise RankingError(
            f"{path}: cannot be made: {error.strerror or error}. Choose another place."
        ) from error
