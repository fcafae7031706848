"""What a ranking says about scores: Plackett–Luce over partial orders, with ties, a margin and raters who may err.

An order is written as a tier for each item: `tier_BK` is 0 for the best items, 1 for the next, and so on; items of one
tier are tied, and −1 marks a place of the table that holds no item. A top-k order has all that it leaves out in its last
tier: which of them would come first, nobody asked. The line between acceptable and not is one more item, with a score of its
own and a tier to itself.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = [
    "centring_loss",
    "crowd_ranking_loss",
    "dpo_reward",
    "partial_order_loss",
]

_STEP = 0.125
_LEFT, _RIGHT = -40.0, 4.0
"""The race is integrated over the logarithm of time, in these steps between these ends (see `_first_logprob`)."""


def partial_order_loss(
    score_BK: Float[Tensor, "B K"], tier_BK: Int[Tensor, "B K"], *, margin_B: Float[Tensor, "B"] | None = None
) -> Float[Tensor, "B"]:
    """Loss of one partial order:  −Σ_v log P(tier v comes first of all items in tiers ≥ v).

    Plackett (1975), Luce (1959). A tie is the sum over the orders that agree with it: P(T first) = Σ_{π of T} Π_i w_{π_i} /
    (W − w_{π_1} − … − w_{π_{i−1}}), w = exp(score), W the sum of w over all that are left. The last tier is first of itself
    for certain, so it costs nothing. Two items are `bradley_terry_loss`; without ties this is `plackett_luce_loss`.

    With a margin m every item has to win by m: w of all lower tiers is multiplied by exp(m) (for two items the margin of
    Llama 2, arXiv:2307.09288, eq. 2).

    `tier_BK`: lower is better, from 0 (a number may be left out), −1 where there is no item (its score does not matter). A row with
    a single tier, or with none, has loss 0. Differentiable in the scores and the margin; the sums are made in float64.
    """
    is_there_BK = tier_BK >= 0
    score = score_BK.double().masked_fill(~is_there_BK, -torch.inf)
    loss_B = score.new_zeros(len(score))
    for tier in range(int(tier_BK.max()) if tier_BK.numel() else 0):
        is_first_BK, is_rest_BK = tier_BK == tier, tier_BK > tier
        open_B = is_rest_BK.any(1) & is_first_BK.any(1)
        if not open_B.any():
            continue
        first, rest = is_first_BK[open_B], is_rest_BK[open_B]
        rest_b = score[open_B].masked_fill(~rest, -torch.inf).logsumexp(1)
        if margin_B is not None:
            rest_b = rest_b + margin_B[open_B].double()
        logprob_b = _first_logprob(score[open_B] - rest_b[:, None], first)
        loss_B = loss_B.index_add(0, open_B.nonzero()[:, 0], -logprob_b)
    return loss_B.to(score_BK.dtype)


def _first_logprob(lead_BK: Tensor, is_first_BK: Tensor) -> Tensor:
    """log P [B] that the marked items come before all others; `lead` is their score less the others' log-sum-exp.

    One item: log σ(lead). Of several it is a race (Luce, 1959): item i arrives after an exponential time of rate w_i, the
    first of the others after one of rate 1, so P = ∫ Π_i (1 − exp(−w_i t)) exp(−t) dt. Over x = log t the integrand falls
    off fast on both sides and is analytic around them, so the trapezoid rule converges exponentially: with these 353 nodes it
    agrees with the sum over all orders to 1e-12 (up to 12 tied items in the tests), at a cost linear in how many are tied.
    """
    count_B = is_first_BK.sum(1)
    lead = lead_BK.masked_fill(~is_first_BK, 0.0)
    logprob_B = (logsigmoid(lead) * is_first_BK).sum(1)  # of one item; of several it is replaced
    tied = (count_B > 1).nonzero()[:, 0]
    if len(tied) == 0:
        return logprob_B
    x_J = torch.arange(_LEFT, _RIGHT + _STEP / 2, _STEP, dtype=lead.dtype, device=lead.device)
    arrived_bKJ = _log1mexp(lead[tied][:, :, None] + x_J) * is_first_BK[tied][:, :, None]
    log_race_bJ = arrived_bKJ.sum(1) + x_J - x_J.exp()
    return logprob_B.index_put((tied,), log_race_bJ.logsumexp(1) + math.log(_STEP))


def _log1mexp(y: Tensor) -> Tensor:
    """log(1 − exp(−exp(y))), with its gradient, for any y."""
    middle = y.clamp(-20.0, 5.0)
    return torch.where(y < -20, y, (-torch.expm1(-middle.exp())).log())


def crowd_ranking_loss(
    score_BK: Float[Tensor, "B K"],
    tier_BK: Int[Tensor, "B K"],
    *,
    reliability_logit_B: Float[Tensor, "B"],
    margin_B: Float[Tensor, "B"] | None = None,
) -> Float[Tensor, "B"]:
    """Loss of a ranking by a rater who may err:  −log(η P(order) + (1 − η) P(the order upside down)).

    For two items this is Crowd-BT (Chen, Bennett, Collins-Thompson & Horvitz, *Pairwise ranking aggregation in a crowdsourced
    setting*, WSDM 2013): η is the chance that a rater says what they see. For more it is our own form of it: a careless rater
    turns the whole ranking over, the line too, so η = ½ makes it nearly worthless and η < ½ reads it upside down.
    `reliability_logit_B` is log(η / (1 − η)) of each row's rater.
    """
    last_B = tier_BK.max(1).values
    upside_down_BK = torch.where(tier_BK >= 0, last_B[:, None] - tier_BK, tier_BK)
    as_said = partial_order_loss(score_BK, tier_BK, margin_B=margin_B)
    turned = partial_order_loss(score_BK, upside_down_BK, margin_B=margin_B)
    return -torch.logaddexp(
        logsigmoid(reliability_logit_B) - as_said, logsigmoid(-reliability_logit_B) - turned
    )


def centring_loss(score_BK: Float[Tensor, "B K"], is_there_BK: Tensor) -> Float[Tensor, "B"]:
    """Squared mean of a group's scores:  (Σ_k s_k / K)².

    Rankings leave a constant of each prompt free; this holds it at 0. For two items it is a quarter of the regulariser
    (s_c + s_r)² of Eisenstein et al. (arXiv:2312.09244).
    """
    count_B = is_there_BK.sum(1).clamp(min=1)
    return ((score_BK * is_there_BK).sum(1) / count_B).square()


def dpo_reward(
    logprob: Float[Tensor, "*#S"], ref_logprob: Float[Tensor, "*#S"], *, beta: float
) -> Float[Tensor, "*S"]:
    """Implicit reward of an answer:  β (log π(y|x) − log π_ref(y|x)),  log-probs summed over its tokens.

    DPO (Rafailov et al., arXiv:2305.18290, eq. 5, without its constant): as scores in `partial_order_loss` these are the
    Plackett–Luce form of appendix A.3, and of two answers the loss of eq. 7. Shapes: any, elementwise.
    """
    return beta * (logprob - ref_logprob)
