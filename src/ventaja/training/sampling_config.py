"""What a run file of `ventaja sample` can say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from ventaja.settings import Sampling, Settings
from ventaja.training.config import Config, DataConfig, EngineConfig, ModelConfig, changed_settings


class CandidateConfig(Settings):
    """Who answers. A bare string is short for `{model: …}`."""

    model: str | None = Field(None, min_length=1)
    """A short name, a folder (a run folder means its last checkpoint), or a hub id; model.name if unset."""
    temperature: float | None = Field(None, ge=0)
    """sampling.temperature if unset."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value


class SampleConfig(Config):
    """Answers to rank (`ventaja sample`)."""

    model: ModelConfig | None = None
    data: DataConfig | None = None
    engine: EngineConfig = EngineConfig()
    sampling: Sampling = Sampling()
    answers: int = Field(4, ge=2)
    """Answers per prompt."""
    candidates: tuple[CandidateConfig, ...] = ()
    """Several models or temperatures, which take turns at a prompt's answers. They need one tokenizer and one chat
    template. Empty: the model alone."""
    alike: float | None = Field(0.95, gt=0, le=1)
    """Of a prompt's answers that are at least this similar (0 to 1) and name the same numbers, the first one stays. 1: only
    the same text, up to capitals and spaces; null: all stay."""
    from_run: Path | None = None
    """Take the answers from this run folder's rollouts, instead of sampling any; the run may still go on."""
    rounds: tuple[int, ...] = ()
    """Of from_run: these rounds. Empty: the last one."""
    output: Path
    """The file of groups to write, called .parquet. It must not be there yet; what is sampled so far is kept in
    OUTPUT.partial, and the same command goes on from there."""
    readable: Path | None = None
    """Write the prompts and their answers to this .jsonl file too, for a person to read."""
    seed: int = Field(0, ge=0)
    """Seed of sampling, and of which of a run's answers are taken."""

    @field_validator("candidates", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | dict) else value

    @field_validator("output", "readable")
    @classmethod
    def _is_called_so(cls, value: Path | None, info: Any) -> Path | None:
        ending = ".parquet" if info.field_name == "output" else ".jsonl"
        if value is not None and value.suffix != ending:
            called = value.with_suffix(ending) if value.name else f"answers{ending}"
            raise ValueError(f"must be called {ending}, for that is what is written: {called}")
        return value

    @model_validator(mode="after")
    def _check(self) -> SampleConfig:
        if self.from_run is None:
            self._check_sampling()
            return self
        for name in ("model", "data", "engine", "sampling", "candidates"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} would have no effect: the answers of from_run are there already. Leave one of the two out"
                )
        return self

    def _check_sampling(self) -> None:
        if self.rounds:
            raise ValueError("rounds would have no effect: they are those of from_run, which is not set")
        for name, what in (("model", "model.name"), ("data", "data.source")):
            if getattr(self, name) is None:
                raise ValueError(f"{what}: must be set (or from_run, to take a run's answers)")
        assert self.model is not None
        assert self.data is not None
        if self.model.lora is not None:
            raise ValueError(
                "model.lora would have no effect: it makes new adapters. An adapter folder is given as model.name"
            )
        if any(part.weight != 1 for part in self.data.sources):
            raise ValueError("data.source: a weight would have no effect, for every prompt is answered once")
        if len(self.candidates) > self.answers:
            raise ValueError(
                f"answers ({self.answers}) is less than there are candidates ({len(self.candidates)}): some would say nothing"
            )
        for candidate, count in zip(self.chosen_candidates, self.shares, strict=True):
            if candidate.temperature == 0 and count > 1:
                raise ValueError(
                    f"temperature 0 makes all {count} answers of {candidate.model} to a prompt the same. Raise it, or make it "
                    "one candidate of several"
                )
        if len(set(self.chosen_candidates)) < len(self.candidates):
            raise ValueError("candidates: two of them are the same. Leave one out")
        all_have_one = all(candidate.temperature is not None for candidate in self.candidates)
        if self.candidates and all_have_one and "temperature" in changed_settings(self.sampling):
            raise ValueError("sampling.temperature would have no effect: each of the candidates has its own")

    @property
    def chosen_candidates(self) -> tuple[CandidateConfig, ...]:
        """Who answers, each with its model and temperature."""
        assert self.model is not None
        return tuple(
            CandidateConfig(
                model=one.model or self.model.name,
                temperature=self.sampling.temperature if one.temperature is None else one.temperature,
            )
            for one in self.candidates or (CandidateConfig(),)
        )

    @property
    def shares(self) -> tuple[int, ...]:
        """How many of a prompt's answers each candidate gives: as even as can be, the first ones one more."""
        each, more = divmod(self.answers, max(len(self.candidates), 1))
        return tuple(each + (place < more) for place in range(max(len(self.candidates), 1)))
