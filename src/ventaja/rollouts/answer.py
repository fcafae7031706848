"""An answer while it is being sampled."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(eq=False)
class Answer:
    """Answer `index` to request `request`, as far as it has come."""

    request: int
    index: int
    uniforms: np.ndarray
    """One number per token that it may have: the answer's own random stream."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
