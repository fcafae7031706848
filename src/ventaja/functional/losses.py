"""Per-token and per-comparison losses. All are minimised, elementwise, and summed by the caller:

    loss = (per_token_loss * weight).sum()

`log_ratio` is log π_θ − log π_old at the sampled token; it becomes a ratio by `importance_ratio`, which holds it
within ±20. Â = `advantage` is a constant: detach it if it is not.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from ventaja.functional.importance import importance_ratio

__all__ = [
    "bradley_terry_loss",
    "clipped_surrogate_loss",
    "clipped_value_loss",
    "detached_clamp_loss",
    "nll",
    "nll_loss",
    "plackett_luce_loss",
    "policy_gradient_loss",
    "surrogate_loss",
    "value_loss",
]


def policy_gradient_loss(
    logprob: Float[Tensor, "*#S"], advantage: Float[Tensor, "*#S"]
) -> Float[Tensor, "*S"]:
    """Per-token loss  −Â·log π.

    REINFORCE (Williams, 1992). Its gradient is the policy gradient; its value means nothing.
    Shapes: any, elementwise.
    """
    return -advantage * logprob


def surrogate_loss(log_ratio: Float[Tensor, "*#S"], advantage: Float[Tensor, "*#S"]) -> Float[Tensor, "*S"]:
    """Per-token loss  −r·Â.

    The surrogate without a clip: PPO (arXiv:1707.06347), eq. 6. Shapes: any, elementwise.
    """
    return -importance_ratio(log_ratio) * advantage


def clipped_surrogate_loss(
    log_ratio: Float[Tensor, "*#S"],
    advantage: Float[Tensor, "*#S"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Float[Tensor, "*S"]:
    """Per-token loss  −min(r·Â, clip(r, 1−ε_low, 1+ε_high)·Â).

    PPO eq. 7 (arXiv:1707.06347); the two ε follow DAPO (arXiv:2503.14476). With `dual_clip` = c > 1 the loss of a
    token with Â < 0 is at most −c·Â (dual-clip PPO, arXiv:1912.09729): without it that loss grows with r forever.
    Shapes: any, elementwise.
    """
    ratio = importance_ratio(log_ratio)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    objective = torch.minimum(ratio * advantage, clipped * advantage)
    if dual_clip is not None:
        objective = torch.where(advantage < 0, torch.maximum(objective, dual_clip * advantage), objective)
    return -objective


def detached_clamp_loss(
    logprob: Float[Tensor, "*#S"],
    log_ratio: Float[Tensor, "*#S"],
    advantage: Float[Tensor, "*#S"],
    *,
    clip_low: float,
    clip_high: float,
) -> Float[Tensor, "*S"]:
    """Per-token loss  −sg(clip(r, 1−ε_low, 1+ε_high))·Â·log π,  where sg stops the gradient.

    CISPO (arXiv:2506.13585). The ratio only weighs the token, so a clipped token still learns, unlike in
    `clipped_surrogate_loss`. The bounds are written as in the paper: `clip_high` = 4 holds the ratio at 5. Where
    another library takes the cap itself (TRL's `epsilon_high`), `clip_high` is that minus 1.
    Shapes: any, elementwise.
    """
    clipped = importance_ratio(log_ratio.detach()).clamp(1 - clip_low, 1 + clip_high)
    return -clipped * advantage * logprob


def value_loss(value: Float[Tensor, "*#S"], value_target: Float[Tensor, "*#S"]) -> Float[Tensor, "*S"]:
    """Squared error of the critic:  ½ (V − R)².

    The value term of PPO (arXiv:1707.06347, eq. 9), halved so that its gradient is V − R.
    Shapes: any, elementwise.
    """
    return 0.5 * (value - value_target).square()


def clipped_value_loss(
    value: Float[Tensor, "*#S"],
    old_value: Float[Tensor, "*#S"],
    value_target: Float[Tensor, "*#S"],
    *,
    clip: float,
) -> Float[Tensor, "*S"]:
    """Squared error with the step limited:  ½ max((V − R)², (V_clip − R)²),  |V_clip − V_old| ≤ clip.

    The value loss of the PPO reference code (openai/baselines, ppo2). Shapes: any, elementwise.
    """
    limited = old_value + (value - old_value).clamp(-clip, clip)
    return torch.maximum(value_loss(value, value_target), value_loss(limited, value_target))


def nll_loss(logprob: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Per-token loss of supervised learning:  −log π.  Shapes: any, elementwise."""
    return -logprob


nll = nll_loss


def bradley_terry_loss(chosen: Float[Tensor, "*#S"], rejected: Float[Tensor, "*#S"]) -> Float[Tensor, "*S"]:
    """Loss of one comparison:  −log σ(s_chosen − s_rejected).

    Bradley & Terry (1952); the reward-model loss of InstructGPT (arXiv:2203.02155, eq. 1).
    Shapes: any, elementwise. Large differences do not overflow.
    """
    return softplus(rejected - chosen)


def plackett_luce_loss(score_BK: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
    """Loss of one ranking, scores ordered best first:  Σ_k [log Σ_{j≥k} exp(s_j) − s_k],  k = 1 … K.

    Plackett (1975), Luce (1959): draw the best, then the best of those left, and so on. K = 2 is
    `bradley_terry_loss`. Large scores do not overflow.
    """
    log_remaining_BK = score_BK.flip(1).logcumsumexp(1).flip(1)
    return (log_remaining_BK - score_BK).sum(1)
