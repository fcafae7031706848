"""How tokens count. Computed once for a whole update, so that

    loss = (per_token_loss * weight).sum()

is the same however the update is then cut into micro-batches, packed, padded or shared between processes.

All take `is_action_BT`, True at the tokens that the policy chose, and give float32 weights [B, T], 0 at the
others. A sequence without any action token takes no part and is not counted; if there is none at all, every
weight is 0.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["fixed_length", "position_ramp", "sequence_mean", "sequence_sum", "token_mean"]


def sequence_sum(is_action_BT: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Mean over sequences of the sum over tokens:  w = 1 / B.

    The REINFORCE objective itself: the log-probability of a sequence is the sum over its tokens.
    """
    return is_action_BT / _sequences(is_action_BT)


def sequence_mean(is_action_BT: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Mean over sequences of the mean over tokens:  w = 1 / (B · |y_b|).

    GRPO (arXiv:2402.03300, eq. 3). A token of a long answer counts less than one of a short answer.
    """
    return is_action_BT / (is_action_BT.sum(1, keepdim=True).clamp(min=1) * _sequences(is_action_BT))


def token_mean(is_action_BT: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Mean over all tokens:  w = 1 / Σ_b |y_b|.

    DAPO (arXiv:2503.14476), section 3.3. Every token counts the same, so a long answer counts more.
    """
    return is_action_BT / is_action_BT.sum().clamp(min=1)


def fixed_length(is_action_BT: Bool[Tensor, "B T"], *, length: int) -> Float[Tensor, "B T"]:
    """Mean over sequences of the sum over tokens divided by a constant:  w = 1 / (B · length).

    Dr. GRPO (arXiv:2503.20783), with `length` the most tokens an answer may have. Raises ValueError unless
    `length` is above 0.
    """
    if length <= 0:
        raise ValueError(f"length must be above 0, got {length}. Give the most tokens an answer may have.")
    return sequence_sum(is_action_BT) / length


def position_ramp(is_action_BT: Bool[Tensor, "B T"], *, start: float, tokens: int) -> Float[Tensor, "B T"]:
    """A factor by place that lowers a sequence's first tokens:  f_k = min(1, start + (1 − start) · k / tokens).

    k counts the chosen tokens of a sequence from 0. Times a weight, the first of them counts `start` times as much, and
    from the one at k = `tokens` on they count in full. 0 at what is no action.
    """
    k_BT = is_action_BT.cumsum(1) - 1
    return (start + (1 - start) * k_BT / max(tokens, 1)).clamp(max=1.0) * is_action_BT


def _sequences(is_action_BT: Tensor) -> Tensor:
    return is_action_BT.any(1).sum().clamp(min=1).to(torch.float32)
