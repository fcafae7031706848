"""Read a run file: YAML, with the line of every setting, so that an error can say where it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ventaja import yaml
from ventaja.errors import ConfigError, did_you_mean

_ENDINGS = (".yaml", ".yml")


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
        values, lines = yaml.read(text)
    except yaml.NotYaml as error:
        raise ConfigError(f"{path}:{error}") from error
    if not isinstance(values, dict):
        what = "is empty" if values is None else f"holds {_describe(values)}"
        raise ConfigError(f"{path}: {what}. A run file holds settings, such as `model: smollm2-135m`.")
    return RunFile(path, values, lines)


def _describe(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"only {str(value)[:40]!r}"


def _nearest_file(path: Path) -> str:
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    return did_you_mean(str(path), [str(p) for p in beside if p.suffix in _ENDINGS])
