"""How far raters agree: with each other, with themselves, and with the right order of gold items."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ventaja.rankings.alpha import ordinal_alpha
from ventaja.rankings.store import Store

Ranks = tuple[float, ...]
"""One ranking as the rank of each answer, 1 for the best; tied answers share the mean of their ranks, and so do those that
were not placed."""


@dataclass(frozen=True, kw_only=True)
class RaterAgreement:
    """One rater beside the others. A fraction is None where there is nothing to compare."""

    name: str
    ranked: int
    with_others: float | None
    """Of all pairs of answers that another rater has ordered too: the part that both order alike."""
    with_self: float | None
    """The same between a first ranking and its repeat."""
    on_gold: float | None
    """Of the pairs that the right order tells apart: the part that the rater orders so."""
    repeats: int
    gold: int


@dataclass(frozen=True, kw_only=True)
class ItemAgreement:
    """One item that several have ranked."""

    item: int
    prompt_id: str
    raters: int
    pairs: float
    """Mean over pairs of raters of the part of pairs of answers that both order alike."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The whole."""

    alpha: float | None
    """Krippendorff's α for ordinal data over the ranks of answers: 1 perfect, 0 as by chance, below 0 opposed. None where no
    item has two rankings, or all ranks are the same."""
    pairs: float | None
    """Mean of `ItemAgreement.pairs`."""
    line: float | None
    """Where two raters drew the line: the part of answers that both put on the same side of it."""
    compared: int
    """Items with two rankings or more."""
    raters: tuple[RaterAgreement, ...]
    items: tuple[ItemAgreement, ...]
    """Those with least agreement first."""


@dataclass(frozen=True, kw_only=True)
class _Said:
    item: int
    rater: str
    ranks: Ranks
    is_good: tuple[bool, ...] | None
    repeat: int


def agreement(store: Store) -> Agreement:
    """Of all rankings that count, as of now.

    Pairs that one rater ties and the other does not count as not alike. Repeats count for self-consistency only, gold items
    for accuracy only.
    """
    said, gold, names = _read(store)
    first: dict[int, dict[str, _Said]] = defaultdict(dict)
    again: dict[tuple[int, str], _Said] = {}
    for one in said:
        if one.repeat:
            again[one.item, one.rater] = one
        else:
            first[one.item][one.rater] = one
    alike: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    items = []
    sides = [0, 0]
    for item, by_rater in first.items():
        if item in gold or len(by_rater) < 2:
            continue
        parts = []
        for a, b in itertools.combinations(by_rater.values(), 2):
            same, all_ = _alike(a.ranks, b.ranks)
            parts.append(same / all_)
            for rater in (a.rater, b.rater):
                alike[rater][0] += same
                alike[rater][1] += all_
            if a.is_good is not None and b.is_good is not None:
                sides[0] += sum(x == y for x, y in zip(a.is_good, b.is_good, strict=True))
                sides[1] += len(a.is_good)
        items.append(
            ItemAgreement(
                item=item, prompt_id=names[item], raters=len(by_rater), pairs=sum(parts) / len(parts)
            )
        )
    raters = []
    for rater in sorted({one.rater for one in said}):
        own = [one for one in said if one.rater == rater]
        repeated = [
            _alike(first[item][rater].ranks, one.ranks)
            for (item, name), one in again.items()
            if name == rater and rater in first[item]
        ]
        on_gold = [_right(gold[one.item], one.ranks) for one in own if one.item in gold and not one.repeat]
        raters.append(
            RaterAgreement(
                name=rater,
                ranked=len(own),
                with_others=_part(alike[rater]),
                with_self=_part(map(sum, zip(*repeated, strict=True)) if repeated else (0, 0)),
                on_gold=_part(map(sum, zip(*on_gold, strict=True)) if on_gold else (0, 0)),
                repeats=len(repeated),
                gold=len(on_gold),
            )
        )
    return Agreement(
        alpha=krippendorff_alpha(
            {
                item: {name: one.ranks for name, one in by.items()}
                for item, by in first.items()
                if item not in gold
            }
        ),
        pairs=sum(item.pairs for item in items) / len(items) if items else None,
        line=_part(sides),
        compared=len(items),
        raters=tuple(raters),
        items=tuple(sorted(items, key=lambda item: (item.pairs, item.item))),
    )


def krippendorff_alpha(ranks: Mapping[int, Mapping[str, Ranks]]) -> float | None:
    """Krippendorff's α for ordinal data: a unit is one answer of one item, its value the rank. `ranks[item][rater]`; None as
    in `Agreement.alpha`."""
    compared = {item: by_rater for item, by_rater in ranks.items() if len(by_rater) > 1}
    if not compared:
        return None
    rows = {name: row for row, name in enumerate(sorted({name for by in compared.values() for name in by}))}
    widths = {item: len(next(iter(by.values()))) for item, by in compared.items()}
    table = np.full((len(rows), sum(widths.values())), np.nan)
    column = 0
    for item, by_rater in compared.items():
        for name, own in by_rater.items():
            table[rows[name], column : column + widths[item]] = own
        column += widths[item]
    return ordinal_alpha(table)


def ranks_of(tiers: Sequence[Sequence[int]], answers: int) -> Ranks:
    """The rank of each of so many answers."""
    ranked = {place for tier in tiers for place in tier}
    rest = tuple(place for place in range(answers) if place not in ranked)
    ranks = [0.0] * answers
    above = 0
    for tier in (*tiers, rest):
        for place in tier:
            ranks[place] = above + (len(tier) + 1) / 2
        above += len(tier)
    return tuple(ranks)


def _alike(a: Ranks, b: Ranks) -> tuple[int, int]:
    """How many pairs of answers both order alike, and how many pairs there are."""
    pairs = list(itertools.combinations(range(len(a)), 2))
    return sum(_sign(a[i] - a[j]) == _sign(b[i] - b[j]) for i, j in pairs), len(pairs)


def _right(gold: Ranks, ranks: Ranks) -> tuple[int, int]:
    """How many of the pairs that the right order tells apart are ordered so, and how many those are."""
    told = [(i, j) for i, j in itertools.combinations(range(len(gold)), 2) if gold[i] != gold[j]]
    return sum(_sign(gold[i] - gold[j]) == _sign(ranks[i] - ranks[j]) for i, j in told), len(told)


def _sign(value: float) -> int:
    return int(math.copysign(1, value)) if value else 0


def _part(counts: Iterable[int]) -> float | None:
    some, all_ = counts
    return some / all_ if all_ else None


def _read(store: Store) -> tuple[list[_Said], dict[int, Ranks], dict[int, str]]:
    """What was said, the right ranks of gold items, and the ids of prompts."""
    with store.reading() as db:
        sizes = dict(db.execute("SELECT item, count(*) FROM answer GROUP BY item").fetchall())
        names = dict(db.execute("SELECT item, prompt_id FROM content").fetchall())
        gold = {
            row["id"]: ranks_of(json.loads(row["gold_tiers"]), sizes[row["id"]])
            for row in db.execute("SELECT id, gold_tiers FROM item WHERE is_gold = 1")
        }
        rows = db.execute(
            """
            SELECT showing.item, showing.repeat, rater.name, event.tiers, event.line
            FROM showing JOIN event ON event.showing = showing.id AND event.version = showing.version
            JOIN rater ON rater.id = showing.rater WHERE showing.state = 'ranked' ORDER BY showing.id
            """
        ).fetchall()
    said = []
    for row in rows:
        tiers = json.loads(row["tiers"])
        good = {place for tier in tiers[: row["line"] or 0] for place in tier}
        size = sizes[row["item"]]
        said.append(
            _Said(
                item=row["item"],
                rater=row["name"],
                ranks=ranks_of(tiers, size),
                is_good=None if row["line"] is None else tuple(place in good for place in range(size)),
                repeat=row["repeat"],
            )
        )
    return said, gold, names
