"""What a user names, `path/to/file.py:name` or `package.module:name`, found and loaded; and the way back."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from ventaja.errors import ConfigError, did_you_mean, listed

GIVEN_IN_PYTHON = "(given in Python)"
"""What stands behind the name of something that nothing but the program that gave it can find again."""
_FILES = "ventaja_file_"
"""What the module of a file that was loaded by its path is called here, before the file's own name."""


def load_named(spec: str, what: str = "a function") -> Any:
    """The thing that `path/to/file.py:name` or `package.module:name` names; `what` says in errors what was looked for.

    A file is executed, once however often it is named, unless it has changed. Its folder (for a module, the current
    one) joins the end of the import path. Raises ConfigError if nothing has this name or the file breaks.
    """
    the = f"the {what.split(' ', 1)[-1]} {spec!r}"
    place, _, attribute = spec.rpartition(":")
    module = _load_file(place, the) if place.endswith(".py") else _load_module(place, the)
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if found is None:
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(
            f"{the}: there is no {attribute!r} in it.{did_you_mean(attribute, names)} It has {listed(names)}."
        )
    return found


def own_name(thing: Any) -> str:
    """A function's own name; of a partial the function's, of an object its class's."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    name = getattr(thing, "__name__", None) or type(thing).__name__
    return "lambda" if name == "<lambda>" else str(name)


def spec_of(thing: Callable[..., Any]) -> str:
    """What `load_named` finds this by, in another process too; else its own name and `(given in Python)`.

    The latter for a lambda, a nested function, a partial, an object, and whatever the program itself defines
    (`__main__`), which nobody else can load without running it.
    """
    module, path = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "<")
    home = sys.modules.get(module or "")
    found: Any = home
    for part in path.split("."):
        found = getattr(found, part, None)
    if home is None or found is not thing or module == "__main__":
        return f"{own_name(thing)} {GIVEN_IN_PYTHON}"
    return f"{home.__file__ if home.__name__.startswith(_FILES) else module}:{path}"


def where(thing: Callable[..., Any]) -> str:
    """`file.py:12`, where a function is written; empty if that is unknown."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    function = thing if hasattr(inspect.unwrap(thing), "__code__") else type(thing).__call__
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


def one_line(error: BaseException) -> str:
    """`ZeroDivisionError: division by zero`"""
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]


def _load_file(place: str, the: str) -> ModuleType:
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        near = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ConfigError(f"{the}: there is no file {place}.{did_you_mean(path.name, near)}")
    try:
        return _run_file(path, path.stat().st_mtime_ns)
    except Exception as error:
        raise ConfigError(f"{the} cannot be loaded: {_where_it_broke(error, path)}") from error


@functools.cache
def _run_file(path: Path, modified_ns: int) -> ModuleType:
    """The file's module; a file that several settings name is executed once, unless it has changed."""
    name = f"{_FILES}{path.stem}_{abs(hash(path)):x}_{modified_ns:x}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    _join_import_path(path.parent)
    sys.modules[name] = module  # dataclasses and pickling look their module up
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_module(place: str, the: str) -> ModuleType:
    _join_import_path(Path.cwd())
    try:
        return importlib.import_module(place)
    except Exception as error:
        hint = ""
        if isinstance(error, ModuleNotFoundError):
            hint = " Install it, run from the folder that holds it, or write 'path/to/file.py:name'."
        raise ConfigError(f"{the} cannot be loaded: {_where_it_broke(error)}{hint}") from error


def _join_import_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _where_it_broke(error: Exception, path: Path | None = None) -> str:
    what = f"{one_line(error)}."
    lines = [entry for entry in traceback.extract_tb(error.__traceback__) if entry.filename == str(path)]
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {what}"
    return f"{path}:{lines[-1].lineno}: {what}" if lines else what
