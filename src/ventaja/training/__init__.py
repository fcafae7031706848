"""The loops (supervised, on rankings, reinforcement learning), their config, and the table of algorithms."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ventaja.training.algorithms import ALGORITHMS, Algorithm, customised
from ventaja.training.config import EvaluationConfig, RlConfig, SftConfig, parse
from ventaja.training.ranking_config import DpoConfig, RewardModelConfig
from ventaja.training.sampling_config import SampleConfig

if TYPE_CHECKING:
    from ventaja.training.dpo import train_dpo
    from ventaja.training.evaluation import Evaluation, evaluate
    from ventaja.training.reward_model import train_reward_model
    from ventaja.training.rl import train_rl
    from ventaja.training.sampling import Sampled, sample
    from ventaja.training.sft import train_sft

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "DpoConfig",
    "Evaluation",
    "EvaluationConfig",
    "RewardModelConfig",
    "RlConfig",
    "SampleConfig",
    "Sampled",
    "SftConfig",
    "customised",
    "evaluate",
    "parse",
    "sample",
    "train_dpo",
    "train_reward_model",
    "train_rl",
    "train_sft",
]

_LOOPS = {
    "Evaluation": "ventaja.training.evaluation",
    "Sampled": "ventaja.training.sampling",
    "evaluate": "ventaja.training.evaluation",
    "train_dpo": "ventaja.training.dpo",
    "train_reward_model": "ventaja.training.reward_model",
    "sample": "ventaja.training.sampling",
    "train_rl": "ventaja.training.rl",
    "train_sft": "ventaja.training.sft",
}


def __getattr__(name: str) -> Any:
    """The loops load on first use: a run file can be checked without waiting for torch."""
    if name not in _LOOPS:
        raise AttributeError(f"module 'ventaja.training' has no attribute {name!r}")
    return getattr(import_module(_LOOPS[name]), name)
