"""The output head: from hidden states to logits, in whichever way the architecture scales and caps them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ventaja.cpu import PLAIN, Cpu
from ventaja.errors import ModelError
from ventaja.functional import fused_logprobs


@dataclass(frozen=True)
class LogitHead:
    """logits = cap·tanh(scale·(h Wᵀ + b) / cap), or without the cap."""

    linear: nn.Linear
    scale: float = 1.0
    softcap: float | None = None
    cpu: Cpu = PLAIN
    """What may be computed faster on a CPU."""

    @classmethod
    def of(cls, model: PreTrainedModel, cpu: Cpu = PLAIN) -> LogitHead:
        """The head of a causal LM, checked once against the model's own logits on a few tokens."""
        config = model.config.get_text_config()
        linear = model.get_output_embeddings()
        if not isinstance(linear, nn.Linear):
            raise ModelError(
                f"{type(model).__name__} has no linear output head, so log-probs cannot be fused."
            )
        scale = float(getattr(config, "logit_scale", None) or 1.0)
        if divisor := getattr(config, "logits_scaling", None):
            scale /= float(divisor)
        softcap = getattr(config, "final_logit_softcapping", None)
        head = cls(linear, scale=scale, softcap=softcap, cpu=cpu)
        head._check(model)
        return head

    @torch.no_grad()
    def _check(self, model: PreTrainedModel) -> None:
        ids = torch.arange(1, 5, device=self.linear.weight.device)[None]
        ours = self.logits(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
        theirs = model(input_ids=ids, use_cache=False).logits.float()
        if not torch.allclose(ours, theirs, rtol=0.02, atol=0.02 * float(theirs.std())):
            raise ModelError(
                f"{type(model).__name__} computes its logits in a way that Ventaja does not know "
                f"(largest difference {float((ours - theirs).abs().max()):.3g}). Please report the architecture."
            )

    def logits(self, hidden: Tensor, *, widened: bool = True) -> Tensor:
        """Float32 logits [..., V] of hidden states [..., D].

        With `widened` False they stay in the model's precision where nothing else is to be done to them.
        """
        logits = self.linear(hidden)
        if not widened and self.scale == 1.0 and self.softcap is None:
            return logits
        logits = logits.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def logprobs(
        self, hidden_ND: Tensor, token_ids_N: Tensor, *, temperature: float = 1.0, entropy: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Log-prob [N] of each token and, if asked, the entropy [N] of its distribution; see functional."""
        is_scaled_alone = self.linear.bias is None and self.softcap is None and temperature > 0
        if is_scaled_alone and self.cpu.takes(hidden_ND):
            factor = self.scale * (1 / temperature)
            return self.cpu.logprobs(
                hidden_ND, self.linear.weight, token_ids_N, factor=factor, entropy=entropy
            )
        return fused_logprobs(
            hidden_ND,
            self.linear.weight,
            token_ids_N,
            bias_V=self.linear.bias,
            temperature=temperature,
            softcap=self.softcap,
            scale=self.scale,
            entropy=entropy,
        )
