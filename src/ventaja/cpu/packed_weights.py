"""Float32 weights in oneDNN's own layout, so that a product with few rows does not rearrange them each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ventaja.cpu import operators


class PackedWeights:
    """A second copy of the linear layers' weights, used inside `active()`. It is of the moment it was made."""

    def __init__(self, model: nn.Module) -> None:
        self._packed = [
            (m, _Packed(m)) for m in model.modules() if type(m) is nn.Linear and operators.can_pack(m.weight)
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
        self.weight = operators.pack_weight(linear.weight)

    def __call__(self, x: Tensor) -> Tensor:
        return operators.packed_product(x, self.weight, self.bias)
