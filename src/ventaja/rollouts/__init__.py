"""Engines that sample answers, and collecting groups of them."""

from ventaja.rollouts.collect import Asked, Watch, sample_and_judge, sample_groups
from ventaja.rollouts.engine import Engine, Interrupted, Request, Sampling
from ventaja.rollouts.local import LocalEngine
from ventaja.rollouts.scripted import ScriptedEngine

__all__ = [
    "Asked",
    "Engine",
    "Interrupted",
    "LocalEngine",
    "Request",
    "Sampling",
    "ScriptedEngine",
    "Watch",
    "sample_and_judge",
    "sample_groups",
]
