"""What every local page is held to: known hosts and origins, bodies of bounded size, and headers that forbid the rest.

A page on localhost can be reached by any page that is open in the same browser. Three things keep those out:

- **Host.** A name that leads here by DNS rebinding is not among the hosts, and is refused before anything is looked at.
- **Origin.** What changes something needs the page's own Origin (or, from a script, an Authorization header, which no
  other page can send), and cookies are SameSite=Strict.
- **Content-Security-Policy.** Scripts, styles and connections come from here alone, none of them inline, so text that
  slipped through escaping would still do nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 1_000_000
"""Of a request's body."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where a page is to be reached, and nowhere else."""

    address: str
    """What the server binds to: an IP address."""
    port: int
    names: tuple[str, ...]
    """What it may be called by, such as `localhost` and `127.0.0.1`."""
    secure: bool = False
    """Over TLS."""

    @property
    def url(self) -> str:
        return self._origin(self.names[0])

    @property
    def hosts(self) -> frozenset[str]:
        """The Host headers that are let in."""
        usual = 443 if self.secure else 80
        plain = {_bracketed(name) for name in self.names} if self.port == usual else set()
        return frozenset({f"{_bracketed(name)}:{self.port}" for name in self.names} | plain)

    @property
    def origins(self) -> frozenset[str]:
        return frozenset(self._origin(name) for name in self.names)

    def _origin(self, name: str) -> str:
        port = "" if self.port == (443 if self.secure else 80) else f":{self.port}"
        return f"{'https' if self.secure else 'http'}://{_bracketed(name)}{port}"


def local_site(port: int) -> Site:
    """This machine, for itself."""
    return Site(address="127.0.0.1", port=port, names=("127.0.0.1", "localhost"))


class Guard:
    """ASGI middleware around an app: refuses what does not belong here, and puts the headers on all that it answers."""

    def __init__(self, app: ASGIApp, *, site: Site) -> None:
        self.app = app
        self.site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # no websockets here
        headers = Headers(scope=scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    own.setdefault(name, value)
                if self.site.secure:
                    own.setdefault("Strict-Transport-Security", "max-age=31536000")
            await send(message)

        refused = self._refusal(scope["method"], headers)
        if refused is not None:
            status, why = refused
            await PlainTextResponse(f"{why}\n", status)(scope, receive, send_with_headers)
            return
        await self.app(scope, _Bounded(receive), send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        if len(headers.getlist("host")) != 1 or headers["host"].lower() not in self.site.hosts:
            return 421, f"This page is at {self.site.url} and has no other name."
        if method in ("GET", "HEAD"):
            return None
        if method != "POST":
            return 405, "Only GET and POST."
        origin = headers.get("origin")
        if origin is None and "authorization" not in headers:
            return 403, "A change needs the Origin of this page, or an Authorization header."
        if origin is not None and origin not in self.site.origins:
            return 403, "Another page asked for this, and it may not."
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "Another page asked for this, and it may not."
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "Send JSON."
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > MOST_BYTES:
            return 413, f"At most {MOST_BYTES} bytes."
        return None


class TooLarge(Exception):
    """A body that went on beyond its limit."""


class _Bounded:
    """Counts what is received: a chunked body names no length."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive
        self.bytes = 0

    async def __call__(self) -> Message:
        message = await self.receive()
        self.bytes += len(message.get("body", b""))
        if self.bytes > MOST_BYTES:
            raise TooLarge
        return message


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name
