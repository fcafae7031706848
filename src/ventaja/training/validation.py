"""Turn pydantic's errors into one readable sentence each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import ValidationError


def explain(error: ValueError, *, prefix: str = "", known: Iterable[str] = ()) -> str:
    """One line per problem: the dotted name, what is wrong, and for an unknown name the nearest right one."""
    if not isinstance(error, ValidationError):
        return str(error)
    names = sorted(known)
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in ([prefix] if prefix else []) + list(problem["loc"]))
        if problem["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
            lines.append(f"{path}: no such setting.{nearest(path, names)}")
        elif problem["type"] == "missing":
            lines.append(f"{path}: must be set.")
        elif problem["type"] == "value_error":
            lines.append(f"{path}: {problem['ctx']['error']}." if path else f"{problem['ctx']['error']}.")
        else:
            got = problem.get("input")
            lines.append(f"{path}: {problem['msg']}, got {got!r} ({type(got).__name__}).")
    return "\n".join(lines)


def nearest(name: str, names: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the most similar name, or nothing if none is similar."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close:
        last = name.rsplit(".", 1)[-1]
        by_last = {n.rsplit(".", 1)[-1]: n for n in names}
        close = [by_last[m] for m in difflib.get_close_matches(last, by_last, n=1, cutoff=0.7)]
    return f" Did you mean {close[0]!r}?" if close else ""
