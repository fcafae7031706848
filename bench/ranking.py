"""Raters who rank all at once while the server is killed every few seconds: is anything lost, or there twice?

    python bench/ranking.py --seconds 60 --raters 20 --kill_every 4

Each rater is a thread that asks for the next item, submits an order, and writes down what was confirmed; a submit whose
answer was lost is sent again, as the page does. In the end the store is compared with what was written down. Also: how
long a page takes at so many items.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ventaja.rankings import Item, Store
from ventaja.records import Answer, Prompt


@dataclass
class Told:
    """What the raters were told."""

    confirmed: list[tuple[str, int, str]] = field(default_factory=list)
    """(rater, showing, tiers) of every submit that was confirmed."""
    seconds: list[float] = field(default_factory=list)
    """Of every page."""
    wrong: list[str] = field(default_factory=list)
    """Answers that no rater should get."""
    over: threading.Event = field(default_factory=threading.Event)
    """Set when nobody is to begin another item."""


def storm(
    folder: Path, *, seconds: float, raters: int, kill_every: float, items: int, most_kills: int = 1_000_000
) -> dict[str, object]:
    """Runs it for so many seconds or kills, and returns what came of it. A server that has not kept anything yet is not killed:
    on a machine that is busy, or that takes long to start one, it would be for nothing."""
    path = folder / "rankings.db"
    secrets = _store(path, [f"rater{n}" for n in range(raters)], items)
    port = _free_port()
    command = _command(path, port)
    end = time.monotonic() + seconds
    told = Told()
    threads = [
        threading.Thread(target=_rate, args=(name, secret, port, told)) for name, secret in secrets.items()
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for thread in threads:
        thread.start()
    kills, before = 0, 0
    while time.monotonic() < end and kills < most_kills:
        time.sleep(kill_every)
        while len(told.confirmed) == before and time.monotonic() < end:
            time.sleep(0.1)
        process.kill()
        process.wait()
        kills, before = kills + 1, len(told.confirmed)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    told.over.set()
    for thread in threads:
        thread.join()
    process.kill()
    process.wait()
    return {"kills": kills, **_compare(path, told)}


def _rate(name: str, secret: str, port: int, told: Told) -> None:
    chance = random.Random(name)
    while not told.over.is_set():
        began = time.perf_counter()
        page = _ask(port, secret, "GET", "/rank.json")
        if page is None:
            continue
        told.seconds.append(time.perf_counter() - began)
        if page[0] != 200:
            told.wrong.append(f"{name}: {page}")
            continue
        showing = page[1]["showing"]
        if showing is None:
            return
        order = list(range(4))
        chance.shuffle(order)
        tiers = [[n] for n in order]
        body = {
            "key": f"{chance.getrandbits(64):016x}",
            "seen": page[1]["version"],
            "tiers": tiers,
            "line": 2,
        }
        kept = None
        while kept is None:  # the same submit again, until it is answered: the server comes back
            kept = _ask(port, secret, "POST", f"/item/{showing}/judge", body)
        if kept[0] == 200:
            told.confirmed.append((name, int(str(showing)), json.dumps(tiers)))
        else:
            told.wrong.append(f"{name}: {kept}")


def _compare(path: Path, told: Told) -> dict[str, object]:
    """What was confirmed beside what is kept."""
    with Store(path, create=False) as store, store.reading() as db:
        rows = db.execute(
            """
            SELECT rater.name, showing.id, showing.item, showing.shown, event.tiers FROM event
            JOIN showing ON showing.id = event.showing JOIN rater ON rater.id = showing.rater
            WHERE event.kind = 'ranked'
            """
        ).fetchall()
    kept = Counter()
    for row in rows:
        at = {place: number for number, place in enumerate(json.loads(row["shown"]))}
        kept[
            row["name"], row["id"], json.dumps([[at[p] for p in tier] for tier in json.loads(row["tiers"])])
        ] += 1
    per_item = Counter(row["item"] for row in rows)
    per_rater_and_item = Counter((row["name"], row["item"]) for row in rows)
    pages = sorted(told.seconds)
    return {
        "confirmed": len(told.confirmed),
        "kept": sum(kept.values()),
        "lost": sum(1 for one in told.confirmed if one not in kept),
        "doubled": sum(times - 1 for times in per_rater_and_item.values()),
        "too many raters": sum(1 for times in per_item.values() if times > 2),
        "wrong answers": told.wrong[:5],
        "page among all raters, median ms": _ms(pages, 0.5),
    }


def calm(folder: Path, *, items: int, pages: int = 300) -> dict[str, object]:
    """One rater: how long a page takes, and keeping what was submitted."""
    path = folder / "calm.db"
    secret = _store(path, ["rater0"], items)["rater0"]
    port = _free_port()
    process = subprocess.Popen(_command(path, port), stdout=subprocess.DEVNULL)
    page_seconds, judge_seconds = [], []
    try:
        while (page := _ask(port, secret, "GET", "/rank.json")) is None:
            pass
        for n in range(pages):
            began = time.perf_counter()
            _ask(port, secret, "GET", "/rank", parse=False)
            page_seconds.append(time.perf_counter() - began)
            page = _ask(port, secret, "GET", "/rank.json")
            assert page is not None
            body = {"key": f"key-{n:08}", "seen": 0, "tiers": [[0], [1]], "line": None}
            began = time.perf_counter()
            kept = _ask(port, secret, "POST", f"/item/{page[1]['showing']}/judge", body)
            judge_seconds.append(time.perf_counter() - began)
            assert kept == (200, {"saved": True, "version": 1})
    finally:
        process.kill()
        process.wait()
    return {
        "items": items,
        "page, median ms": _ms(page_seconds, 0.5),
        "page, 95 % ms": _ms(page_seconds, 0.95),
        "submit, median ms": _ms(judge_seconds, 0.5),
    }


def _ms(seconds: list[float], part: float) -> float | None:
    return round(1000 * sorted(seconds)[int(part * len(seconds))], 1) if seconds else None


def _store(path: Path, names: list[str], items: int) -> dict[str, str]:
    """A store with so many items; the secrets of its raters."""
    with Store(path) as store:
        store.add(
            Item(
                prompt=Prompt(id=f"p{n}", content=f"Question {n}?"),
                answers=tuple(Answer(text=f"Answer {k} to {n}. " * 40) for k in range(4)),
            )
            for n in range(items)
        )
        return {name: str(store.rater(name).secret) for name in names}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _command(path: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "ventaja", "rank", str(path), "--port", str(port), "--raters_per_item", "2"]


def _ask(
    port: int, secret: str, method: str, path: str, body: object = None, *, parse: bool = True
) -> tuple[int, dict[str, object]] | None:
    """The answer; None if it was lost."""
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if parse else {}
    except (OSError, http.client.HTTPException, ValueError):
        time.sleep(0.1)
        return None
    finally:
        connection.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--raters", type=int, default=20)
    parser.add_argument("--kill_every", type=float, default=4)
    parser.add_argument("--items", type=int, default=10_000)
    given = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as folder:
        for result in (calm(Path(folder), items=given["items"]), storm(Path(folder), **given)):
            for name, value in result.items():
                print(f"{name}: {value}", flush=True)
