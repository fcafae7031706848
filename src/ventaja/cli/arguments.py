"""Flags over a run file: a parser made from the config's own fields, and one merged set of plain values."""

from __future__ import annotations

import re
from argparse import SUPPRESS, ArgumentParser
from collections import deque
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel
from rich_argparse import RichHelpFormatter

from ventaja import yaml
from ventaja.cli.fields import (
    A_FUNCTION,
    CHOICE_OR_FUNCTION,
    SHORT_FORMS,
    TEXT_OR_LIST,
    Setting,
    groups_of,
    settings_of,
)
from ventaja.cli.runfile import RunFile, read_run_file
from ventaja.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=BaseModel)

_BOOL_WORDS = {"true", "false", "yes", "no", "on", "off", "1", "0", "null"}
_POSITIONAL = " positional"  # no flag can have this name

_EPILOG = (
    "A flag sets what it names and wins over the run file. LIST: one item, or a YAML list such as '[a, b]'; "
    "give the flag again for one item more. MAPPING: YAML such as '{a: 1, b: x}', or one entry at a time, "
    "such as --data.options.a 1. The value null unsets what need not be set."
)


class HelpFormatter(RichHelpFormatter):
    """Rich help with room for dotted names. Brackets in it are brackets, not markup."""

    group_name_formatter = str
    text_markup = False
    help_markup = False

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, max_help_position=36, **options)


class Parser(ArgumentParser):
    """Its errors are ConfigErrors, and no flag may be abbreviated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. See {self.prog} --help.")


def read_config(
    kind: type[ConfigT],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    positional: str | None = None,
) -> ConfigT:
    """The config that a command line asks for.

    The one argument without a dash is the run file, or with `positional` the value of that setting.
    Raises ConfigError that names the flag, or the file and line, of each problem.
    """
    from ventaja.training.config import parse

    settings = {setting.name: setting for setting in settings_of(kind)}
    parser = make_parser(kind, prog=prog, description=description, positional=positional)
    given = _parse_flags(parser, settings, argv)
    first = given.pop(_POSITIONAL, None)
    if positional is not None and first is not None:
        given.setdefault(positional, first)
        first = None
    file = read_run_file(first) if first is not None else RunFile("", {}, {})
    try:
        return parse(kind, merge(kind, file.values, given))  # type: ignore[type-var]
    except ConfigError as error:
        raise ConfigError(_with_places(str(error), file, given)) from error


def make_parser(
    kind: type[BaseModel], *, prog: str, description: str, positional: str | None = None
) -> ArgumentParser:
    """A parser with a flag for every setting. All values are kept as text."""
    settings = list(settings_of(kind))
    what = "RUN.yaml" if positional is None else positional.split(".")[0].upper()
    parser = Parser(
        prog=prog,
        usage=f"{prog} [{what}] [--group.setting VALUE ...]",
        description=description,
        epilog=_EPILOG,
        argument_default=SUPPRESS,
    )
    parser.add_argument(
        _POSITIONAL,
        metavar=what,
        nargs="?",
        help="The run file. It may be left out if the flags say enough."
        if positional is None
        else next(setting.help for setting in settings if setting.name == positional),
    )
    sections = {name: parser.add_argument_group(name, text) for name, text in groups_of(kind).items()}
    for setting in settings:
        section = sections.get(setting.group, parser)
        section.add_argument(
            *(f"--{name}" for name in (setting.short, setting.name) if name),
            dest=setting.name,
            metavar=setting.type,
            action="append" if setting.type in {"LIST", TEXT_OR_LIST} else "store",
            help=_help(setting),
        )
    return parser


def merge(kind: type[BaseModel], values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`values` with each of `given`, by dotted name, set in it. Short forms are written out where needed."""
    merged = dict(values)
    parts = {setting.name for setting in settings_of(kind) if setting.is_part}
    for name in sorted(given, key=lambda name: name.count(".")):  # a mapping before its entries
        *parents, last = name.split(".")
        place = merged
        for depth, parent in enumerate(parents):
            inside = place.get(parent)
            if depth == 0 and parent in SHORT_FORMS and isinstance(inside, str | list):
                inside = {SHORT_FORMS[parent]: inside}
            path = ".".join(parents[: depth + 1])
            if inside is True and path in parts:
                inside = {}
            if not isinstance(inside, dict | None):
                raise ConfigError(f"{path}: must be a mapping for --{name} to be set in it, not {inside!r}.")
            place[parent] = place = dict(inside or {})
        place[last] = given[name]
    for group in groups_of(kind):
        # So that what is missing is named by its own name: run.folder, not run.
        if merged.get(group) is None and (group in merged or kind.model_fields[group].is_required()):
            merged[group] = {}
    return merged


def _parse_flags(parser: ArgumentParser, settings: dict[str, Setting], argv: Sequence[str]) -> dict[str, Any]:
    """The plain values given by flags, by dotted name."""
    from ventaja.training.validation import setting_hint

    flags = {f"--{name}": s for s in settings.values() for name in (s.short, s.name) if name}
    open_ended = [
        f"--{s.name}."
        for s in settings.values()
        if s.type == "MAPPING" and not any(flag.startswith(f"--{s.name}.") for flag in flags)
    ]
    entries: set[str] = set()
    tokens: list[str] = []
    pending = deque(argv)
    while pending:
        token = pending.popleft()
        flag, equals, _ = token.partition("=")
        if flag.startswith("--") and flag not in {"--", "--help", *flags, *entries}:
            if not any(flag.startswith(mapping) and flag != mapping for mapping in open_ended):
                raise ConfigError(
                    f"{flag}: no such flag.{setting_hint(flag, flags)} See {parser.prog} --help."
                )
            parser.add_argument(flag, dest=flag[2:], help=SUPPRESS)
            entries.add(flag)
        if not equals and flag in flags and flags[flag].type == "BOOL":
            if not pending or pending[0].lower() not in _BOOL_WORDS:
                token = f"{flag}=true"
        elif (
            not equals and flag in flags and flags[flag].is_part and not (pending and _is_mapping(pending[0]))
        ):
            token = f"{flag}=true"
        elif not equals and flag in {*flags, *entries} and pending and not pending[0].startswith("--"):
            token = f"{flag}={pending.popleft()}"  # so that a value may begin with a dash
        tokens.append(token)
    texts = vars(parser.parse_args(tokens))
    return {
        name: text if name == _POSITIONAL else _value(name, text, settings.get(name))
        for name, text in texts.items()
    }


def _value(name: str, text: Any, setting: Setting | None) -> Any:
    """What a flag's text means. Numbers and truth values stay text here: the config's own types read them."""
    if setting is not None and setting.can_be_null and text in ("null", ["null"]):
        return None
    if setting is not None and setting.type in {"LIST", TEXT_OR_LIST}:
        items: list[Any] = []
        for item in text:
            value = _yaml(name, item) if item.lstrip().startswith(("[", "{")) else item
            items += value if isinstance(value, list) else [value]
        return text[0] if setting.type == TEXT_OR_LIST and items == text and len(text) == 1 else items
    if setting is None or setting.type in {"MAPPING", "VALUE"}:
        value = _yaml(name, text)
        return {} if value is True and setting is not None and setting.is_part else value
    return text


def _is_mapping(text: str) -> bool:
    """True if a word after a part's flag is its value, rather than the run file."""
    return text.startswith("{") or ": " in text or text.lower() in _BOOL_WORDS


def _yaml(name: str, text: str) -> Any:
    try:
        return yaml.read(text).value
    except yaml.NotYaml as error:
        raise ConfigError(f"--{name}:{str(error).removeprefix('1:')}") from error


def _with_places(message: str, file: RunFile, given: dict[str, Any]) -> str:
    """`message`, one problem a line, each with the flag, or the file and line, that it came from."""
    return "\n".join(_with_place(line, file, given) for line in message.split("\n"))


def _with_place(line: str, file: RunFile, given: dict[str, Any]) -> str:
    match = re.match(r"[a-z_]\w*(\.\w+)*(?=[: ])", line)
    parts = match[0].split(".") if match else []
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in given:
            return f"--{line}"
        if name in file.lines:
            return f"{file.path}:{file.lines[name]}: {line}"
    return line


def _help(setting: Setting) -> str:
    parts = [setting.help]
    if setting.choices:
        own = f", or {A_FUNCTION}" if setting.type == CHOICE_OR_FUNCTION else ""
        parts.append(f"One of {', '.join(setting.choices)}{own}.")
    if setting.entries:
        names = (entry.name.rpartition(".")[2] for entry in setting.entries)
        parts.append(f"Each may set {', '.join(names)}.")
    facts = [setting.limits] if setting.limits else []
    if setting.default is None:
        facts.append("must be set")
    elif setting.default != "null":
        facts.append(f"default: {setting.default}" if setting.default else 'default: ""')
    if facts:
        parts.append(f"({'; '.join(facts)})")
    return " ".join(part for part in parts if part).replace("%", "%%")
