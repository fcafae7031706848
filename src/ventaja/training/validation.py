"""Turn pydantic's errors into one readable sentence each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from ventaja.errors import did_you_mean, nearest
from ventaja.training.peers import peer_hint


def explain(error: ValueError, *, prefix: str = "", known: Iterable[str] = ()) -> str:
    """One line per problem: the dotted name, what is wrong, and for an unknown name the nearest right one."""
    if not isinstance(error, ValidationError):
        return str(error)
    names = sorted(known)
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in ([prefix] if prefix else []) + list(problem["loc"]))
        if problem["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
            lines.append(f"{path}: no such setting.{setting_hint(path, names, problem.get('input'))}")
        elif problem["type"] == "missing":
            lines.append(f"{path}: must be set.")
        elif problem["type"] == "value_error":
            lines.append(f"{path}: {problem['ctx']['error']}." if path else f"{problem['ctx']['error']}.")
        else:
            got = problem.get("input")
            lines.append(f"{path}: {problem['msg']}, got {got!r} ({type(got).__name__}).")
    return "\n".join(lines)


def setting_hint(name: str, names: Iterable[str], value: Any = None) -> str:
    """` Did you mean 'x'?` for the dotted name that is meant, from what is written and what it was set to.

    That is what another library's name means here; else a setting with the same last part, or the most similar one,
    or one whose last part is similar. Part of another library's name is known too, if no setting ends as it does.
    """
    names = list(names)
    if hint := peer_hint(name, names, whole=True):
        return hint
    last = name.removeprefix("--").rpartition(".")[2].replace("-", "_")
    same = [known for known in names if known.rpartition(".")[2].removeprefix("--") == last]
    if same:
        return did_you_mean(name, same) or f" Did you mean {same[0]!r}?"
    if hint := peer_hint(name, names, value) or did_you_mean(name, names):
        return hint
    by_last = {n.rsplit(".", 1)[-1]: n for n in names}
    found = nearest(name.rsplit(".", 1)[-1], by_last)
    return f" Did you mean {by_last[found]!r}?" if found else ""
