"""Engines that sample, and judged groups of what they said."""

from ventaja.rollouts.asking import Asking, load_weights, release, roll_out
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
    "load_weights",
    "release",
    "roll_out",
]
