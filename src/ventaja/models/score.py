"""The score head of a reward model: how good an answer is, read from the hidden state of its last token."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Weights(nn.Module):
    def __init__(self, width: int, heads: int, raters: int, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, width, device=device))
        self.line = nn.Parameter(torch.zeros(heads, device=device))
        self.reliability = nn.Parameter(torch.zeros(raters, device=device))


class ScoreHead:
    """s_e = u_e · h / (D · size) for each of E heads, in float32 beside a network of any precision.

    Linear, without a bias, so that it can be saved as the `score` layer of a sequence classifier: w_e = u_e / (D · size).
    `size` is one number, the root mean square of hidden states as training began: with it one step of Adam moves no score by
    much more than its learning rate, whatever the model. Beside the heads stand what else rankings teach: the score of the
    line between acceptable and not, by each head, and for each rater log(η / (1 − η)) of how reliable they are.
    """

    def __init__(self, width: int, *, heads: int = 1, raters: int = 0, device: torch.device) -> None:
        self.module = _Weights(width, heads, raters, device)
        self.size = 1.0

    @property
    def heads(self) -> int:
        return int(self.module.weight.shape[0])

    @property
    def line_E(self) -> Tensor:
        """The line's score, by each head."""
        return self.module.line

    @property
    def reliability_R(self) -> Tensor:
        """log(η / (1 − η)) of each rater."""
        return self.module.reliability

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Its parameters with their names; without raters there is none for them."""
        return [(name, p) for name, p in self.module.named_parameters() if p.numel()]

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        """Scores [N, E] of hidden states [N, D]."""
        return nn.functional.linear(hidden_ND.float() / self._divisor, self.module.weight)

    @property
    def _divisor(self) -> float:
        return self.size * int(self.module.weight.shape[1])

    def folded(self) -> Tensor:
        """w [E, D]: what a plain linear layer on the hidden states has to hold."""
        return self.module.weight.detach() / self._divisor

    @torch.no_grad()
    def take(self, weight_ED: Tensor, line_E: Tensor, *, size: float) -> None:
        """Become the heads that `folded` gave."""
        self.size = size
        self.module.weight.copy_(weight_ED * self._divisor)
        self.module.line.copy_(line_E)
