"""Turn pydantic's errors into one readable sentence each."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError

from ventaja.errors import did_you_mean
from ventaja.errors import nearest as nearest_name


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
    """` Did you mean 'x'?` for the most similar dotted name, else for one whose last part is similar."""
    names = list(names)
    if hint := did_you_mean(name, names):
        return hint
    by_last = {n.rsplit(".", 1)[-1]: n for n in names}
    last = nearest_name(name.rsplit(".", 1)[-1], by_last)
    return f" Did you mean {by_last[last]!r}?" if last else ""
