"""What a run file on rankings can say: `ventaja reward` and `ventaja dpo`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ventaja.settings import Settings
from ventaja.training.config import (
    AdamWConfig,
    Config,
    ModelConfig,
    OptimiserConfig,
    RunConfig,
    changed_settings,
)


class RankingDataConfig(Settings):
    """Rankings. `data: rankings.jsonl` is short for `data: {source: rankings.jsonl}`."""

    source: str | tuple[str, ...]
    """Files of rankings, as `ventaja rank` exports them, or of preference pairs: .jsonl, .json, .parquet or .csv. One, or a
    list."""
    size: int | None = Field(None, ge=1)
    """Use this many rankings, the first ones."""
    max_tokens: int | None = Field(None, ge=2)
    """Longest prompt and answer together; what goes beyond is cut off, and how often is said. Unset: what the model takes."""

    @field_validator("source")
    @classmethod
    def _is_named(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value or (not isinstance(value, str) and "" in value):
            raise ValueError("names no file")
        return value

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,) if isinstance(self.source, str) else self.source


class RankingLossConfig(Settings):
    """How a ranking is explained by scores: Plackett–Luce, with ties as the sum over the orders that agree with them."""

    margin: float = Field(0.0, ge=0, allow_inf_nan=False)
    """By how much an answer's score has to win."""
    raters: Literal["weight", "reliability"] = "weight"
    """weight: a ranking counts as its own weight says. reliability: and how reliable each rater is is fitted beside (Crowd-BT,
    for rankings), with a prior at 10 to 1."""
    centring: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Weight of the squared mean score of a prompt's answers, which rankings alone leave free."""
    line: Literal["learn", "ignore"] = "learn"
    """learn: the line between acceptable and not is one more item, with a score of its own, and rewards are scores less it.
    ignore: as if no rater had drawn any."""


class HeadConfig(Settings):
    """The linear head that reads scores off the last hidden state."""

    learning_rate: float = Field(0.02, gt=0, allow_inf_nan=False)
    """Highest learning rate of the head (the network's is the optimiser's): one step moves no score by much more than this."""
    ensemble: int = Field(1, ge=1, le=64)
    """So many heads, each with random weights of its own to begin with and its own random emphasis on the rankings (the
    Bayesian bootstrap); the score is their mean, their spread says how sure it is."""


class RankingEvalConfig(Settings):
    """Held-out prompts with all of their rankings. None of them is trained on."""

    source: str | None = Field(None, min_length=1)
    """A file with their rankings. Unset: `fraction` of the prompts are drawn and set aside."""
    fraction: float = Field(0.1, ge=0, lt=1)
    """The share of the prompts that is set aside, at least one; 0 sets none aside, and nothing is measured."""
    seed: int = Field(1_000_003, ge=0)
    """Seed of which are set aside."""
    every: int | None = Field(None, ge=1)
    """Measure after every this many optimiser steps too, and keep the best checkpoint. Unset: at the end only."""


class RankingOptimiserConfig(OptimiserConfig):
    """AdamW (arXiv:1711.05101) on float32 master weights."""

    learning_rate: float = Field(1e-5, gt=0, allow_inf_nan=False)
    """Highest learning rate."""


class DpoOptimiserConfig(OptimiserConfig):
    """AdamW (arXiv:1711.05101) on float32 master weights."""

    learning_rate: float = Field(2e-6, gt=0, allow_inf_nan=False)
    """Highest learning rate."""


class RankingRunConfig(RunConfig):
    """Where the run goes, how long it is, and what it keeps."""

    updates: int | None = Field(None, ge=1)
    """Optimiser steps. Unset: `epochs` passes over the prompts."""
    epochs: int = Field(1, ge=1)
    """Passes over the prompts, when `updates` is unset."""
    batch_size: int = Field(16, ge=1)
    """Prompts per optimiser step, each with all of its answers and rankings."""


class RankingConfig(Config):
    """What runs on rankings share."""

    model: ModelConfig
    data: RankingDataConfig
    eval: RankingEvalConfig = RankingEvalConfig()
    run: RankingRunConfig

    @model_validator(mode="after")
    def _check(self) -> RankingConfig:
        if self.run.updates is not None and "epochs" in changed_settings(self.run):
            raise ValueError("run.epochs would have no effect, because run.updates is set: leave one out")
        if self.eval.source is not None:
            for name in {"fraction", "seed"} & set(changed_settings(self.eval)):
                raise ValueError(
                    f"eval.{name} would have no effect: eval.source is set, and all of it is held out"
                )
        elif not self.eval.fraction and self.eval.every is not None:
            raise ValueError("eval.every would have no effect: eval.fraction is 0, so nothing is held out")
        return self


class RewardModelConfig(RankingConfig):
    """A reward model's training (`ventaja reward`)."""

    ranking: RankingLossConfig = RankingLossConfig()
    head: HeadConfig = HeadConfig()
    optimiser: RankingOptimiserConfig = RankingOptimiserConfig()

    def head_optimiser(self) -> AdamWConfig:
        """The head's: the network's schedule at the head's own learning rate."""
        shared = {name: getattr(self.optimiser, name) for name in AdamWConfig.model_fields}
        return AdamWConfig(**shared | {"learning_rate": self.head.learning_rate, "weight_decay": 0.0})


class DpoSettings(Settings):
    """Direct preference optimisation (arXiv:2305.18290) on whole rankings."""

    beta: float = Field(0.1, gt=0, allow_inf_nan=False)
    """β: how strongly the policy is held near the reference. Small lets it go far."""
    margin: float = Field(0.0, ge=0, allow_inf_nan=False)
    """By how much an answer's implicit reward has to win."""


class DpoConfig(RankingConfig):
    """Direct preference optimisation (`ventaja dpo`)."""

    dpo: DpoSettings = DpoSettings()
    optimiser: DpoOptimiserConfig = DpoOptimiserConfig()
