"""The rows that a config names, without those that are held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ventaja.environments import load_examples, load_prompts
from ventaja.errors import ConfigError, DataError
from ventaja.records import Example, Message, Prompt
from ventaja.training.config import GENERATED, DataConfig, RlConfig, SourceConfig

RowT = TypeVar("RowT", Prompt, Example)


def training_prompts(config: DataConfig) -> list[Prompt]:
    """The prompts of `config`, less those that `config.exclude` asks too."""
    return _without_held_out(prompts_of(config, system_prompt=config.system_prompt), config)


def training_examples(config: DataConfig) -> list[Example]:
    """The supervised examples of `config`, less those whose prompt `config.exclude` asks too."""
    rows = load_examples(
        config.source,
        options=config.options,
        size=config.size,
        seed=config.seed,
        system_prompt=config.system_prompt,
    )
    return _without_held_out(rows, config)


def prompts_of(source: SourceConfig, *, system_prompt: str | None = None) -> list[Prompt]:
    """The prompts of one source."""
    return load_prompts(
        source.source,
        options=source.options,
        size=source.size,
        seed=source.seed,
        system_prompt=system_prompt,
    )


def held_out_prompts(config: RlConfig) -> list[Prompt]:
    """The problems that are measured during training, if any are."""
    e = config.eval
    if e.every is None:
        return []
    source = e.source or config.data.source
    is_generated = source.startswith(GENERATED)
    if e.source is None and not is_generated:
        raise ConfigError(
            "eval.source: must be set to measure on held-out problems: only generated tasks can make their own."
        )
    return prompts_of(
        SourceConfig(
            source=source,
            options=config.data.options if e.options is None else e.options,
            size=e.size,
            **({"seed": e.seed} if is_generated else {}),
        ),
        system_prompt=config.data.system_prompt,
    )


def unseen(rows: Sequence[RowT], held_out: Sequence[Prompt]) -> list[RowT]:
    """The rows that ask nothing that `held_out` asks; system messages do not count."""
    asked = {_question(prompt.content) for prompt in held_out}
    return [
        row for row in rows if _question(row.content if isinstance(row, Prompt) else row.prompt) not in asked
    ]


def _without_held_out(rows: list[RowT], config: DataConfig) -> list[RowT]:
    for source in config.exclude:
        rows = unseen(rows, prompts_of(source))
    if not rows:
        raise DataError(f"{config.source}: no row is left: data.exclude asks all of them. Raise data.size.")
    return rows


def _question(content: str | tuple[Message, ...]) -> str:
    if isinstance(content, str):
        return content.strip()
    return "\n".join(turn["content"].strip() for turn in content if turn["role"] != "system")
