"""The value head: how much reward is expected from here on, read from a hidden state."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ValueHead:
    """V = w · h / (D · rms(h)) + b, in float32 beside a network of any precision.

    It begins as the constant `initial_value`: w is 0, so that its first values are no noise in the advantages. With the
    hidden state brought to one size, and its D numbers averaged, one step of Adam moves no value by much more than its
    learning rate, whatever the model.
    """

    def __init__(self, width: int, *, device: torch.device, initial_value: float = 0.0) -> None:
        self.module = nn.Linear(width, 1, device=device, dtype=torch.float32)
        with torch.no_grad():
            self.module.weight.zero_()
            self.module.bias.fill_(initial_value)

    @torch.no_grad()
    def begin_from(self, weight_D: Tensor, *, size: float, constant: float) -> None:
        """Begin near w · h + constant, which is exact for hidden states of root mean square `size`."""
        self.module.weight.copy_(weight_D * (weight_D.numel() * size))
        self.module.bias.fill_(constant)

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Its parameters with their names."""
        return list(self.module.named_parameters())

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        """Values [N] of hidden states [N, D]."""
        hidden_ND = hidden_ND.float()
        size_N1 = hidden_ND.square().mean(dim=1, keepdim=True).add(1e-6).sqrt()
        return self.module(hidden_ND / (size_N1 * hidden_ND.shape[1]))[:, 0]
