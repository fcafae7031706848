"""Log-probabilities and entropy of the next token, from logits."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["token_entropy", "token_logprobs"]


def token_logprobs(
    logits: Float[Tensor, "*S V"], token_ids: Int[Tensor, "*S"], *, temperature: float = 1.0
) -> Float[Tensor, "*S"]:
    """Log-probability of each token:  log π(a) = z_a − log Σ_v exp(z_v),  z = logits / temperature.

    Row t of `logits` must be the prediction *of* `token_ids[t]`: shift before the call, not inside.
    Computed in float32, or in float64 when the logits are float64; the result has that dtype.
    `fused_logprobs` gives the same numbers from hidden states without holding the logits.
    """
    z = _scaled(logits, temperature)
    return z.gather(-1, token_ids.long().unsqueeze(-1)).squeeze(-1) - z.logsumexp(-1)


def token_entropy(logits: Float[Tensor, "*S V"], *, temperature: float = 1.0) -> Float[Tensor, "*S"]:
    """Entropy over the whole vocabulary, in nats:  H = −Σ_v p_v log p_v,  p = softmax(logits / temperature).

    Exact, not an estimate from the sampled token. A logit of −∞ is a forbidden token and adds nothing.
    Computed in float32, or in float64 when the logits are float64; the result has that dtype.
    """
    logp = _scaled(logits, temperature).log_softmax(-1)
    # 0 · −∞ is not a number, while p log p tends to 0.
    return -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(-1)


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}. Greedy decoding has no log-probs.")
    z = logits if logits.dtype == torch.float64 else logits.float()
    return z if temperature == 1 else z / temperature
