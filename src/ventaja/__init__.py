"""Ventaja turns human rankings or a reward function into a better language model."""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ventaja import functional
    from ventaja.api import dpo, reward, rl, sft
    from ventaja.environments import log_metric
    from ventaja.errors import VentajaError
    from ventaja.tracking import Run
    from ventaja.training import (
        ALGORITHMS,
        Algorithm,
        DpoConfig,
        Evaluation,
        EvaluationConfig,
        RewardModelConfig,
        RlConfig,
        SftConfig,
        evaluate,
        parse,
        train_dpo,
        train_reward_model,
        train_rl,
        train_sft,
    )
    from ventaja.training.algorithms import (
        CISPO,
        DAPO,
        DR_GRPO,
        GRPO,
        GRPO_PROCESS,
        GSPO,
        PPO,
        PPO_CLIP,
        REINFORCE,
        REINFORCE_PP,
        REINFORCE_PP_BASELINE,
        REMAX,
        RLOO,
    )

__version__ = "0.1.0"

if (
    "torch" not in sys.modules  # which reads it as it is loaded
    and not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    and os.environ.get("VENTAJA_CPU") != "plain"
):
    # A thread of torch's waits for the others in a loop, on a core that one of them may need, and sleeps only after
    # milliseconds. With a hundredth of that a run is as fast alone, and far faster beside a busy process (`cpu.threads`).
    os.environ["GOMP_SPINCOUNT"] = "2000"

__all__ = [
    "ALGORITHMS",
    "CISPO",
    "DAPO",
    "DR_GRPO",
    "GRPO",
    "GRPO_PROCESS",
    "GSPO",
    "PPO",
    "PPO_CLIP",
    "REINFORCE",
    "REINFORCE_PP",
    "REINFORCE_PP_BASELINE",
    "REMAX",
    "RLOO",
    "Algorithm",
    "DpoConfig",
    "Evaluation",
    "EvaluationConfig",
    "RewardModelConfig",
    "RlConfig",
    "Run",
    "SftConfig",
    "VentajaError",
    "dpo",
    "evaluate",
    "functional",
    "log_metric",
    "parse",
    "reward",
    "rl",
    "sft",
    "train_dpo",
    "train_reward_model",
    "train_rl",
    "train_sft",
]

_HOME = {
    "dpo": "ventaja.api",
    "reward": "ventaja.api",
    "rl": "ventaja.api",
    "sft": "ventaja.api",
    "log_metric": "ventaja.environments",
    "VentajaError": "ventaja.errors",
    "Run": "ventaja.tracking",
    **dict.fromkeys(
        (
            "CISPO",
            "DAPO",
            "DR_GRPO",
            "GRPO",
            "GRPO_PROCESS",
            "GSPO",
            "PPO",
            "PPO_CLIP",
            "REINFORCE",
            "REINFORCE_PP",
            "REINFORCE_PP_BASELINE",
            "REMAX",
            "RLOO",
        ),
        "ventaja.training.algorithms",
    ),
}
"""Where a public name lives, if not in ventaja.training."""


def __getattr__(name: str) -> Any:
    """Public names load on first use, so that `import ventaja` and `ventaja --help` do not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'ventaja' has no attribute {name!r}")
    if name == "functional":
        return import_module("ventaja.functional")
    return getattr(import_module(_HOME.get(name, "ventaja.training")), name)


def __dir__() -> list[str]:
    return __all__
