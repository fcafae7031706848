"""Read a run file: YAML, with the line of every setting, so that an error can say where it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ventaja.errors import ConfigError, did_you_mean

_ENDINGS = (".yaml", ".yml")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values: `1e-5` is a number, and `no`, `on`, `1:30` and dates are text.

    A key that is there twice is an error, and so is an alias of what it stands in.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._begun: list[str] = []
        """Anchors of what has not ended yet."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        anchor = getattr(event, "anchor", None)
        if anchor is None:
            return super().compose_node(parent, index)
        if self.check_event(yaml.AliasEvent) and anchor in self._begun:
            raise yaml.MarkedYAMLError(
                problem=f"*{anchor} stands inside of what it means, so it would have no end; write out what is wanted",
                problem_mark=event.start_mark,
            )
        self._begun.append(anchor)
        node = super().compose_node(parent, index)
        self._begun.pop()
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            line = key.start_mark.line + 1
            if key.value in first:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} is there twice, first in line {first[key.value]}; keep one",
                    problem_mark=key.start_mark,
                )
            first[key.value] = line
        return node


_MERGE = "tag:yaml.org,2002:merge"
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"^(?:{_pattern})$"),
        list(_first),
    )


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    # YAML 1.1 would read 010 as eight.
    text = node.value
    return int(text, 0) if text.lower().startswith(("0o", "0x")) else int(text)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


@dataclass(frozen=True)
class RunFile:
    """What a run file says."""

    path: str
    values: dict[str, Any]
    lines: dict[str, int]
    """The line of every dotted name in it."""


def read_run_file(path: str) -> RunFile:
    """Raises ConfigError for a file that is missing, is not YAML, or holds no settings."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file.{_nearest_file(Path(path))}") from error
    except IsADirectoryError as error:
        inside = "config.yaml" if (Path(path) / "config.yaml").exists() else "RUN.yaml"
        raise ConfigError(
            f"{path}: this is a folder. Give the file, such as {Path(path) / inside}."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}.") from error
    try:
        values = load_yaml(text)
        node = yaml.compose(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}:{explain_yaml(error)}") from error
    if not isinstance(values, dict):
        what = "is empty" if values is None else f"holds {_describe(values)}"
        raise ConfigError(f"{path}: {what}. A run file holds settings, such as `model: smollm2-135m`.")
    return RunFile(path, values, dict(_lines(node)))


def load_yaml(text: str) -> Any:
    """The value of a YAML text. Raises yaml.YAMLError."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error


def explain_yaml(error: yaml.YAMLError) -> str:
    """`12: this is not valid YAML: …`: the line, if known, and what is wrong there."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    return f"{f'{mark.line + 1}:' if mark else ''} this is not valid YAML: {problem}."


def _lines(node: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        items = [(key.value, key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
    elif isinstance(node, yaml.SequenceNode):
        items = [(str(index), value, value) for index, value in enumerate(node.value)]
    else:
        return
    for name, place, value in items:
        yield f"{prefix}{name}", place.start_mark.line + 1
        yield from _lines(value, f"{prefix}{name}.")


def _describe(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"only {str(value)[:40]!r}"


def _nearest_file(path: Path) -> str:
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return did_you_mean(str(path), [str(p) for p in beside if p.suffix in _ENDINGS])
