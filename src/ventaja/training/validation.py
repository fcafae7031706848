"""Turn pydantic's errors into one readable sentence each: what is wrong where, and what would be right."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ventaja.errors import did_you_mean, nearest
from ventaja.training.peers import peer_hint

_LONGEST_SHOWN = 100
_WHOLE, _NUMBER = "must be a whole number", "must be a number"
_BRANCH = re.compile(r"str|tuple\[.*\]")
"""What pydantic adds to the place of a setting that is a text or a list of texts: which of the two it tried."""
_KEY = "[key]"
"""What it adds where the name of an entry is wrong."""

_SENTENCES: Mapping[str, str | Callable[[Mapping[str, Any]], str]] = {
    "missing": "must be set",
    "greater_than": lambda limit: f"must be above {_limit(limit['gt'])}",
    "greater_than_equal": lambda limit: f"must be at least {_limit(limit['ge'])}",
    "less_than": lambda limit: f"must be below {_limit(limit['lt'])}",
    "less_than_equal": lambda limit: f"must be at most {_limit(limit['le'])}",
    "finite_number": "must be a finite number",
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), _WHOLE),
    **dict.fromkeys(("float_type", "float_parsing"), _NUMBER),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "path_type": "must be a path, as text",
    "tuple_type": "must be a list, such as [a, b]",
    "too_long": lambda limit: f"must have {limit['max_length']} items, and has {limit['actual_length']}",
    "dict_type": "must be a mapping, such as {a: 1}",
    "invalid_key": "a setting's name must be text",
}
"""What is wrong, by pydantic's type of the error. What was given is added, where it says more than that."""

_ABOUT_A_NUMBER = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}
_SAYS_IT_ALL = {"missing", "string_too_short", "too_long", "invalid_key"}


def explain(error: ValueError, *, prefix: str = "", known: Iterable[str] = ()) -> str:
    """One line per problem: the dotted name, what is wrong, and for an unknown name the nearest right one."""
    if not isinstance(error, ValidationError):
        return str(error)
    names = sorted(known)
    lines = (_line(problem, [prefix] if prefix else [], names) for problem in error.errors())
    return "\n".join(dict.fromkeys(lines))


def _line(problem: ErrorDetails, before: list[str], names: Sequence[str]) -> str:
    kind, got, place = problem["type"], problem.get("input"), [*before, *problem["loc"]]
    branches = [index for index, part in enumerate(place) if _BRANCH.fullmatch(str(part))]
    is_text_or_list = bool(branches) and branches[-1] == len(place) - 1
    place = [part for index, part in enumerate(place) if index not in branches]
    path = ".".join(str(part) for part in place)
    if kind in {"extra_forbidden", "unexpected_keyword_argument"}:
        return f"{path}: no such setting.{setting_hint(path, names, got)}"
    if kind == "value_error":
        return f"{path}: {problem['ctx']['error']}." if path else f"{problem['ctx']['error']}."
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        hint = did_you_mean(got, choices) if isinstance(got, str) else ""
        return f"{path}: must be {_either(choices)}, not {_shown(got)}.{hint}"
    if kind == "missing" and isinstance(place[-1], int):
        return f"{'.'.join(map(str, place[:-1]))}: must have more items."
    if kind == "model_type":
        sentence = f"must be a mapping of settings{_example(path, names)}"
    elif place[-1:] == [_KEY]:
        path, sentence = ".".join(map(str, place[:-2])), "the names in it must be text"
    elif is_text_or_list:
        sentence = "must be text, or a list of texts"
    elif kind in _SENTENCES:
        known = _SENTENCES[kind]
        sentence = known if isinstance(known, str) else known(problem["ctx"])
    else:
        return f"{path}: {problem['msg']}, got {_shown(got)}."
    if kind in _SAYS_IT_ALL:
        return f"{path}: {sentence}."
    if kind in _ABOUT_A_NUMBER and isinstance(
        got, str
    ):  # of a flag: what is wrong with it is not that it is text
        return f"{path}: {sentence}, not {_clipped(got)}."
    is_number = isinstance(got, int | float) and not isinstance(got, bool)
    hint = f" In quotes it is text: '{got}'." if sentence == _SENTENCES["string_type"] and is_number else ""
    return f"{path}: {sentence}, not {_shown(got)}.{hint}"


def _limit(number: int | float) -> str:
    if isinstance(number, int) and number > 2**32 and number & (number - 1) == 0:
        return f"2**{number.bit_length() - 1}"
    return f"{number:g}" if isinstance(number, float) else str(number)


def _either(choices: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))


def _example(path: str, names: Sequence[str]) -> str:
    """`, such as {name: …}`, with the setting that a bare word for the group would mean, if there is one."""
    group = re.sub(r"\.\d+", "", path)  # an item of a list has the settings of every item
    own = [name.removeprefix(f"{group}.") for name in names if name.startswith(f"{group}.")]
    own = [name for name in own if "." not in name]
    first = next(
        (name for name in ("name", "source", "function", "functions") if name in own), (own or [""])[0]
    )
    return f", such as {{{first}: …}}" if first else ""


def _shown(value: Any) -> str:
    """A value as one would write it; and what it is, where no run file can hold such a thing."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    plain = isinstance(value, str | int | float | list | tuple | Mapping)
    return _clipped(repr(value)) + ("" if plain else f" ({type(value).__name__})")


def _clipped(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


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
