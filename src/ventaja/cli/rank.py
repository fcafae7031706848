"""`ventaja rank`: opens the page; and what goes into its file and comes out of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from rich import box
from rich.console import Console
from rich.table import Table

from ventaja.cli.arguments import Parser, read_config
from ventaja.errors import ConfigError, DataError, did_you_mean
from ventaja.rankings import (
    Added,
    Item,
    Plan,
    SetAside,
    Store,
    agreement,
    read_items,
    read_rankings,
    write_pairs,
    write_rankings,
)
from ventaja.rankings.items import items_of
from ventaja.settings import Settings
from ventaja.training.config import Config


class ShareSettings(Settings):
    """Open the page to a network, over TLS. Without these it can be reached from this machine only."""

    address: str
    """The IP address of this machine to be reached by."""
    certificate: Path
    """A PEM file: the certificate of that address or name, and those that it rests on."""
    key: Path
    """A PEM file: the certificate's key, without a passphrase."""
    name: str | None = None
    """The name of this machine in links, if the certificate is for a name."""


class RankConfig(Config):
    """A page on which people rank answers (`ventaja rank`)."""

    store: Path
    """The file that keeps it all, such as rankings.db; it is made if it is not there."""
    items: tuple[str, ...] = ()
    """Files with answers to be ranked, to add before the page opens; what is there already is not added twice."""
    raters: tuple[str, ...] = ()
    """Who ranks, by name; each gets a secret link. If unset, those who had one before, and else one called me."""
    raters_per_item: int = Field(1, ge=1)
    """So many people rank each item."""
    order: Literal["given", "random", "uncertain"] = "random"
    """What comes next: as in the files; at random; or where the scores of `ventaja rank prioritise` are highest."""
    gold_every: int | None = Field(None, ge=2)
    """On average one in so many items is a gold item (`ventaja rank import --gold`); if unset, none is shown."""
    repeat_every: int | None = Field(None, ge=2)
    """On average one in so many items is one that the rater has ranked before, to see whether they say the same."""
    abandoned_after: float = Field(30.0, gt=0)
    """Minutes without a sign of life, after which an item that somebody left open goes to others too."""
    seed: int = Field(0, ge=0)
    """Of every draw: the order of answers, when gold and repeats come."""
    port: int = Field(8765, ge=1, le=65535)
    """Where the page is: http://127.0.0.1:PORT."""
    new_links: bool = False
    """Make all links anew, so that earlier ones open nothing any more."""
    share: ShareSettings | None = None

    @field_validator("raters")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = next((name for name in value if value.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is there twice; every rater has a name of their own")
        return value

    @property
    def plan(self) -> Plan:
        return Plan(
            raters_per_item=self.raters_per_item,
            way=self.order,
            gold_every=self.gold_every,
            repeat_every=self.repeat_every,
            abandoned_after=self.abandoned_after * 60,
            seed=self.seed,
        )


def rank(argv: list[str]) -> None:
    """`ventaja rank`, and its forms."""
    if argv and argv[0] in FORMS:
        FORMS[argv[0]](argv[1:])
        return
    forms = "\n".join(f"ventaja rank {name} --help" for name in FORMS)
    if argv and not argv[0].startswith("-") and not Path(argv[0]).exists() and Path(argv[0]).suffix == "":
        near = did_you_mean(argv[0], FORMS)
        if near:
            raise ConfigError(
                f"ventaja rank {argv[0]}: there is no such form.{near} There are: {', '.join(FORMS)}."
            )
    config = read_config(
        RankConfig,
        argv,
        prog="ventaja rank",
        description="Open a page on which people rank answers. Other forms: "
        + ", ".join(forms.split("\n"))
        + ".",
        positional="store",
    )
    _serve(config)


def _serve(config: RankConfig) -> None:
    from ventaja.web.ranking import ranking_app
    from ventaja.web.safety import local_site
    from ventaja.web.serving import serve, shared_site

    share = config.share
    site = local_site(config.port) if share is None else shared_site(share.address, share.name, config.port)
    # Before a store is made: the answers are read first, so that a wrong name leaves nothing behind.
    found = [(path, *read_items(path)) for path in config.items]
    with Store(config.store) as store:
        for path, items, aside in found:
            _tell_added(path, store.add(items), _set_aside(path, aside))
        if not store.counts()["items"]:
            raise DataError(
                f"{config.store}: there is nothing to rank yet. Add answers: --items answers.parquet "
                "(ventaja sample makes such a file), or a run's folder."
            )
        if config.new_links:
            store.renew_links()
        names = config.raters or tuple(r.name for r in store.raters() if r.secret is not None) or ("me",)
        raters = [store.rater(name) for name in names]
        app = ranking_app(store, config.plan, raters, site)
        print("Open your own link; Ctrl-C ends the page, and nothing is lost.")
        width = max(len(name) for name in (*names, "(agreement)"))
        for rater in raters:
            print(f"  {rater.name:<{width}}  {site.url}/#{rater.secret}")
        print(f"  {'(agreement)':<{width}}  {site.url}/#{store.organiser()}", flush=True)
        serve(app, site, certificate=share.certificate if share else None, key=share.key if share else None)


def _import(argv: list[str]) -> None:
    parser = Parser(
        prog="ventaja rank import", description="Add answers to rank, or rankings that exist, to a store."
    )
    parser.add_argument("store", metavar="STORE", help="The file that keeps it all; made if it is not there.")
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="Groups of answers (Parquet), a run's folder, or JSON lines of prompt and answers; "
        "with --rankings or --gold a file of rankings.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--rankings", action="store_true", help="The files hold rankings: keep them, with their raters."
    )
    what.add_argument("--gold", action="store_true", help="The files hold right orders, to test raters with.")
    given = parser.parse_args(argv)
    found: list[tuple[str, list[Item], list[SetAside]]] = []
    for path in given.files:
        if given.rankings or given.gold:
            found.append((path, items_of(read_rankings(path, say=print), gold=given.gold), []))
        else:
            found.append((path, *read_items(path)))
    with Store(given.store) as store:
        for path, items, aside in found:
            _tell_added(path, store.add(items), _set_aside(path, aside))


def _export(argv: list[str]) -> None:
    parser = Parser(
        prog="ventaja rank export", description="Write what people said to a file of rankings, or of pairs."
    )
    parser.add_argument("store", metavar="STORE", help="The file that keeps it all.")
    parser.add_argument("output", metavar="OUTPUT", help="A file that ends in .jsonl or .parquet.")
    parser.add_argument(
        "--pairs", action="store_true", help="Write prompt, chosen and rejected, for other libraries."
    )
    parser.add_argument(
        "--repeats", action="store_true", help="With second rankings of the same item by the same rater."
    )
    parser.add_argument("--gold", action="store_true", help="With the rankings of gold items.")
    given = parser.parse_args(argv)
    if Path(given.output).suffix not in {".jsonl", ".parquet"}:
        raise ConfigError(
            f"OUTPUT: {given.output} should end in .jsonl or .parquet, which says what is written."
        )
    with Store(given.store, create=False) as store:
        rankings = store.rankings(repeats=given.repeats, gold=given.gold)
        if not rankings:
            raise DataError(f"{given.store}: nobody has ranked anything yet, so there is nothing to export.")
        if given.pairs:
            pairs = write_pairs(given.output, rankings, say=print)
            what = f"{pairs} pairs, from {len(rankings)} rankings,"
        else:
            write_rankings(given.output, rankings)
            what = f"{len(rankings)} rankings"
        flags, counts = store.flags(), store.counts()
    print(f"{what} are in {given.output}; {counts['skips']} items were skipped.")
    if flags:
        beside = Path(given.output).with_suffix(".flags.jsonl")
        _write_lines(beside, flags)
        print(f"{len(flags)} flags, with their comments, are in {beside}.")


def _backup(argv: list[str]) -> None:
    parser = Parser(
        prog="ventaja rank backup", description="Copy a store as of now, while people go on ranking."
    )
    parser.add_argument("store", metavar="STORE", help="The file that keeps it all.")
    parser.add_argument("output", metavar="OUTPUT", help="The copy.")
    given = parser.parse_args(argv)
    with Store(given.store, create=False) as store:
        store.backup(given.output)
    with Store(given.output, create=False) as copy:  # which looks whether it is whole
        print(f"{given.output} holds {copy.counts()['rankings']} rankings of {copy.counts()['items']} items.")


def _agreement(argv: list[str]) -> None:
    parser = Parser(prog="ventaja rank agreement", description="How far raters agree, as of now.")
    parser.add_argument("store", metavar="STORE", help="The file that keeps it all.")
    given = parser.parse_args(argv)
    with Store(given.store, create=False) as store:
        found = agreement(store)
    part = lambda value: "–" if value is None else f"{value:.0%}"  # noqa: E731
    print(f"Krippendorff's α, ordinal: {'–' if found.alpha is None else f'{found.alpha:.2f}'}")
    print(f"Pairs ordered alike: {part(found.pairs)}, over {found.compared} items with two rankings or more")
    print(f"Same side of the line: {part(found.line)}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("rater", "rankings", "with others", "with themselves", "on gold"):
        table.add_column(column, justify="left" if column == "rater" else "right")
    for rater in found.raters:
        table.add_row(
            rater.name, str(rater.ranked), part(rater.with_others), part(rater.with_self), part(rater.on_gold)
        )
    Console().print(table)


def _prioritise(argv: list[str]) -> None:
    parser = Parser(
        prog="ventaja rank prioritise",
        description="Say of which prompts somebody is unsure; with --order uncertain those come first.",
    )
    parser.add_argument("store", metavar="STORE", help="The file that keeps it all.")
    parser.add_argument(
        "scores", metavar="SCORES.jsonl", help='Lines of {"id": the prompt\'s, "uncertainty": a number}.'
    )
    given = parser.parse_args(argv)
    scores = {}
    try:
        lines = Path(given.scores).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{given.scores}: cannot be read: {error}.") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            scores[str(row["id"])] = float(row["uncertainty"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{given.scores}:{number}: no 'id' with an 'uncertainty' that is a number ({error}). Mend or drop the line."
            ) from error
    with Store(given.store, create=False) as store:
        changed, unknown = store.prioritise(scores)
    print(f"{changed} items have a score now.")
    if unknown:
        print(f"{len(unknown)} prompts are in no item, such as {unknown[0]!r}.")


FORMS: dict[str, Callable[[list[str]], None]] = {
    "import": _import,
    "export": _export,
    "backup": _backup,
    "agreement": _agreement,
    "prioritise": _prioritise,
}
"""What stands behind `ventaja rank` in the place of a store; a store with such a name is written `./import`."""


def _tell_added(path: str, added: Added, aside: Path | None) -> None:
    there = f", {added.known} were there already" if added.known else ""
    print(f"{path}: {added.new} items are new{there}.")
    if added.rankings or added.said_before:
        left_out = f"; {added.said_before} are left out, for their raters have ranked that item before"
        print(f"  {added.rankings} rankings are kept{left_out if added.said_before else ''}.")
    if aside is not None:
        print(f"  What cannot be ranked, and why, is in {aside}.")


def _set_aside(path: str, rows: list[SetAside]) -> Path | None:
    """Writes what cannot be used to a file beside, and says so."""
    if not rows:
        return None
    place = Path(path)
    beside = place.with_name(f"{place.stem}.rejected.jsonl")
    _write_lines(beside, [{"where": row.where, "why": row.why, "row": row.row} for row in rows])
    print(f"{len(rows)} of {path} set aside; the first: {rows[0].where}: {rows[0].why}.")
    return beside


def _write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    from ventaja.disk import atomic_file

    with atomic_file(path, flag=None) as temporary:
        # ASCII, so that half of a surrogate pair can be written too.
        temporary.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
