"""Rows of the package datasets: a data set by its name, or a folder that `save_to_disk` wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ventaja import hub
from ventaja.environments._hints import clipped, listed
from ventaja.errors import ConfigError, DataError
from ventaja.rows import ENDINGS

Rows = Iterable[Mapping[str, Any]]


def is_saved(folder: Path) -> bool:
    """True for a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def saved_rows(source: str, options: Mapping[str, Any]) -> tuple[str, Rows]:
    """What to call the rows of such a folder (with the split, if it has several), and the rows."""
    datasets = _package(f"{source!r} is a folder of the package datasets, which is needed to read it")
    if unknown := set(options) - {"split"}:
        raise ConfigError(
            f"{source}: such a folder has one option, 'split', but {listed(sorted(unknown))} was given. Leave it out."
        )
    try:
        rows = datasets.load_from_disk(str(Path(source).expanduser()))
    except Exception as error:
        raise DataError(
            f"{source}: the folder cannot be read: {error}. Save it with save_to_disk again."
        ) from error
    if not isinstance(rows, Mapping):
        if "split" in options:
            raise ConfigError(f"{source}: it has no splits, so the option 'split' would have no effect.")
        return source, rows
    split = options.get("split", "train")
    if split not in rows:
        raise DataError(
            f"{source}: it has no split {split!r}, but {listed(map(str, rows))}. Name one in the option 'split'."
        )
    return f"{source}:{split}", rows[split]


def named_rows(source: str, options: Mapping[str, Any]) -> tuple[str, Rows]:
    """What to call the rows of a data set that `datasets.load_dataset` knows by this name, and the rows."""
    if hub.is_meant_locally(source, holding=("*/config.yaml", *(f"*{ending}" for ending in ENDINGS))):
        raise DataError(
            f"{source}: {hub.NOT_HERE}. (It is not looked for on the Hugging Face hub, for "
            f"{source.partition('/')[0]!r} is a local folder by its name or by what it holds.)"
        )
    datasets = _package(
        f"{source}: {hub.NOT_HERE}, and for the name of a data set the package datasets is needed",
        f" If you meant a file, its name ends in {listed(ENDINGS)}.",
    )
    settings = {"split": "train", **options}
    try:
        with hub.quick(source):
            rows = datasets.load_dataset(source, **settings)
    except Exception as error:
        reason = clipped(str(error).strip() or type(error).__name__, 600)
        what = f"the data set cannot be loaded with the options {settings}"
        advice = "Check its name and options, and whether this machine can reach it."
        is_looked_up = not {"data_files", "data_dir"} & settings.keys()
        if is_looked_up and isinstance(error, hub.HubError | datasets.exceptions.DatasetNotFoundError):
            what = f"{hub.NOT_HERE}, and {what}"
        if isinstance(error, hub.HubError):
            advice = "Without the hub, download it elsewhere and give its files or folder."
        raise DataError(f"{source}: {what}: {reason} {advice}") from error
    if isinstance(rows, Mapping):
        raise DataError(
            f"{source}: it has the splits {listed(map(str, rows))}. Name one in the option 'split'."
        )
    return f"{source}:{settings['split']}", rows


def _package(why: str, hint: str = "") -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(f"{why}: pip install 'ventaja[datasets]'.{hint}") from error
    return datasets
