"""Words for error messages: the nearest name, and short lists of names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that looks most like `name`, if any comes close."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """` Did you mean 'x'?` (with the leading space), or nothing."""
    found = nearest(name, candidates)
    return f" Did you mean {found!r}?" if found else ""


def listed(names: Iterable[str], *, limit: int = 12) -> str:
    """`'a', 'b' and 3 more`, or `none`."""
    quoted = [repr(name) for name in names]
    if not quoted:
        return "none"
    more = f" and {len(quoted) - limit} more" if len(quoted) > limit else ""
    return ", ".join(quoted[:limit]) + more


def clipped(text: str, limit: int) -> str:
    """At most `limit` characters of the text, saying how many are left out."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit} more characters)"
