"""What of an update is lost when float32 master weights are rounded to the precision that the model computes in."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

SAMPLE = 2**16
"""Numbers that are looked at of each weight, evenly spaced: the norms are estimates, and cost next to nothing."""


class Rounding:
    """Remembers where the weights started. `weights`: each rounded weight and its float32 master, by name."""

    def __init__(self, weights: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        self.start = {name: _sample(low).clone() for name, (low, _) in weights.items()}

    def swallowed(self, weights: Mapping[str, tuple[Tensor, Tensor]]) -> float:
        """The share of the way gone since the start, as a norm, that rounding takes away.

        1 − ‖rounded − start‖ / ‖master − start‖. At 1 no weight has moved far enough from its start to be rounded
        to another number; below 0 rounding has moved them farther than the optimiser did. NaN before the first step.
        """
        kept = moved = 0.0
        for name, (low, master) in weights.items():
            start, share = self.start[name].float(), low.numel() / self.start[name].numel()
            kept += share * float((_sample(low).float() - start).square().sum())
            moved += share * float((_sample(master) - start).square().sum())
        return 1 - math.sqrt(kept / moved) if moved else math.nan


def _sample(weight: Tensor) -> Tensor:
    return weight.flatten()[:: max(1, weight.numel() // SAMPLE)]
