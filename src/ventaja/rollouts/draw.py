"""Draw one token per row from logits, by one uniform number per row (the inverse of the distribution function)."""

from __future__ import annotations

import torch
from torch import Tensor

from ventaja.rollouts.engine import Sampling

BLOCK = 256
"""Words per block: a draw sums blocks first, then walks through one."""


def draw(logits_BV: Tensor, uniform_B: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Token [B] and its log-prob [B] under the distribution that it was really drawn from.

    `logits_BV` may be in the model's own precision; float32 ones are overwritten. `uniform_B` is float64 in [0, 1).
    Greedy (temperature 0) takes the likeliest token with certainty, so its log-prob is 0.
    """
    if sampling.temperature == 0:
        token_B = logits_BV.argmax(dim=-1)
        return token_B, torch.zeros(len(token_B), dtype=torch.float32, device=token_B.device)
    logits_BV = logits_BV.float()
    if sampling.temperature != 1:
        logits_BV.div_(sampling.temperature)
    if not sampling.is_whole:
        cut_off(logits_BV, sampling)
    return inverse_distribution(logits_BV, uniform_B)


def cut_off(logits_BV: Tensor, sampling: Sampling) -> None:
    """Set the logits that top-k, min-p and top-p exclude to −inf, in place.

    They apply in that order, each to what the one before left. Ties at the edge of top-k stay in.
    """
    if sampling.top_k is not None and sampling.top_k < logits_BV.shape[1]:
        kth = logits_BV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits_BV.masked_fill_(logits_BV < kth, -torch.inf)
    if sampling.min_p > 0:
        top = logits_BV.amax(dim=-1, keepdim=True)
        logits_BV.masked_fill_(logits_BV < top + torch.tensor(sampling.min_p).log(), -torch.inf)
    if sampling.top_p < 1:
        value, order = logits_BV.sort(dim=-1, descending=True)
        probability = value.softmax(dim=-1)
        before = probability.cumsum(dim=-1) - probability
        out = torch.zeros_like(logits_BV, dtype=torch.bool).scatter_(1, order, before >= sampling.top_p)
        logits_BV.masked_fill_(out, -torch.inf)


def inverse_distribution(logits_BV: Tensor, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """The word where the distribution function passes the uniform number, and its log-prob. Overwrites logits.

    Sums run in float64 over blocks, so the draw is exact to rounding of the single probabilities.
    """
    B, V = logits_BV.shape
    top_B1 = logits_BV.amax(dim=-1, keepdim=True)
    weight_BV = logits_BV.sub_(top_B1).exp_()
    whole = V // BLOCK * BLOCK
    block_sum = weight_BV[:, :whole].view(B, -1, BLOCK).sum(dim=-1)
    if whole < V:
        block_sum = torch.cat([block_sum, weight_BV[:, whole:].sum(dim=-1, keepdim=True)], dim=-1)
    reached = block_sum.double().cumsum(dim=-1)
    total_B1 = reached[:, -1:]
    target_B1 = uniform_B[:, None].to(reached) * total_B1
    block_B1 = torch.searchsorted(reached, target_B1, right=True)
    last_B1 = (block_sum > 0).long().cumsum(dim=-1).argmax(dim=-1, keepdim=True)
    block_B1 = block_B1.minimum(last_B1)
    before_B1 = torch.nn.functional.pad(reached, (1, 0)).gather(1, block_B1)  # never above the target

    word = block_B1 * BLOCK + torch.arange(BLOCK, device=logits_BV.device)
    inside = weight_BV.gather(1, word.clamp(max=V - 1)).double().masked_fill(word >= V, 0.0)
    step_B1 = torch.searchsorted(inside.cumsum(dim=-1), target_B1 - before_B1, right=True)
    last_B1 = (inside > 0).long().cumsum(dim=-1).argmax(dim=-1, keepdim=True)
    step_B1 = step_B1.minimum(last_B1)  # rounding must not step past the last possible word
    token_B = (block_B1 * BLOCK + step_B1)[:, 0]
    logprob_B = inside.gather(1, step_B1).log() - total_B1.log()
    return token_B, logprob_B[:, 0].float()
