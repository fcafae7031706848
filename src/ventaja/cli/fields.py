"""The settings of a config, read off its class: names, types, defaults, limits and help texts."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ventaja.training.config import SHORT_FORMS

TEXT_OR_LIST = "TEXT or LIST"
CHOICE_OR_FUNCTION = "CHOICE or FUNCTION"
A_FUNCTION = "file.py:function"
"""How a function of one's own is written."""
_NAMES: dict[Any, str] = {str: "TEXT", int: "INT", float: "NUMBER", bool: "BOOL", Path: "PATH"}
_LIMITS = ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<"))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One thing that can be set."""

    name: str
    """Dotted: optimiser.learning_rate."""
    type: str
    """TEXT, INT, NUMBER, BOOL, PATH, CHOICE, CHOICE or FUNCTION, LIST, TEXT or LIST, MAPPING or VALUE (any YAML)."""
    can_be_null: bool
    choices: tuple[str, ...]
    limits: str
    """`≥ 1`, or nothing."""
    default: str | None
    """As one would write it in a run file; None if it must be set."""
    help: str
    entries: tuple[Setting, ...] = ()
    """Of a list of mappings: what each of them can set, named `reward.functions[].weight`."""
    is_part: bool = False
    """True of a group that is off unless set, such as model.lora: `true` means its defaults."""

    @property
    def group(self) -> str:
        return self.name.split(".")[0] if "." in self.name else ""

    @property
    def short(self) -> str | None:
        """The group's name, if a bare value of the group means this setting."""
        group, _, rest = self.name.partition(".")
        return group if rest and SHORT_FORMS.get(group) == rest else None


@dataclass(frozen=True)
class _Field:
    name: str
    annotation: Any
    default: Any
    help: str
    metadata: tuple[Any, ...]


def settings_of(kind: type, prefix: str = "", defaults: Any = None) -> Iterator[Setting]:
    """Every setting of a config class, nested ones too, in the order of the class.

    `defaults` is an instance whose values stand in for the class's defaults.
    """
    for field in _fields(kind):
        name = f"{prefix}{field.name}"
        default = field.default if defaults is None else getattr(defaults, field.name)
        inner, can_be_null = _without_none(field.annotation)
        if not _has_fields(inner):
            yield _setting(name, field, inner, can_be_null, default)
            continue
        if can_be_null and name not in SHORT_FORMS:  # a part that is off unless set: it can be set as a whole
            yield dataclasses.replace(_setting(name, field, dict, can_be_null, default), is_part=True)
        yield from settings_of(inner, f"{name}.", default if isinstance(default, inner) else None)


def groups_of(kind: type[BaseModel]) -> dict[str, str]:
    """The groups of a config class and what each is for."""
    groups = {name: _without_none(field.annotation)[0] for name, field in kind.model_fields.items()}
    return {
        name: inspect.cleandoc(group.__doc__ or "") for name, group in groups.items() if _has_fields(group)
    }


def as_text(value: Any) -> str:
    """A default as one would write it in a run file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        mantissa, _, exponent = f"{value:g}".partition("e")
        return f"{mantissa}e{int(exponent)}" if exponent else mantissa
    if isinstance(value, list | tuple):
        return f"[{', '.join(as_text(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {as_text(item)}' for key, item in value.items())}}}"
    return str(value)


def _fields(kind: type) -> Iterator[_Field]:
    if issubclass(kind, BaseModel):
        for name, info in kind.model_fields.items():
            default = info.get_default(call_default_factory=True)
            yield _Field(name, info.annotation, default, info.description or "", tuple(info.metadata))
    else:
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            yield _Field(field.name, hints[field.name], field.default, "", ())


def _setting(name: str, field: _Field, inner: Any, can_be_null: bool, default: Any) -> Setting:
    origin = get_origin(inner) or inner
    lists = [option for option in (get_args(inner) or ()) if get_origin(option) in {tuple, list}]
    required = default is PydanticUndefined or default is dataclasses.MISSING
    choices: tuple[Any, ...] = get_args(inner) if origin is Literal else ()
    if origin is Literal:
        type_ = "CHOICE"
    elif origin is Union and get_origin(get_args(inner)[0]) is Literal:  # or a function in a name's place
        type_, choices = CHOICE_OR_FUNCTION, get_args(get_args(inner)[0])
    elif origin in {tuple, list}:
        type_, lists = "LIST", [inner]
    elif str in get_args(inner) and lists:
        type_ = TEXT_OR_LIST
    elif origin is dict:
        type_ = "MAPPING"
    else:
        type_ = _NAMES.get(origin, "VALUE")
    return Setting(
        name=name,
        type=type_,
        can_be_null=can_be_null,
        choices=tuple(str(choice) for choice in choices),
        limits=" and ".join(
            f"{sign} {as_text(getattr(limit, attribute))}"
            for limit in field.metadata
            for kind, attribute, sign in _LIMITS
            if isinstance(limit, kind)
        ),
        default=None if required else as_text(default),
        help=" ".join(field.help.split()),
        entries=tuple(
            entry
            for item in (get_args(lists[0]) if type_ in {"LIST", TEXT_OR_LIST} else ())
            if _has_fields(item)
            for entry in settings_of(item, f"{name}[].")
        ),
    )


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """`X | None` as X and True; anything else as it is, and False."""
    if get_origin(annotation) not in {Union, types.UnionType}:
        return annotation, False
    options = [option for option in get_args(annotation) if option is not types.NoneType]
    can_be_null = len(options) < len(get_args(annotation))
    return (options[0] if len(options) == 1 else Union[tuple(options)]), can_be_null  # noqa: UP007


def _has_fields(annotation: Any) -> bool:
    return isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
    )
