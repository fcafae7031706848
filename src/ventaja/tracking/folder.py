"""A run is a folder: the resolved config, one line of metrics per round, rollouts, checkpoints."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import IO, Any, NamedTuple

from ventaja import yaml
from ventaja.disk import atomic_file, sync, unwritable
from ventaja.errors import ConfigError, RunError
from ventaja.tracking.lock import HOLDER, LOCK, locked

_COMMAND_LINE = "# command: "
_NO_FILES = (LOCK, HOLDER, ".DS_Store")
"""What a folder may hold and still be empty."""


class RunFolder:
    """The files of one run, for the process that writes them. To look at a run, open it with `Run`.

    `create` begins a run and `open` reads one; whoever writes does so inside `locked`. Every write is whole or absent: a
    process killed in the middle leaves at most half a last line of metrics, which reading skips and the next write
    removes. After a power cut config.yaml and the rollouts are there as written; lines of metrics are there up to the
    last `sync`, which comes before every checkpoint.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any], *, command: str) -> RunFolder:
        """Begins a run: makes the folder, and writes `config` and, as a comment above it, the command.

        Raises RunError if the folder holds something already (see `check_is_free`) or cannot be written, ConfigError
        for a setting that YAML cannot hold.
        """
        folder = cls(path)
        text = yaml.written(_plain(config, "config"))
        folder.check_is_free()
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            # First, so that whatever else is there belongs to a run.
            with atomic_file(folder.config_path) as temporary:
                temporary.write_text(f"{_COMMAND_LINE}{_one_line(command)}\n{text}", encoding="utf-8")
            folder.rollouts_path.mkdir(exist_ok=True)
            folder.checkpoints_path.mkdir(exist_ok=True)
            folder.metrics_path.touch()
        except OSError as error:
            raise RunError(unwritable(folder.path, error)) from error
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run, to read. Raises RunError if there is none."""
        folder = cls(path)
        if folder.config_path.is_file():
            return folder
        if not folder.path.exists():
            problem = f"{folder.path}: there is no such folder."
        else:
            problem = f"{folder.path}: this is not a run: it has no config.yaml."
        siblings = sorted(config.parent for config in folder.path.parent.glob("*/config.yaml"))
        if siblings:
            newest = max(siblings, key=lambda sibling: (sibling / "config.yaml").stat().st_mtime)
            problem += f" The newest run beside it is {newest}."
        raise RunError(f"{problem} Give the folder that --run.folder named.")

    @contextmanager
    def locked(self, *, command: str = "") -> Iterator[None]:
        """Only this process writes to the folder while the block runs; reading needs no lock.

        Made if it is not there, and removed again if the block leaves nothing in it. Raises RunError if another process
        holds it (the message says which, where, since when and with what command), or if there can be no run here.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(
                f"{self.path}: this is a file, and a run needs a folder. Choose another with --run.folder."
            )
        is_run = self.config_path.exists() and (self.is_unused or self._has_results())
        if not (is_run or (self.path / LOCK).exists()):
            self.check_is_free()  # before the lock's file is put there
        with locked(self.path, command=_one_line(command)):
            if not self.config_path.exists():
                self.check_is_free()
            yield

    def check_is_free(self) -> None:
        """Raises RunError if a run cannot begin here: there is one already, or there are files of something else.

        A run that ended before it wrote a round or a checkpoint (`is_unused`) is no hindrance.
        """
        try:
            found = sorted(path.name for path in self.path.iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunError(unwritable(self.path, error)) from error
        if self._has_results():
            raise RunError(
                f"{self.path}: this folder holds a run already. Choose another with --run.folder other, or go on with "
                "this one with --run.resume true."
            )
        foreign = [name for name in found if name not in _NO_FILES and not name.endswith(".tmp")]
        if foreign and not self.is_unused:
            shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
            raise RunError(
                f"{self.path}: this folder is not empty and holds no run ({shown}), and a run keeps its files apart from "
                "others. Choose a new folder, such as --run.folder runs/new"
            )

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def name(self) -> str:
        """The folder's own name, without the path to it."""
        return self.path.resolve().name

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def rollouts_path(self) -> Path:
        return self.path / "rollouts"

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoints"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    def rollout_path(self, round: int) -> Path:
        """Where the rollouts of a round are, or go; the names sort by round."""
        return self.rollouts_path / f"round-{round:06d}.parquet"

    def checkpoint_path(self, number: int) -> Path:
        """Where the checkpoint after round (or step) `number` is, or goes."""
        return self.checkpoints_path / f"{number:06d}"

    def rollout_rounds(self) -> list[int]:
        """The rounds whose rollouts are kept, ascending."""
        return sorted(_numbered(self.rollouts_path, r"round-(\d+)\.parquet"))

    def checkpoints(self) -> dict[int, Path]:
        """Finished checkpoints by number, ascending: the folders whose name is a number.

        Half-made ones begin with a dot; a copy that somebody gave another name is theirs and is left alone.
        """
        found = _numbered(self.checkpoints_path, r"(\d+)")
        return {number: found[number] for number in sorted(found) if found[number].is_dir()}

    def best_checkpoint(self) -> int | None:
        """The number of the checkpoint with the lowest `eval/loss`, or of a run with a gold reward the highest `eval/gold`;
        the first of equal ones; None if none has any.

        Metrics say it, so a run that was killed and resumed has the same one as the run that was not.
        """
        kept = self.checkpoints()
        costs = [
            (cost, number)
            for line in self.metrics()
            if (cost := held_out_cost(line)) is not None
            and (number := int(line.get("total_updates", line.get("round", -1)))) in kept
        ]
        return min(costs)[1] if costs else None

    def config(self) -> dict[str, Any]:
        """The resolved config."""
        try:
            config = yaml.read(self.config_path.read_text(encoding="utf-8")).value
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(f"{self.config_path}: cannot be read: {error}") from error
        except yaml.NotYaml as error:
            raise RunError(f"{self.config_path}:{error}") from error
        if not isinstance(config, dict):
            raise RunError(
                f"{self.config_path}: holds no settings. The run was killed as it began: begin it anew."
            )
        return config

    def command(self) -> str:
        """The command that began the run, or "" if the file does not say."""
        with self.config_path.open(encoding="utf-8") as file:
            first = file.readline()
        return first.removeprefix(_COMMAND_LINE).strip() if first.startswith(_COMMAND_LINE) else ""

    def append_metrics(self, round: int, metrics: Mapping[str, Any]) -> None:
        """Adds one line of strict JSON for `round`, handed to the system (see `sync`) before this returns.

        Values are numbers (Python, NumPy or one-element tensors), text or None; NaN and ±∞ become null.
        Raises RunError if the disk is full; the earlier lines stay whole.
        """
        line = {"round": round} | {
            name: _json_scalar(name, value) for name, value in metrics.items() if name != "round"
        }
        data = (json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n").encode(
            "utf-8", "backslashreplace"
        )
        try:
            with open(self.metrics_path, "a+b", buffering=0) as file:
                kept = _end_of_whole_lines(file)
                try:
                    if kept.needs_newline:
                        data = b"\n" + data
                    file.truncate(kept.size)
                    _write_all(file.fileno(), data)
                except OSError:
                    file.truncate(kept.size)
                    raise
        except OSError as error:
            raise RunError(unwritable(self.metrics_path, error)) from error

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics, as written; half a last line (the process was killed) is skipped."""
        try:
            lines = self.metrics_path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(f"{self.metrics_path}: cannot be read: {error}") from error
        metrics = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise ValueError("not an object")
            except ValueError as error:
                if number == len(
                    lines
                ):  # What follows the last newline is the only line that can be half-written.
                    break
                raise RunError(
                    f"{self.metrics_path}:{number}: not metrics ({error}). Mend the line or remove it."
                ) from error
            metrics.append(value)
        return metrics

    def rewind(self, round: int) -> None:
        """Forgets the metrics and rollouts of every round after `round`, which a resumed run plays again.

        Checkpoints are left alone. Safe to repeat, and to be killed in.
        """
        kept = [line for line in self.metrics() if line.get("round", 0) <= round]
        with atomic_file(self.metrics_path) as temporary:
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
            temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
        try:
            for later in self.rollout_rounds():
                if later > round:
                    self.rollout_path(later).unlink()
            # What a killed process left half-written.
            for leftover in [*self.path.glob(".*.tmp"), *self.rollouts_path.glob(".*.tmp")]:
                leftover.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"{self.path}: rollouts after round {round} cannot be removed: {error}") from error

    @property
    def is_unused(self) -> bool:
        """True for a run that has begun but has no metrics, rollouts or checkpoint: nothing that one would miss."""
        try:
            begun = self.config_path.read_bytes().startswith(_COMMAND_LINE.encode())
        except OSError:
            return False
        return begun and not self._has_results()

    def _has_results(self) -> bool:
        return (
            (self.metrics_path.exists() and self.metrics_path.stat().st_size > 0)
            or any(self.rollouts_path.glob("*.parquet"))
            or any(not re.fullmatch(r"\.\d+", path.name) for path in self.checkpoints_path.glob("*"))
        )  # .000010 is a checkpoint that was being written when the process was killed

    def sync(self) -> None:
        """Have the metrics on the disk before this returns. Raises RunError if the system cannot."""
        try:
            sync(self.metrics_path)
        except OSError as error:
            raise RunError(unwritable(self.metrics_path, error)) from error


def held_out_cost(line: Mapping[str, Any]) -> float | None:
    """By what a round's weights are compared on held-out prompts or examples: less is better. None if it has nothing."""
    loss, gold = line.get("eval/loss"), line.get("eval/gold")
    if loss is not None:
        return float(loss)
    return None if gold is None else -float(gold)


def numbers(metrics: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """One metric over lines of metrics; NaN where a line has no number for it."""
    return [
        float(value) if isinstance(value := line.get(name), int | float) else math.nan for line in metrics
    ]


class _Kept(NamedTuple):
    """How much of a metrics file to keep before a line is added."""

    size: int
    needs_newline: bool


def _end_of_whole_lines(file: IO[bytes]) -> _Kept:
    """Everything, unless the last line was cut off: then all before it."""
    size = file.seek(0, os.SEEK_END)
    tail = b""
    position = size
    while position > 0 and b"\n" not in tail:
        step = min(4096, position)
        position -= step
        file.seek(position)
        tail = file.read(step) + tail
    last = tail.rpartition(b"\n")[2]
    if not last:
        return _Kept(size, needs_newline=False)
    try:
        json.loads(last)
    except ValueError:
        return _Kept(size - len(last), needs_newline=False)
    return _Kept(size, needs_newline=True)


def _write_all(descriptor: int, data: bytes) -> None:
    """One write, unless the disk takes only part of it: then the next one says why."""
    while data:
        data = data[os.write(descriptor, data) :]


def _json_scalar(name: str, value: Any) -> float | int | str | None:
    if not isinstance(value, float | int | str | None) and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, int | str):
        return value
    raise TypeError(f"metric {name!r} is a {type(value).__name__}; metrics are numbers, text or None")


def _one_line(text: str) -> str:
    """Without line breaks, and without the characters that YAML refuses even in a comment."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def _plain(value: Any, name: str) -> Any:
    """`value` in the types that YAML has; `name` is its dotted key."""
    if isinstance(value, Enum):
        return _plain(value.value, name)
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool):
        return value
    # A subclass (numpy.float64 is a float) prints as an object in YAML, so it is made the plain type.
    for plain in (int, float, str):
        if isinstance(value, plain):
            return plain(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    raise ConfigError(
        f"{name}: a {type(value).__name__} cannot be written to config.yaml. Give its name or its numbers."
    )


def _numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """The entries of `folder` whose whole name matches, by the number in the group that matched."""
    try:
        entries = list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    matches = [(re.fullmatch(pattern, entry.name), entry) for entry in entries]
    return {int(match[match.lastindex or 0]): entry for match, entry in matches if match}
