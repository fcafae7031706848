"""The tables in which rankings are kept, and whether a file holds them.

What was shown, to whom, in which order, how long it took and each change are rows of `event`, which nothing alters
afterwards: triggers refuse it. What is read often (a showing's state and version, how many rankings an item has) is a
projection of the events that other triggers keep, in the same transaction.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ventaja.errors import RankingError

APPLICATION = 0x56524E4B
"""`VRNK`: marks a database as ours (SQLite's application_id)."""
VERSION = 1
"""Of the tables (SQLite's user_version). A file with a higher one is refused."""

TABLES = """
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- Narrow, because it is searched for what comes next; the texts stand beside.
CREATE TABLE item (
    id INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,        -- of prompt and answers: the same item is not added twice
    shuffle INTEGER NOT NULL,           -- its place in the random order
    uncertainty REAL NOT NULL DEFAULT 0,
    is_gold INTEGER NOT NULL DEFAULT 0 CHECK (is_gold IN (0, 1)),
    gold_tiers TEXT,
    gold_line INTEGER,
    rankings INTEGER NOT NULL DEFAULT 0 -- projection: how many raters have ranked it
) STRICT;

CREATE TABLE content (
    item INTEGER PRIMARY KEY REFERENCES item (id),
    prompt_id TEXT NOT NULL,
    prompt TEXT NOT NULL,               -- JSON: text or messages
    columns TEXT NOT NULL,              -- JSON
    weight REAL NOT NULL
) STRICT;

CREATE TABLE answer (
    item INTEGER NOT NULL REFERENCES item (id),
    place INTEGER NOT NULL,
    text TEXT NOT NULL,
    token_ids TEXT,                     -- JSON, or NULL where only the text is known
    source TEXT NOT NULL,
    PRIMARY KEY (item, place)
) STRICT;

CREATE TABLE rater (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    secret TEXT UNIQUE                  -- of the rater's link; NULL for one who only came with a file
) STRICT;

-- One item in front of one rater, in one order of its answers. A repeat is another showing.
CREATE TABLE showing (
    id INTEGER PRIMARY KEY,
    item INTEGER NOT NULL REFERENCES item (id),
    rater INTEGER NOT NULL REFERENCES rater (id),
    repeat INTEGER NOT NULL,
    shown TEXT NOT NULL,                -- JSON: places of the answers, as they stand on the page
    opened_at REAL NOT NULL,
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'ranked', 'skipped', 'released')), -- projection
    version INTEGER NOT NULL DEFAULT 0,                                                            -- projection
    touched_at REAL NOT NULL,                                                                      -- projection
    UNIQUE (item, rater, repeat)
) STRICT;
CREATE INDEX showing_of_rater ON showing (rater, state, id);

CREATE TABLE event (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    showing INTEGER NOT NULL REFERENCES showing (id),
    kind TEXT NOT NULL CHECK (kind IN ('shown', 'draft', 'ranked', 'skipped', 'flagged', 'released', 'reopened')),
    version INTEGER,                    -- of a judgement (ranked, skipped): 1, 2, … within its showing
    key TEXT UNIQUE,                    -- chosen by the page, so that a submit that is sent twice counts once
    at REAL NOT NULL,                   -- seconds since 1970
    seconds REAL,                       -- how long the rater looked
    tiers TEXT,                         -- JSON: places of the answers, best first
    line INTEGER,
    weight REAL,
    comment TEXT,
    UNIQUE (showing, version),
    CHECK ((kind IN ('ranked', 'skipped')) = (version IS NOT NULL)),
    CHECK ((kind IN ('ranked', 'draft')) = (tiers IS NOT NULL))
) STRICT;
CREATE INDEX event_of_showing ON event (showing, kind, id);

CREATE TRIGGER events_stay BEFORE UPDATE ON event
    BEGIN SELECT RAISE (ABORT, 'an event is never changed'); END;
CREATE TRIGGER events_are_kept BEFORE DELETE ON event
    BEGIN SELECT RAISE (ABORT, 'an event is never deleted'); END;
CREATE TRIGGER showings_stay BEFORE UPDATE OF item, rater, repeat, shown, opened_at ON showing
    BEGIN SELECT RAISE (ABORT, 'what was shown is never changed'); END;

CREATE TRIGGER event_moves_its_showing AFTER INSERT ON event BEGIN
    UPDATE showing SET
        touched_at = NEW.at,
        version = coalesce (NEW.version, version),
        state = CASE WHEN NEW.kind IN ('ranked', 'skipped', 'released') THEN NEW.kind
            WHEN NEW.kind = 'reopened' THEN 'open' ELSE state END
    WHERE id = NEW.showing;
END;
CREATE TRIGGER ranking_counts AFTER UPDATE OF state ON showing WHEN NEW.repeat = 0 BEGIN
    UPDATE item SET rankings = rankings + (NEW.state = 'ranked') - (OLD.state = 'ranked') WHERE id = NEW.item;
END;
"""


def connect(path: Path) -> sqlite3.Connection:
    """A connection that waits for other writers, holds to foreign keys, and whose commits are on the disk.

    Transactions are begun by hand (`BEGIN IMMEDIATE`).
    """
    connection = sqlite3.connect(path, timeout=20, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Makes the tables in a new file, and looks whether an old one can be used. Raises RankingError if not."""
    application, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if empty and (application, version) == (0, 0):
        connection.execute("PRAGMA journal_mode = WAL")
        # One transaction: a process that is killed here leaves an empty file, which the next one fills.
        connection.executescript(
            f"BEGIN IMMEDIATE; {TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT;"
        )
        return
    if application != APPLICATION:
        raise RankingError(
            f"{path}: this is a database of something else, not a store of rankings. Name another file; a new one is made."
        )
    if version > VERSION:
        raise RankingError(
            f"{path}: it was written by a newer Ventaja (tables of version {version}; this one knows {VERSION}). Nothing was "
            "changed. Update Ventaja (pip install -U ventaja), or export there and import here."
        )
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise RankingError(damaged(path, str(found)))
    connection.execute("PRAGMA journal_mode = WAL")


def damaged(path: Path, found: str) -> str:
    """The sentence for a file that SQLite cannot read."""
    return (
        f"{path}: the database is damaged, or is none ({found}). Nothing was changed. Put the last backup in its place "
        f"(ventaja rank backup), or save what can be read: sqlite3 {path} .recover | sqlite3 saved.db"
    )
