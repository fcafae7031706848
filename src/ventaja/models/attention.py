"""The seam between transformers' models and our attention: a plan that rides along with the forward pass.

transformers hands extra keyword arguments of a model's forward to its attention function. Ours passes the
queries, keys and values on to the `AttentionPlan` found among them, which knows what the rows are: prompts
with their answers (training), prompts alone (prefill) or one new token per answer (decoding).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from ventaja.errors import ModelError

IMPLEMENTATION = "ventaja"


class AttentionPlan(Protocol):
    """How the tokens of one packed row see each other."""

    def attend(
        self,
        layer: int,
        query_HND: Tensor,
        key_KND: Tensor,
        value_KND: Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Attention output [N, H, D] for queries of H heads and keys and values of K heads (K divides H).

        `window`: a token sees only the last `window` positions, itself included. `softcap`: scores become
        softcap·tanh(score/softcap).
        """
        ...


def _planned_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    plan: AttentionPlan,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    if s_aux is not None:
        raise ModelError(
            f"{type(module).__name__} uses attention sinks, which the packed forward cannot do yet."
        )
    if dropout:
        raise ModelError(
            "attention dropout is on: its mask would depend on how samples are packed. Set it to 0."
        )
    output_NHD = plan.attend(
        module.layer_idx,  # type: ignore[arg-type]
        query[0],
        key[0],
        value[0],
        scaling=scaling if scaling is not None else query.shape[-1] ** -0.5,
        window=sliding_window,
        softcap=softcap,
    )
    return output_NHD[None], None


AttentionInterface.register(IMPLEMENTATION, _planned_attention)

_FULL_LAYERS = {"full_attention", "sliding_attention"}


def why_not_packable(model: PreTrainedModel) -> str | None:
    """None if the model's attention can be planned; else the reason, for a message to the user."""
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} does not take attention functions from outside"
    if odd := set(getattr(config, "layer_types", None) or ()) - _FULL_LAYERS:
        return f"{type(model).__name__} has layers of type {', '.join(sorted(odd))}"
    if getattr(config, "num_kv_shared_layers", 0):
        return f"{type(model).__name__} shares keys and values between layers"
    if getattr(config, "position_embedding_type", "absolute") not in {"absolute", "rotary"} or getattr(
        config, "alibi", False
    ):
        return f"{type(model).__name__} puts positions into its attention scores"
    return None
