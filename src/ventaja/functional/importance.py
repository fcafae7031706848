"""Importance ratios: samples of the old policy, read under the new one.

Everything here is a logarithm, new − old, until it has to be a ratio. Weights carry gradients if their log
ratios do: detach them to use them as plain numbers.

exp(89) is infinite in float32, and infinity times a gradient of 0 is NaN, even for a token that the clip holds.
So a log ratio is held within ±`LOG_RATIO_LIMIT` before it becomes a ratio: nothing changes inside, and beyond it
the ratio is constant (5e8, or 2e-9) and has no gradient.
"""

from jaxtyping import Bool, Float
from torch import Tensor

__all__ = [
    "effective_sample_size",
    "importance_ratio",
    "masked_weight",
    "self_normalised_weight",
    "sequence_log_ratio",
    "token_log_ratio",
    "trajectory_log_ratio",
    "truncated_weight",
]

LOG_RATIO_LIMIT = 20.0
"""Log ratios are held within ± this, as in verl; e^20 is 4.9e8."""


def importance_ratio(log_ratio: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """The ratio itself, finite whatever its logarithm:  r = exp(clip(log r, −20, 20)).

    PPO (arXiv:1707.06347), section 3; the bound is verl's. Every surrogate and weight of ours takes its ratios
    from here. Shapes: any, elementwise.
    """
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def token_log_ratio(logprob: Float[Tensor, "*#S"], old_logprob: Float[Tensor, "*#S"]) -> Float[Tensor, "*S"]:
    """Log ratio of one token:  log r_t = log π_θ(a_t | s_t) − log π_old(a_t | s_t).

    PPO (arXiv:1707.06347), section 3. No gradient reaches `old_logprob`. Shapes: any, elementwise.
    """
    return logprob - old_logprob.detach()


def sequence_log_ratio(
    log_ratio_BT: Float[Tensor, "B T"], is_action_BT: Bool[Tensor, "B T"]
) -> Float[Tensor, "B"]:
    """Mean of a sequence's token log ratios:  log s = 1/|y| Σ_t log r_t,  the geometric mean of the ratios.

    GSPO's importance ratio (arXiv:2507.18071). Tokens that are not actions are not read. No action token
    gives 0.
    """
    return trajectory_log_ratio(log_ratio_BT, is_action_BT) / is_action_BT.sum(1).clamp(min=1)


def trajectory_log_ratio(
    log_ratio_BT: Float[Tensor, "B T"], is_action_BT: Bool[Tensor, "B T"]
) -> Float[Tensor, "B"]:
    """Sum of a sequence's token log ratios:  log Π_t r_t,  the ratio of the whole trajectory.

    Per-trajectory importance sampling (Precup, Sutton & Singh, 2000): unbiased, with a variance that grows
    with length. Tokens that are not actions are not read. No action token gives 0.
    """
    return log_ratio_BT.where(is_action_BT, 0.0).sum(1)


def truncated_weight(log_ratio: Float[Tensor, "*S"], *, cap: float) -> Float[Tensor, "*S"]:
    """Ratio cut at a cap:  w = min(r, cap).

    Truncated importance sampling (Ionides, 2008). Shapes: any, elementwise.
    """
    return importance_ratio(log_ratio).clamp(max=cap)


def masked_weight(log_ratio: Float[Tensor, "*S"], *, low: float, high: float) -> Float[Tensor, "*S"]:
    """Ratio inside [low, high], and 0 outside:  w = r · 1[low ≤ r ≤ high].

    A sample too far from the policy is dropped, where `truncated_weight` would keep it at the cap.
    Shapes: any, elementwise.
    """
    ratio = importance_ratio(log_ratio)
    return ratio.where((ratio >= low) & (ratio <= high), 0.0)


def self_normalised_weight(log_ratio_B: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Ratios divided by their sum:  w_i = r_i / Σ_j r_j.

    Self-normalised, or weighted, importance sampling (Owen, Monte Carlo theory, methods and examples, ch. 9).
    Biased, consistent, and far steadier than the plain ratios. Large log ratios do not overflow.
    """
    return log_ratio_B.softmax(0)


def effective_sample_size(log_ratio_B: Float[Tensor, "B"]) -> Float[Tensor, ""]:
    """How many equally weighted samples these are worth:  (Σ w)² / Σ w²,  between 1 and B.

    Kong (1992); Owen, ch. 9. Large log ratios do not overflow.
    """
    return (2 * log_ratio_B.logsumexp(0) - (2 * log_ratio_B).logsumexp(0)).exp()
