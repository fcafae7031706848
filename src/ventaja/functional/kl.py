"""KL(π ‖ π_ref): three estimates from the sampled token, and the exact sum over the vocabulary.

In this file `log_ratio` is log π(a) − log π_ref(a), at tokens a that π itself sampled.
The estimates and their names are from Schulman, "Approximating KL divergence" (2020),
http://joschu.net/blog/kl-approx.html.
"""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["kl_exact", "kl_k1", "kl_k2", "kl_k3"]


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
    Shapes: any, elementwise.
    """
    # expm1 keeps the digits that exp(−x) − 1 loses near 0.
    return torch.expm1(-log_ratio) + log_ratio


def kl_exact(logits: Float[Tensor, "*S V"], ref_logits: Float[Tensor, "*S V"]) -> Float[Tensor, "*S"]:
    """Exact sum over the vocabulary:  KL(π ‖ π_ref) = Σ_v p_v (log p_v − log p_ref,v).

    Gradients flow to both arguments: detach the reference's logits. Computed in float32, or float64 when the
    logits are float64. A token forbidden (−∞) by both policies adds nothing. `fused_kl` gives the same
    numbers from hidden states.
    """
    logp, logq = (z if z.dtype == torch.float64 else z.float() for z in (logits, ref_logits))
    logp, logq = logp.log_softmax(-1), logq.log_softmax(-1)
    return (logp.exp() * (logp - logq).masked_fill(logp == -torch.inf, 0.0)).sum(-1)
