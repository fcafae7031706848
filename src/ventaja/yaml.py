"""YAML as ruamel.yaml reads and writes it (version 1.2), with the line of every entry and errors of one line."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter

MOST_VALUES = 100_000
"""Aliases that come to more values when they are written out are refused: ten lines can stand for a billion."""

_WORDS = {"y", "n", "yes", "no", "on", "off"}
"""True or false in YAML 1.1."""
_BREAKS = {"\x85", "\u2028", "\u2029"}
"""They end a line in YAML 1.1, and would come back as a space if they were not quoted."""


class NotYaml(ValueError):
    """A text that is not YAML, or not YAML that can be used. It reads `12: this is not valid YAML: …`."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(f"{'' if line is None else f'{line}:'} this is not valid YAML: {problem}.")


class Read(NamedTuple):
    """What a text says."""

    value: Any
    lines: dict[str, int]
    """The line, from 1, of every entry by its dotted name, such as `reward.functions.0.name`; what stands there by
    alias has none."""


class _Constructor(SafeConstructor):
    """Plain values only, and those of YAML 1.2's core: a date and `=` are text."""


class _Representer(SafeRepresenter):
    """Numbers and words so that readers of YAML 1.1, such as PyYAML, take them for the same: `1.0e-05`, `"no"`."""

    def represent_float(self, data: float) -> ScalarNode:
        node: ScalarNode = super().represent_float(data)
        if "e" in node.value and "." not in node.value:
            node.value = node.value.replace("e", ".0e")
        return node

    def represent_str(self, data: str) -> ScalarNode:
        quoted = data.lower() in _WORDS or not _BREAKS.isdisjoint(data)
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if quoted else None)


for _tag in ("timestamp", "value"):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_tag}", SafeConstructor.construct_yaml_str)
_Representer.add_representer(float, _Representer.represent_float)
_Representer.add_representer(str, _Representer.represent_str)


def read(text: str) -> Read:
    """The value of a YAML text, and where its entries stand. Raises NotYaml."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    try:
        node = yaml.compose(text)
        if node is None:
            return Read(None, {})
        tree = _Tree()
        tree.visit(node, "", line=1)
        return Read(yaml.constructor.construct_document(node), tree.lines)
    except RecursionError as error:
        raise NotYaml("it is nested too deeply") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise NotYaml(str(problem), mark and mark.line + 1) from error


def written(values: Mapping[str, Any]) -> str:
    """The YAML text of plain values, in their order."""
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 110
    text = io.StringIO()
    yaml.dump(dict(values), text)
    return text.getvalue()


class _Tree:
    """One walk over a text's nodes, each once: the lines of its entries, and what ruamel.yaml lets pass."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}
        self._open: set[int] = set()
        """Nodes that have not ended yet, by their id."""
        self._values: dict[int, int] = {}
        """How many values each node stands for."""

    def visit(self, node: Node, name: str, *, line: int) -> int:
        """How many values the node stands for; `line` is where it is named, by alias too."""
        if id(node) in self._open:
            raise NotYaml(
                f"*{node.anchor} stands inside of what it means, so it would have no end; write out what is wanted",
                line,
            )
        if id(node) not in self._values:
            self._open.add(id(node))
            self._values[id(node)] = values = 1 + self._inside(node, f"{name}." if name else "", line)
            self._open.remove(id(node))
            if values > MOST_VALUES > len(self._values):
                raise NotYaml(
                    f"its aliases stand for more than {MOST_VALUES} values; write out what is wanted", line
                )
        return self._values[id(node)]

    def _inside(self, node: Node, prefix: str, line: int) -> int:
        values = 0
        if isinstance(node, SequenceNode):
            for index, item in enumerate(node.value):
                self.lines[f"{prefix}{index}"] = item.start_mark.line + 1
                values += self.visit(item, f"{prefix}{index}", line=line)
        elif isinstance(node, MappingNode):
            first: dict[str, int] = {}
            for key, value in node.value:
                place = key.start_mark.line + 1
                if isinstance(key, ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in first:
                        raise NotYaml(
                            f"{key.value!r} is there twice, first in line {first[key.value]}; keep one", place
                        )
                    self.lines[f"{prefix}{key.value}"] = first[key.value] = place
                values += self.visit(value, f"{prefix}{key.value}", line=place)
        return values
