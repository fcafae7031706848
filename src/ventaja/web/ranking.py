"""The ranking page: one prompt with its answers at a time, in an order drawn for this rater, without a word of whose they are.

| address | is |
|---|---|
| `/` | where a secret link leads |
| `/rank` | what is to be ranked next; a POST to `/item/N/…` keeps what was done |
| `/item/N` | an item that this rater has had, to look at and to change |
| `/earlier` | what this rater has judged |
| `/agreement` | for the organiser: how far raters agree, as of now |

Each has a twin that ends in `.json`. In what a page gets and sends, an answer's name is its place on the page, from 0.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from ventaja.errors import RankingError
from ventaja.rankings import (
    Agreement,
    Judged,
    Order,
    Plan,
    Rater,
    Showing,
    StaleError,
    Store,
    agreement,
    next_showing,
    progress,
)
from ventaja.rankings.store import LONGEST_COMMENT
from ventaja.records import Prompt
from ventaja.web.entering import Door
from ventaja.web.pages import page, refused, static_files
from ventaja.web.safety import Guard, Site, TooLarge

LEAST_AGREED = 20
"""Items on the page of agreement."""
PER_PAGE = 50
LARGEST = 2**62
"""Numbers beyond it are no row of a database."""

Places = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Organiser:
    """Who set it up: sees agreement, and ranks nothing."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Enter(_Body):
    secret: str = Field(max_length=200)


class _Draft(_Body):
    seen: int
    tiers: list[Places]
    line: int | None = None


class _Judgement(_Body):
    key: str = Field(min_length=8, max_length=100)
    seen: int
    tiers: list[Places] | None = None
    """None: skipped."""
    line: int | None = None
    seconds: float | None = Field(None, allow_inf_nan=False)


class _Flag(_Body):
    comment: str = Field(max_length=LONGEST_COMMENT)


def ranking_app(store: Store, plan: Plan, raters: Sequence[Rater], site: Site) -> Guard:
    """The application; `raters` are those whose links open it."""
    secrets: dict[str, Rater | Organiser] = {
        rater.secret: rater for rater in raters if rater.secret is not None
    }
    door: Door[Rater | Organiser] = Door(site=site, secrets={**secrets, store.organiser(): Organiser()})
    pages = _Pages(store, plan, door)
    routes = [
        Route("/", pages.front),
        Route("/enter", pages.enter, methods=["POST"]),
        static_files(),
    ]
    for path, endpoint in {
        "/rank": pages.rank,
        "/item/{id:int}": pages.item,
        "/earlier": pages.earlier,
        "/agreement": pages.agreement,
    }.items():
        routes += [Route(path, endpoint), Route(f"{path}.json", endpoint)]
    for action in (pages.draft, pages.judge, pages.flag):
        routes.append(Route(f"/item/{{id:int}}/{action.__name__}", action, methods=["POST"]))
    app = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: refused,
            StaleError: _not_kept(409),
            RankingError: _not_kept(422),
            TooLarge: lambda request, error: JSONResponse({"error": "That is too much at once."}, 413),
            Exception: refused,
        },
    )
    return Guard(app, site=site)  # around all of it, so that a broken page has the headers too


def _not_kept(status: int) -> Callable[[Request, Exception], Response]:
    def respond(request: Request, error: Exception) -> Response:
        return refused(request, HTTPException(status, str(error)))

    return respond


class _Pages:
    """What each address answers."""

    def __init__(self, store: Store, plan: Plan, door: Door[Rater | Organiser]) -> None:
        self.store = store
        self.plan = plan
        self.door = door
        self._agreement: tuple[int, Agreement] | None = None
        self._computing = threading.Lock()

    # ------------------------------------------------------------------------------------------ coming in

    def front(self, request: Request) -> Response:
        values = {"title": "Ranking", "data": {}}
        return page(request, "enter.html", values)

    async def enter(self, request: Request) -> Response:
        body = await _read(request, _Enter)
        who = self.door.known(body.secret)
        if who is None:
            raise HTTPException(403, "This link is not valid, or not any more. Ask for a new one.")
        response = JSONResponse({"next": "/agreement" if isinstance(who, Organiser) else "/rank"})
        self.door.let_in(response, body.secret)
        return response

    def _rater(self, request: Request) -> Rater:
        who = self.door.visitor(request)
        if who is None:
            raise HTTPException(403, "Open this page by your own link.")
        if isinstance(who, Organiser):
            raise HTTPException(
                403, "This link is the organiser's, and ranks nothing. Raters have their own."
            )
        return who

    # ------------------------------------------------------------------------------------------ pages

    def rank(self, request: Request) -> Response:
        if isinstance(self.door.visitor(request), Organiser) and not request.url.path.endswith(".json"):
            return RedirectResponse("/agreement", 303)
        rater = self._rater(request)
        showing = next_showing(self.store, rater, self.plan)
        return self._ranking_page(request, rater, showing)

    def item(self, request: Request) -> Response:
        rater = self._rater(request)
        _, showing = self._shown(request)
        self.store.look(showing.id, rater.id)
        return self._ranking_page(request, rater, showing)

    def _ranking_page(self, request: Request, rater: Rater, showing: Showing | None) -> Response:
        stand = progress(self.store, rater, self.plan)
        latest = self.store.history(rater.id, limit=2)
        before = next((row["id"] for row in latest if showing is None or row["id"] != showing.id), None)
        data: dict[str, Any] = {"showing": None, "progress": asdict(stand), "before": before}
        texts: list[str] = []
        if showing is not None:
            texts = [showing.answers[place].text for place in showing.shown]
            data |= {
                "showing": showing.id,
                "version": showing.version,
                "state": showing.state,
                "prompt": showing.prompt.content,
                "answers": texts,
                "ranking": _on_page(showing, showing.order),
                "draft": _on_page(showing, showing.draft),
                "comment": showing.comment,
            }
        values = {
            "title": "Rank",
            "rater": rater.name,
            "data": data,
            "progress": stand,
            "messages": None if showing is None else _messages(showing.prompt),
            "answers": texts,
            # The texts are in the page already; the script needs the rest.
            "state": {
                key: value for key, value in data.items() if key not in ("prompt", "answers", "progress")
            }
            | {"answers": len(texts)},
            "longest_comment": LONGEST_COMMENT,
        }
        return page(request, "done.html" if showing is None else "rank.html", values)

    def earlier(self, request: Request) -> Response:
        rater = self._rater(request)
        before = request.query_params.get("before", "")
        rows = self.store.history(
            rater.id,
            before=min(int(before), LARGEST)
            if before.isascii() and before.isdigit() and len(before) < 20
            else None,
            limit=PER_PAGE,
        )
        for row in rows:
            row["prompt"] = _first_words(row["prompt"])
            row["comment"] = row["comment"] or ""
        further = rows[-1]["place"] if len(rows) == PER_PAGE else None
        data = {"judged": rows, "before": further}
        return page(request, "earlier.html", {"title": "Earlier", "rater": rater.name, "data": data})

    def agreement(self, request: Request) -> Response:
        if not isinstance(self.door.visitor(request), Organiser):
            raise HTTPException(403, "Agreement is for the organiser: raters who see it are swayed by it.")
        found = self._agreed()
        data = asdict(found) | {
            "items": [asdict(item) for item in found.items[:LEAST_AGREED]],
            "counts": self.store.counts(),
            "flags": [
                {**flag, "prompt": _first_words(flag["prompt"]), "prompt_id": flag["prompt_id"]}
                for flag in self.store.flags()
            ],
        }
        return page(request, "agreement.html", {"title": "Agreement", "data": data, "percent": _percent})

    def _agreed(self) -> Agreement:
        """Computed once for what has been said."""
        with self._computing:
            with self.store.reading() as db:
                latest = db.execute("SELECT coalesce(max(id), 0) FROM event").fetchone()[0]
                if self._agreement is None or self._agreement[0] != latest:
                    self._agreement = latest, agreement(self.store)
            return self._agreement[1]

    # ------------------------------------------------------------------------------------------ keeping

    async def draft(self, request: Request) -> Response:
        body = await _read(request, _Draft)

        def keep() -> dict[str, Any]:
            rater, showing = self._shown(request)
            order = _in_item(showing, body.tiers, body.line)
            self.store.draft(showing.id, rater.id, body.seen, order)
            return {"saved": True}

        return JSONResponse(await run_in_threadpool(keep))

    async def judge(self, request: Request) -> Response:
        body = await _read(request, _Judgement)

        def keep() -> dict[str, Any]:
            rater, showing = self._shown(request)
            order = None if body.tiers is None else _in_item(showing, body.tiers, body.line)
            # Keys are a rater's own: nobody can take another's.
            judged = Judged(key=f"{rater.id} {body.key}", seen=body.seen, order=order, seconds=body.seconds)
            return {"saved": True, "version": self.store.judge(showing.id, rater.id, judged)}

        return JSONResponse(await run_in_threadpool(keep))

    async def flag(self, request: Request) -> Response:
        body = await _read(request, _Flag)

        def keep() -> dict[str, Any]:
            rater, showing = self._shown(request)
            self.store.flag(showing.id, rater.id, body.comment)
            return {"saved": True}

        return JSONResponse(await run_in_threadpool(keep))

    def _shown(self, request: Request) -> tuple[Rater, Showing]:
        rater = self._rater(request)
        id_ = request.path_params["id"]
        showing = self.store.showing(id_, rater.id) if id_ < LARGEST else None
        if showing is None:
            raise HTTPException(404, "You have had no such item.")
        return rater, showing


async def _read(request: Request, kind: type[Body]) -> Body:
    """The request's body. Raises HTTPException 422 for one of another form."""
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        raise HTTPException(422, f"{place}: {first['msg']}") from error


def _on_page(showing: Showing, order: Order | None) -> dict[str, Any] | None:
    """The order with answers named by their places on the page."""
    if order is None:
        return None
    at = {place: number for number, place in enumerate(showing.shown)}
    return {"tiers": [[at[place] for place in tier] for tier in order.tiers], "line": order.line}


def _in_item(showing: Showing, tiers: Sequence[Sequence[int]], line: int | None) -> Order:
    """The order with answers named as the store does. Raises HTTPException 422 for one that does not fit the page."""
    named = [number for tier in tiers for number in tier]
    for number in named:
        if number >= len(showing.shown):
            raise HTTPException(422, f"answer {number} is not on the page; it has {len(showing.shown)}")
        if named.count(number) > 1:
            raise HTTPException(422, f"answer {number} is there twice")
    if line is not None and not 0 <= line <= len(tiers):
        raise HTTPException(422, f"'line' is {line}, but there are {len(tiers)} tiers")
    return Order(
        tiers=tuple(tuple(sorted(showing.shown[number] for number in tier)) for tier in tiers), line=line
    )


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    if isinstance(prompt.content, str):
        return [{"role": "", "content": prompt.content}]
    return [{"role": message["role"], "content": message["content"]} for message in prompt.content]


def _first_words(content: Any, most: int = 160) -> str:
    text = content if isinstance(content, str) else next((m["content"] for m in reversed(content)), "")
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}…"


def _percent(part: float | None) -> str:
    return "–" if part is None or math.isnan(part) else f"{part:.0%}"
