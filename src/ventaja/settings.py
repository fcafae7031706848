"""What can be set, without anything that has to be loaded for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["auto", "bfloat16", "float32"]
CpuWay = Literal["fast", "plain"]

GENERATED = "reasoning_gym:"
"""What the name of a source begins with whose rows are made from a seed."""
NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
"""Of a source or a reward that is given none."""


class Settings(BaseModel):
    """Frozen, typed and validated; an unknown name is an error; attribute docstrings are the help texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Sampling(Settings):
    """How answers are drawn."""

    temperature: float = Field(1.0, ge=0)
    """Divides the logits; 0 takes the likeliest token. Training scores tokens at the same temperature."""
    max_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""
    top_k: int | None = Field(None, ge=1)
    """Keep the k likeliest tokens; all if unset. In rl leave it out, and top_p and min_p too: training scores the
    whole distribution (docs/metrics.md, `sampling/logprob_gap`)."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Keep the fewest likeliest tokens whose probabilities reach this sum."""
    min_p: float = Field(0.0, ge=0, lt=1)
    """Keep tokens at least this fraction as likely as the likeliest."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer where they appear."""

    @property
    def is_whole(self) -> bool:
        """True if tokens come from the model's whole distribution, without cutting any off."""
        return self.temperature > 0 and self.top_k is None and self.top_p == 1 and self.min_p == 0


class LoraSettings(Settings):
    """Low-rank adapters (arXiv:2106.09685) through PEFT."""

    rank: int = Field(16, ge=1)
    """Rank of each adapter."""
    alpha: float = Field(32.0, gt=0)
    """The adapters' output is scaled by alpha / rank."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Which linear layers get adapters: names, or all-linear."""


def cache_folder() -> Path:
    """`$VENTAJA_CACHE`, else `$XDG_CACHE_HOME/ventaja`, else `~/.cache/ventaja`."""
    if own := os.environ.get("VENTAJA_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ventaja"
