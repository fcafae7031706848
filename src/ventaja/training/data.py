"""The rows that a config names, without those that are held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from ventaja.environments import load_examples, load_prompts
from ventaja.errors import ConfigError, DataError
from ventaja.records import Example, Message, Prompt
from ventaja.settings import GENERATED
from ventaja.tracking.words import counted
from ventaja.training.config import (
    DataConfig,
    EvalConfig,
    RlConfig,
    SftConfig,
    SftEvalConfig,
    SourceConfig,
)

RowT = TypeVar("RowT", Prompt, Example)

SET_ASIDE = 0x0F
"""Names the random stream that draws the examples to hold out."""


def training_prompts(config: DataConfig) -> list[Prompt]:
    """The prompts of `config`, less those that `config.exclude` asks too."""
    return _without_held_out(_mixed(config, prompts_of), config)


def training_examples(config: DataConfig) -> list[Example]:
    """The supervised examples of `config`, less those whose prompt `config.exclude` asks too."""
    return _without_held_out(_mixed(config, examples_of), config)


def prompts_of(source: SourceConfig, system_prompt: str | None = None) -> list[Prompt]:
    """The prompts of one source."""
    return load_prompts(source.source, system_prompt=system_prompt, **_rows(source))


def examples_of(source: SourceConfig, system_prompt: str | None = None) -> list[Example]:
    """The supervised examples of one source."""
    return load_examples(source.source, system_prompt=system_prompt, **_rows(source))


def _rows(source: SourceConfig) -> dict[str, Any]:
    """Which rows of the source are meant."""
    return {"options": source.options, "size": source.size, "seed": source.seed}


def held_out_prompts(config: RlConfig) -> list[Prompt]:
    """The problems that are measured during training, if any are."""
    if config.eval.every is None:
        return []
    if config.data is None:  # the config has checked that eval.source is set
        return prompts_of(SourceConfig(source=config.eval.source, size=config.eval.size))
    source = _held_out_source(config.data, config.eval)
    if source is None:
        raise ConfigError(
            "eval.source: must be set to measure on held-out problems: only generated tasks can make their own."
        )
    return prompts_of(source, config.data.system_prompt)


def hold_out(
    config: SftConfig, examples: Sequence[Example], *, say: Callable[[str], None] = lambda text: None
) -> tuple[list[Example], list[Example]]:
    """The examples to train on, and those whose loss is measured: none unless `eval.every` is set.

    No example to train on asks what one of the others asks; `say` is told how many are left out for that.
    """
    e = config.eval
    if e.every is None:
        return list(examples), []
    source = _held_out_source(config.data, e)
    if source is not None:
        held_out = examples_of(source, config.data.system_prompt)
    else:
        drawn = np.random.default_rng([e.seed, SET_ASIDE]).permutation(len(examples))[: e.size]
        held_out = [examples[i] for i in sorted(drawn)]
    kept = unseen(examples, held_out)
    if not kept:
        raise ConfigError(
            f"eval: each example ({len(examples)} in all) is held out, or has the prompt of one that is, so none is left "
            "to train on. Lower eval.size if there are other prompts, or name another eval.source."
        )
    alike = len(examples) - len(kept) - (len(held_out) if source is None else 0)
    if alike > 0:
        say(f"Not trained on: {counted(alike, 'example')} with the prompt of a held-out one (eval).")
    return kept, held_out


def unseen(rows: Sequence[RowT], held_out: Sequence[Prompt | Example]) -> list[RowT]:
    """The rows that ask nothing that `held_out` asks; system messages do not count.

    Text without a prompt asks nothing, so there the whole text is compared.
    """
    asked = {question_of(row) for row in held_out}
    return [row for row in rows if question_of(row) not in asked]


def _mixed(config: DataConfig, load: Callable[[SourceConfig, str | None], list[RowT]]) -> list[RowT]:
    """The rows of all sources, one source after the other, each with its source's weight.

    Files of several sources may share a name; then an id says which of the sources is meant.
    """
    sources = config.sources
    loaded = [load(source, config.system_prompt) for source in sources]
    count = Counter(row.id for rows in loaded for row in rows)
    return [
        replace(row, weight=source.weight, id=row.id if count[row.id] == 1 else f"source {number}: {row.id}")
        for number, (source, rows) in enumerate(zip(sources, loaded, strict=True), 1)
        for row in rows
    ]


def _held_out_source(data: DataConfig, e: EvalConfig | SftEvalConfig) -> SourceConfig | None:
    """Where held-out rows come from: a source of their own, or the same task with another seed; else None."""
    if e.source is None and not data.is_generated:
        if e.options is not None:
            raise ConfigError("eval.options would have no effect: set eval.source, whose options they are.")
        return None
    source = e.source or data.source_name
    inherited = data.options if source == data.source else {}
    return SourceConfig(
        source=source,
        options=inherited if e.options is None else e.options,
        size=e.size,
        **({"seed": e.seed} if source.startswith(GENERATED) else {}),
    )


def _without_held_out(rows: list[RowT], config: DataConfig) -> list[RowT]:
    if config.exclude and (text := next((r for r in rows if isinstance(r, Example) and not r.prompt), None)):
        raise DataError(
            f"{text.id}: data.exclude compares prompts, and this row has only text. Leave data.exclude out, or give "
            "the rows 'prompt' and 'completion'."
        )
    for source in config.exclude:
        rows = unseen(rows, prompts_of(source))
    if not rows:
        raise DataError(
            f"{config.source_name}: no row is left: data.exclude asks all of them. Raise data.size."
        )
    return rows


def question_of(row: Prompt | Example) -> str:
    """What a row asks, without system messages and the white space around."""
    if isinstance(row, Prompt):
        content: str | tuple[Message, ...] = row.content
    else:
        content = row.prompt or row.completion
    if isinstance(content, str):
        return content.strip()
    return "\n".join(turn["content"].strip() for turn in content if turn["role"] != "system")
