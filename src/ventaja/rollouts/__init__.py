"""Engines that sample, and judged groups of what they said."""

from ventaja.rollouts.asking import Asking, roll_out
from ventaja.rollouts.engine import Engine, Interrupted, Sampling
from ventaja.rollouts.local import LocalEngine
from ventaja.rollouts.scripted import ScriptedEngine

__all__ = [
    "Asking",
    "Engine",
    "Interrupted",
    "LocalEngine",
    "Sampling",
    "ScriptedEngine",
    "roll_out",
]
