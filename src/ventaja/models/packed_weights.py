"""Weights in oneDNN's own layout, so that a product with few rows does not rearrange them each time; for the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 64
"""The number of rows that the layout is chosen for; others work too."""


class PackedWeights:
    """A second copy of the linear layers' weights, used inside `active()`. It is of the moment it was made."""

    def __init__(self, model: nn.Module) -> None:
        self._packed = [
            (m, _Packed(m)) for m in model.modules() if type(m) is nn.Linear and _can_pack(m.weight)
        ]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside the block linear layers multiply with their packed weights; without gradients."""
        for linear, packed in self._packed:
            linear.forward = packed  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            for linear, _ in self._packed:
                del linear.forward


class _Packed:
    def __init__(self, linear: nn.Linear) -> None:
        self.bias = linear.bias
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        nothing: Any = ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, *nothing)


def _can_pack(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32
