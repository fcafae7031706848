"""Rewards of steps into what is credited to tokens.

B sequences, T time steps. `is_reward_BT` is True at the tokens that earned a step's reward, also one of 0.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["discounted_to_go", "minimum_to_go"]


def discounted_to_go(
    reward_BT: Float[Tensor, "B T"], counts_BT: Bool[Tensor, "B T"], *, discount: float
) -> Float[Tensor, "B T"]:
    """Sum of the rewards from t on, discounted at what counts:  G_t = r_t + γ^{c_t} G_{t+1},  c_t = 1 if counts, else 0.

    With the chosen tokens as what counts, γ is a discount per token, however many were given between two of them; with
    the tokens that end a step, it is one per step, however long the steps are. γ = 1 is `returns_to_go`.
    """
    total_B = torch.zeros_like(reward_BT.sum(dim=1))
    factor_BT = torch.full_like(reward_BT, discount).where(counts_BT, 1.0)
    columns = []
    for reward_B, factor_B in zip(reversed(reward_BT.unbind(1)), reversed(factor_BT.unbind(1)), strict=True):
        total_B = reward_B + factor_B * total_B
        columns.append(total_B)
    return torch.stack(columns[::-1], dim=1) if columns else reward_BT.clone()


def minimum_to_go(reward_BT: Float[Tensor, "B T"], is_reward_BT: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """The least of the rewards from t on:  G_t = min_{j ≥ t} r_j, and 0 after the last.

    The min-form credit of PURE (arXiv:2504.15275), whose value is the minimum of future rewards: where rewards are summed
    up a policy learns to write more steps that are judged well, and the sum collapses. A minimum cannot be raised by more
    steps. (PURE comes near it by weights softmax(−r/T) on summed rewards, which leave nothing behind the worst step.)
    """
    if reward_BT.shape[1] == 0:
        return reward_BT.clone()
    ahead_BT = reward_BT.where(is_reward_BT, torch.inf).flip(1).cummin(dim=1).values.flip(1)
    return ahead_BT.where(ahead_BT < torch.inf, 0.0)
