"""A call can be read: what belongs together is handed over together."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "ventaja"
MOST = 7
ROOMS_OF_TENSORS = {"functional", "cpu", "models"}
"""An equation or a kernel takes the tensors that it is about, however many."""
ALLOWED = {
    ("api.py", "rl"),  # a run in one call, every argument with a name that the run file knows
}


def long_signatures() -> Iterator[tuple[str, str]]:
    for path in SOURCE.rglob("*.py"):
        place = path.relative_to(SOURCE)
        if place.parts[0] in ROOMS_OF_TENSORS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = node.args
                names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
                if len([name for name in names if name not in ("self", "cls")]) > MOST:
                    yield place.as_posix(), node.name


def test_no_function_takes_more_than_seven_arguments() -> None:
    assert set(long_signatures()) <= ALLOWED
