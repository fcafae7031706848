"""KL(π ‖ π_ref): three estimates from the sampled token, and the exact sum over the vocabulary.

In this file `log_ratio` is log π(a) − log π_ref(a), at tokens a that π itself sampled.
The estimates and their names are from Schulman, "Approximating KL divergence" (2020),
http://joschu.net/blog/kl-approx.html.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ventaja.functional.importance import LOG_RATIO_LIMIT, importance_ratio

__all__ = ["kl_exact", "kl_k1", "kl_k2", "kl_k3", "kl_k3_plus", "kl_k3_weighted"]


def kl_k1(log_ratio: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """k1 = x,  x = log π − log π_ref.

    Unbiased, and often negative. For use in the reward: as a loss its expected gradient is 0.
    Shapes: any, elementwise.
    """
    return log_ratio


def kl_k2(log_ratio: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """k2 = ½ x²,  x = log π − log π_ref.

    Never negative, and biased in value; yet as a loss its expected gradient is that of KL(π ‖ π_ref) at the
    sampled state. Shapes: any, elementwise.
    """
    return 0.5 * log_ratio.square()


def kl_k3(log_ratio: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """k3 = exp(−x) − 1 + x,  x = log π − log π_ref.

    Never negative, unbiased in value, low variance: the one to report, and GRPO's penalty
    (arXiv:2402.03300, eq. 4). As a loss its expected gradient is that of KL(π_ref ‖ π), the other direction.
    x is held within ±20, as in verl, so that exp(−x) stays finite; beyond, the value is constant and has no
    gradient. Shapes: any, elementwise.
    """
    x = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    # expm1 keeps the digits that exp(−x) − 1 loses near 0.
    return torch.expm1(-x) + x


def kl_k3_plus(log_ratio: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """k3 in value, k2 in gradient:  k3⁺ = k2 + sg(k3 − k2),  where sg stops the gradient.

    The straight-through form, verl's `k3+`: the value is unbiased and never negative, and as a loss the expected
    gradient is that of KL(π ‖ π_ref). Shapes: any, elementwise.
    """
    k2 = kl_k2(log_ratio)
    return k2 + (kl_k3(log_ratio) - k2).detach()


def kl_k3_weighted(log_ratio: Float[Tensor, "*S"], old_log_ratio: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """k3 for tokens of an older policy:  r · k3(x),  r = π / π_old,  log r = `old_log_ratio`.

    The unbiased KL estimate of DeepSeek-V3.2 (arXiv:2512.02556, eq. 7). The ratio carries its gradient, and with it
    the expected gradient is that of KL(π ‖ π_ref) at the sampled state, on samples of π and of π_old alike.
    Shapes: any, elementwise.
    """
    return importance_ratio(old_log_ratio) * kl_k3(log_ratio)


def kl_exact(logits: Float[Tensor, "*S V"], ref_logits: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
    """Exact sum over the vocabulary:  KL(π ‖ π_ref) = Σ_v p_v (log p_v − log p_ref,v).

    Gradients flow to both arguments: detach the reference's logits. Computed in float32, or float64 when the
    logits are float64. A token forbidden (−∞) by both policies adds nothing. `fused_kl` gives the same
    numbers from hidden states.
    """
    logp, logq = (z if z.dtype == torch.float64 else z.float() for z in (logits, ref_logits))
    logp, logq = logp.log_softmax(-1), logq.log_softmax(-1)
    return (logp.exp() * (logp - logq).masked_fill(logp == -torch.inf, 0.0)).sum(-1)
