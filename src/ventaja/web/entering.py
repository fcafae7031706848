"""A secret link opens the page: the secret stands behind the `#`, which no browser sends and no server logs.

The page hands it in once, and gets a cookie that scripts cannot read. Scripts of the user's own send it as
`Authorization: Bearer SECRET` instead.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from ventaja.web.safety import Site

Who = TypeVar("Who")
SECONDS = 90 * 86_400
"""How long a cookie is kept."""


@dataclass(frozen=True, kw_only=True)
class Door(Generic[Who]):
    """Who may come in, by their secrets."""

    site: Site
    secrets: Mapping[str, Who]

    @property
    def cookie(self) -> str:
        """Cookies know no ports, so the name says which page on this machine it belongs to."""
        return f"ventaja-{self.site.port}"

    def link(self, secret: str) -> str:
        return f"{self.site.url}/#{secret}"

    def visitor(self, request: Request) -> Who | None:
        """Who sent the request; None for a stranger."""
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind:
            return self.known(given) if kind.lower() == "bearer" else None
        return self.known(request.cookies.get(self.cookie, ""))

    def known(self, given: str) -> Who | None:
        """Whose secret this is. Every one is compared, in the same time."""
        found = None
        for secret, who in self.secrets.items():
            if hmac.compare_digest(secret.encode(), given.encode("utf-8", "replace")):
                found = who
        return found

    def let_in(self, response: Response, secret: str) -> None:
        """Sets the cookie."""
        response.set_cookie(
            self.cookie,
            secret,
            max_age=SECONDS,
            httponly=True,
            samesite="strict",
            secure=self.site.secure,
            path="/",
        )
