"""What a conversation can be told."""

from __future__ import annotations

from pydantic import Field, model_validator

from ventaja.settings import Sampling
from ventaja.training.config import Config, ModelConfig


class ChatConfig(Config):
    """A conversation (`ventaja chat`)."""

    model: ModelConfig
    sampling: Sampling = Field(default_factory=Sampling)
    system: str | None = None
    """A system message, which is kept before the whole conversation."""
    seed: int = Field(0, ge=0)
    """Seed of sampling: the same words get the same answers."""

    @model_validator(mode="after")
    def _check(self) -> ChatConfig:
        if self.model.lora is not None:
            raise ValueError(
                "model.lora would have no effect: it adds new adapters, and a chat trains nothing"
            )
        return self
