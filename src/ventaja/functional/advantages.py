"""Rewards into advantages: how much better than expected.

Suffixes: B sequences, T time steps, P prompts, G completions of one prompt. `value_BT1` has T + 1 columns:
column t is the value of the state *before* action t, and column T the value of the state after the last one.

In the statistics below `is_valid` is True where an entry takes part. The others are not read (they may be
NaN) and get advantage 0. Values are centred about the smallest valid entry first, so that a group in which
every reward is the same gets exactly 0, whatever the rounding.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "batch_centred",
    "gae",
    "gae_over_actions",
    "group_centred",
    "group_standardised",
    "leave_one_out",
    "length_adaptive_lambda",
    "rescale",
    "returns_to_go",
    "td_advantage",
    "whiten",
]


def returns_to_go(reward_BT: Float[Tensor, "B T"], *, discount: float = 1.0) -> Float[Tensor, "B T"]:
    """Discounted sum of the rewards from t on:  G_t = r_t + γ G_{t+1},  G_T = 0,  t = 0 … T−1.

    Sutton & Barto, Reinforcement Learning (2018), eq. 3.9; the "reward to go" of a policy gradient.
    """
    if discount == 1:
        return reward_BT.flip(1).cumsum(1).flip(1)
    return _discounted_sum(reward_BT, torch.full_like(reward_BT, discount))


def td_advantage(
    reward_BT: Float[Tensor, "B T"], value_BT1: Float[Tensor, "B T+1"], discount_BT: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """One-step temporal difference:  δ_t = r_t + γ_t V_{t+1} − V_t,  t = 0 … T−1.

    GAE paper (arXiv:1506.02438), section 3. `discount_BT[:, t]` belongs to the step from t to t+1: see `gae`.
    """
    return reward_BT + discount_BT * value_BT1[:, 1:] - value_BT1[:, :-1]


def gae(
    reward_BT: Float[Tensor, "B T"],
    value_BT1: Float[Tensor, "B T+1"],
    discount_BT: Float[Tensor, "B T"],
    *,
    lambda_: float | Float[Tensor, "B"],
) -> Float[Tensor, "B T"]:
    """Generalised advantage estimate:  Â_t = δ_t + γ_t λ Â_{t+1},  Â_T = 0,  t = 0 … T−1.

    GAE (arXiv:1506.02438), eq. 16, with a discount per step. λ = 1 gives the return minus the value,
    λ = 0 gives `td_advantage`. λ is one number, or one for each sequence.

    An *ending* is a zero discount: `discount_BT[:, t] = 0` says that nothing follows action t, so neither
    V_{t+1} nor Â_{t+1} reaches it, and another episode may begin at t+1. A *truncation* (the length limit cut
    the answer) keeps its discount and bootstraps from `value_BT1[:, t+1]`. It is the last step of its row: a
    kept discount also lets Â_{t+1} through, so nothing of another episode may follow it.
    """
    delta_BT = td_advantage(reward_BT, value_BT1, discount_BT)
    return _discounted_sum(delta_BT, discount_BT * _per_sequence(lambda_))


def gae_over_actions(
    reward_BT: Float[Tensor, "B T"],
    value_BT: Float[Tensor, "B T"],
    end_value_B: Float[Tensor, "B"],
    is_action_BT: Bool[Tensor, "B T"],
    *,
    counts_BT: Bool[Tensor, "B T"] | None = None,
    discount: float = 1.0,
    lambda_: float | Float[Tensor, "B"],
) -> Float[Tensor, "B T"]:
    """`gae` over the tokens that were chosen: of choice k of a sequence, whose token is at t_k,

    Â_k = δ_k + γ_k λ_k Â_{k+1},   δ_k = r_k + γ_k V(t_{k+1}) − V(t_k),   r_k = Σ reward_t,  t_k ≤ t < t_{k+1}.

    GAE (arXiv:1506.02438), eq. 16. A token that was given (a tool's reply) is outside the recursion: it has no value,
    it does not discount, and its advantage is 0. A reward at one counts at the chosen token before it; one before
    the first chosen token is no consequence of any, and counts nowhere. `value_BT[:, t]` is the value of the state
    before token t, read at the chosen ones alone; the others may be NaN. `end_value_B` is the value after the last
    token: 0 of a sequence that came to its own end, V of one that was cut off. What is not an action gets 0.

    γ_k and λ_k are `discount` and `lambda_`, each choice being a step of the process. With `counts_BT`, True at the tokens
    that end a step of several, they are so where a step ends and 1 inside: GAE over steps, which to any token of a step
    gives its rewards and the value of the next one's beginning, less the token's own value.
    """
    T = reward_BT.shape[1]
    if T == 0:
        return reward_BT.clone()
    # chosen tokens to the left, in their order: column k is step k
    step_BT = (is_action_BT.cumsum(1) - 1).clamp(min=0)
    is_after_first_BT = is_action_BT.cumsum(1) > 0
    reward_BK = torch.zeros_like(reward_BT).scatter_add(1, step_BT, reward_BT.where(is_after_first_BT, 0.0))
    steps_B1 = is_action_BT.sum(1, keepdim=True)
    place_BT = step_BT.where(is_action_BT, T)  # column T takes what belongs nowhere
    value_BK1 = value_BT.new_zeros(len(value_BT), T + 1).scatter(1, place_BT, value_BT)
    value_BK1[:, T] = 0.0
    value_BK1 = value_BK1.scatter(1, steps_B1, end_value_B[:, None])
    counts_BK = torch.ones_like(reward_BK, dtype=torch.bool)
    if counts_BT is not None:
        counted_BT = (counts_BT & is_after_first_BT).to(reward_BK.dtype)
        counts_BK = torch.zeros_like(reward_BK).scatter_add(1, step_BT, counted_BT) > 0
    ones_BK = torch.ones_like(reward_BK)
    discount_BK = (discount * ones_BK).where(counts_BK, 1.0)
    trace_BK = discount_BK * (_per_sequence(lambda_) * ones_BK).where(counts_BK, 1.0)
    is_step_BK = torch.arange(T, device=steps_B1.device) < steps_B1
    delta_BK = td_advantage(reward_BK, value_BK1, discount_BK).where(is_step_BK, 0.0)
    advantage_BK = _discounted_sum(delta_BK, trace_BK)
    return advantage_BK.gather(1, step_BT).where(is_action_BT, 0.0)


def length_adaptive_lambda(length_B: Int[Tensor, "B"], *, alpha: float, lowest: float) -> Float[Tensor, "B"]:
    """λ of each sequence by its length:  λ = max(lowest, 1 − 1/(α l)).

    VAPO (arXiv:2504.05118): the sum of GAE's coefficients is then α·l, so that a reward at the end reaches
    the tokens of a long answer. For a short one 1 − 1/(α l) falls to 0 and below (with α = 0.05 up to l = 20), which
    would leave only `td_advantage`; `lowest` is the λ that it never goes below. Raises ValueError unless α is above 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}.")
    return (1 - 1 / (alpha * length_B.clamp(min=1))).clamp(min=lowest)


def group_centred(
    reward_PG: Float[Tensor, "P G"], *, is_valid: Bool[Tensor, "P G"] | None = None
) -> Float[Tensor, "P G"]:
    """Reward minus the mean of its group:  Â_i = r_i − mean(r).

    Dr. GRPO (arXiv:2503.20783): GRPO's advantage without the division by the standard deviation.
    The mean includes r_i, so the expected gradient is (G−1)/G of the true one: same direction, smaller step.
    """
    return _centred(reward_PG, is_valid, dim=1)[0]


def group_standardised(
    reward_PG: Float[Tensor, "P G"], *, eps: float = 1e-6, is_valid: Bool[Tensor, "P G"] | None = None
) -> Float[Tensor, "P G"]:
    """Group mean removed and group deviation divided out:  Â_i = (r_i − mean(r)) / (std(r) + eps).

    GRPO (arXiv:2402.03300), section 4.1.2. The standard deviation divides by n − 1, as `torch.std`, TRL and
    verl do. A row with fewer than two valid rewards gets 0. Raises ValueError when G < 2.
    """
    _need_two(reward_PG, "group_standardised")
    return _standardised(reward_PG, is_valid, dim=1, eps=eps)


def leave_one_out(
    reward_PG: Float[Tensor, "P G"], *, is_valid: Bool[Tensor, "P G"] | None = None
) -> Float[Tensor, "P G"]:
    """Reward minus the mean of the others in its group:  Â_i = r_i − 1/(n−1) Σ_{j≠i} r_j.

    RLOO (arXiv:2402.14740). The baseline does not depend on completion i, so the gradient is unbiased.
    Equals n/(n−1) times `group_centred`. A row with fewer than two valid rewards gets 0.
    Raises ValueError when G < 2.
    """
    _need_two(reward_PG, "leave_one_out")
    centred_PG, count_P1 = _centred(reward_PG, is_valid, dim=1)
    return centred_PG * count_P1 / (count_P1 - 1).clamp(min=1)


def batch_centred(
    reward: Float[Tensor, "*S"], *, is_valid: Bool[Tensor, "*S"] | None = None
) -> Float[Tensor, "*S"]:
    """Reward minus the mean over the whole tensor:  Â_i = r_i − mean(r).

    The batch average as the baseline of REINFORCE (Williams, 1992). Shape: any.
    """
    return _centred(reward.flatten(), _flat(is_valid), dim=0)[0].view_as(reward)


def whiten(
    x: Float[Tensor, "*S"], *, eps: float = 1e-6, is_valid: Bool[Tensor, "*S"] | None = None
) -> Float[Tensor, "*S"]:
    """Centre and scale over the whole tensor:  (x − mean(x)) / (std(x) + eps).

    The advantage normalisation of PPO and REINFORCE++ (arXiv:2501.03262). The standard deviation divides by
    n − 1. Fewer than two valid entries give 0. Shape: any.
    """
    return _standardised(x.flatten(), _flat(is_valid), dim=0, eps=eps).view_as(x)


def rescale(
    x: Float[Tensor, "*S"], *, eps: float = 1e-6, is_valid: Bool[Tensor, "*S"] | None = None
) -> Float[Tensor, "*S"]:
    """Scale only, over the whole tensor:  x / (std(x) + eps).  Signs are kept, the mean is not removed.

    The standard deviation divides by n − 1. Where there is no spread (all entries equal, or fewer than two
    valid ones) there is no scale to divide by, and the entries stay as they are. Shape: any.
    """
    centred, count = _centred(x.flatten(), _flat(is_valid), dim=0)
    std = _std(centred, count, dim=0)
    kept = x if is_valid is None else x.where(is_valid, 0.0)
    return kept / torch.where(std > 0, std + eps, 1.0)


def _per_sequence(number: float | Tensor) -> float | Tensor:
    return number[:, None] if isinstance(number, Tensor) else number


def _discounted_sum(x_BT: Tensor, discount_BT: Tensor) -> Tensor:
    """y_t = x_t + d_t y_{t+1}, the one recursion of this file."""
    if x_BT.shape[1] == 0:
        return x_BT.clone()
    total_B = torch.zeros_like(x_BT[:, 0])
    columns = []
    for x_B, discount_B in zip(reversed(x_BT.unbind(1)), reversed(discount_BT.unbind(1)), strict=True):
        total_B = x_B + discount_B * total_B
        columns.append(total_B)
    return torch.stack(columns[::-1], dim=1)


def _flat(is_valid: Tensor | None) -> Tensor | None:
    return None if is_valid is None else is_valid.flatten()


def _need_two(reward_PG: Tensor, name: str) -> None:
    if reward_PG.shape[1] < 2:
        raise ValueError(
            f"{name} compares the completions of one prompt, and the groups here have {reward_PG.shape[1]}. "
            "Sample at least 2 per prompt, or use batch_centred."
        )


def _centred(x: Tensor, is_valid: Tensor | None, *, dim: int) -> tuple[Tensor, Tensor]:
    """x minus its mean along `dim` (0 where not valid), and how many entries were valid."""
    if x.shape[dim] == 0:
        return x.clone(), x.new_zeros(())
    valid = torch.ones_like(x, dtype=torch.bool) if is_valid is None else is_valid
    count = valid.sum(dim, keepdim=True).to(x.dtype)
    lowest = x.where(valid, torch.inf).amin(dim, keepdim=True)
    shifted = (x - lowest).where(valid, 0.0)
    mean = shifted.sum(dim, keepdim=True) / count.clamp(min=1)
    return (shifted - mean).where(valid, 0.0), count


def _std(centred: Tensor, count: Tensor, *, dim: int) -> Tensor:
    return (centred.square().sum(dim, keepdim=True) / (count - 1).clamp(min=1)).sqrt()


def _standardised(x: Tensor, is_valid: Tensor | None, *, dim: int, eps: float) -> Tensor:
    centred, count = _centred(x, is_valid, dim=dim)
    return centred / (_std(centred, count, dim=dim) + eps)
