"""The model that a config names."""

from __future__ import annotations

from ventaja.models import Policy, load_policy
from ventaja.settings import Precision
from ventaja.training.config import ModelConfig


def load_model(config: ModelConfig, name: str | None = None, *, precision: Precision | None = None) -> Policy:
    """The model as the group `model` says; `name` and `precision` stand in for its own, as for a run's checkpoint.

    Raises ModelError or ConfigError with what to do next.
    """
    return load_policy(
        config.name if name is None else name,
        device=config.device,
        precision=config.precision if precision is None else precision,
        lora=config.lora,
        trust_remote_code=config.trust_remote_code,
        chat_template=config.chat_template,
        cpu=config.cpu,
    )
