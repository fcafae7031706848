"""Numbers to look at, never to train on: none carries a gradient.

`is_action` is True at the tokens to count; None counts all. With no token to count the share is 0.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ventaja.functional.kl import kl_k3

__all__ = [
    "approx_kl",
    "clip_fraction_dual",
    "clip_fraction_high",
    "clip_fraction_low",
    "explained_variance",
]


@torch.no_grad()
def clip_fraction_low(
    log_ratio: Float[Tensor, "*S"],
    advantage: Float[Tensor, "*S"],
    is_action: Bool[Tensor, "*S"] | None = None,
    *,
    clip_low: float,
) -> Float[Tensor, ""]:
    """Share of tokens that the lower clip holds:  Â < 0 and r < 1 − ε_low.

    These are the tokens where `clipped_surrogate_loss` takes the clipped branch and gives no gradient. A
    ratio that is just as low with Â > 0 is not clipped and not counted.
    """
    return _share((log_ratio.exp() < 1 - clip_low) & (advantage < 0), is_action)


@torch.no_grad()
def clip_fraction_high(
    log_ratio: Float[Tensor, "*S"],
    advantage: Float[Tensor, "*S"],
    is_action: Bool[Tensor, "*S"] | None = None,
    *,
    clip_high: float,
) -> Float[Tensor, ""]:
    """Share of tokens that the upper clip holds:  Â > 0 and r > 1 + ε_high.  See `clip_fraction_low`."""
    return _share((log_ratio.exp() > 1 + clip_high) & (advantage > 0), is_action)


@torch.no_grad()
def clip_fraction_dual(
    log_ratio: Float[Tensor, "*S"],
    advantage: Float[Tensor, "*S"],
    is_action: Bool[Tensor, "*S"] | None = None,
    *,
    dual_clip: float,
) -> Float[Tensor, ""]:
    """Share of tokens that the dual clip holds:  Â < 0 and r > c  (arXiv:1912.09729)."""
    return _share((log_ratio.exp() > dual_clip) & (advantage < 0), is_action)


@torch.no_grad()
def approx_kl(
    log_ratio: Float[Tensor, "*S"], is_action: Bool[Tensor, "*S"] | None = None
) -> Float[Tensor, ""]:
    """How far the update went:  KL(π_old ‖ π_new) ≈ mean[(r − 1) − log r],  log r = log π_new − log π_old.

    This is k3 (Schulman, "Approximating KL divergence") for tokens that π_old sampled, hence the sign.
    """
    return _share(kl_k3(-log_ratio), is_action)


@torch.no_grad()
def explained_variance(value: Float[Tensor, "*S"], return_: Float[Tensor, "*S"]) -> Float[Tensor, ""]:
    """Share of the returns' variance that the critic explains:  1 − Var(R − V) / Var(R).

    1 is a perfect critic, 0 no better than a constant, below 0 worse than one. NaN when the returns are all
    the same, since there is then nothing to explain.
    """
    spread = return_.var(correction=0)
    return (1 - (return_ - value).var(correction=0) / spread).where(spread > 0, torch.nan)


def _share(x: Tensor, is_action: Tensor | None) -> Tensor:
    counted = torch.ones_like(x, dtype=torch.bool) if is_action is None else is_action
    x = x if x.is_floating_point() else x.float()
    return x.where(counted, 0.0).sum() / counted.sum().clamp(min=1)
