"""The loops (supervised, reinforcement learning), their config, and the table of algorithms."""

from ventaja.training.algorithms import ALGORITHMS, Algorithm, customised
from ventaja.training.config import EvaluationConfig, RlConfig, SftConfig, parse
from ventaja.training.evaluate import Evaluation, evaluate
from ventaja.training.rl import train_rl
from ventaja.training.sft import train_sft

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Evaluation",
    "EvaluationConfig",
    "RlConfig",
    "SftConfig",
    "customised",
    "evaluate",
    "parse",
    "train_rl",
    "train_sft",
]
