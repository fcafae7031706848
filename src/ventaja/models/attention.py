"""The seam between transformers' models and our attention: a plan that rides along with the forward pass.

transformers hands extra keyword arguments of a model's forward to its attention function. Ours passes the
queries, keys and values on to the `AttentionPlan` found among them, which knows what the rows are: prompts
with their answers (training), prompts alone (prefill) or one new token per answer (decoding).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from ventaja import cpu
from ventaja.errors import ModelError, VentajaError

IMPLEMENTATION = "ventaja"


@runtime_checkable
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
    plan: AttentionPlan | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    if plan is None:
        raise ModelError(
            "this model is set up for packed rows, so it cannot be called on its own. "
            "First call set_attn_implementation('eager') on it, or load the checkpoint again."
        )
    if s_aux is not None:
        raise ModelError(f"{type(module).__name__} uses attention sinks")
    if position_bias is not None:
        raise ModelError(f"{type(module).__name__} puts positions into its attention scores")
    if not getattr(module, "is_causal", True):
        raise ModelError(f"{type(module).__name__} lets tokens see later ones")
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


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside the block the model computes as transformers has it, so that it can be called on its own."""
    if model.config._attn_implementation != IMPLEMENTATION:
        yield
        return
    # What transformers itself would choose; its sdpa has no softcap of the scores, and leaves it out.
    softcap = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    model.set_attn_implementation("sdpa" if model._supports_sdpa and softcap is None else "eager")
    try:
        with cpu.removed(model):
            yield
    finally:
        model.set_attn_implementation(IMPLEMENTATION)


_PLANNED_LAYERS = {"full_attention": False, "sliding_attention": True}
"""The types of layer that a plan covers, and whether they have a window."""


def plan_attention(model: PreTrainedModel) -> str | None:
    """Switch the model to planned attention, if it can; else the reason why not, for a message to the user.

    What the configuration cannot tell, two tokens sent through the model do.
    """
    reason = _stated_obstacle(model)
    if reason is not None:
        return reason
    before = model.config._attn_implementation
    model.set_attn_implementation(IMPLEMENTATION)
    reason = _met_obstacle(model)
    if reason is not None:
        model.set_attn_implementation(before)
    return reason


def _stated_obstacle(model: PreTrainedModel) -> str | None:
    config = model.config.get_text_config()
    if not getattr(model, "_supports_attention_backend", False):
        return f"{type(model).__name__} does not take attention functions from outside"
    if odd := set(getattr(config, "layer_types", None) or ()) - set(_PLANNED_LAYERS):
        return f"{type(model).__name__} has layers of type {', '.join(sorted(odd))}"
    if getattr(config, "num_kv_shared_layers", 0):
        return f"{type(model).__name__} shares keys and values between layers"
    if getattr(config, "position_embedding_type", "absolute") not in {"absolute", "rotary"} or getattr(
        config, "alibi", False
    ):
        return f"{type(model).__name__} puts positions into its attention scores"
    return None


def angles_change_after(model: PreTrainedModel) -> int | None:
    """The length beyond which all of a sequence's tokens are turned by other angles than in a shorter one, if any.

    LongRoPE (arXiv:2402.13753) has factors for short and for long sequences, and transformers takes those of the
    longest one for everything in a batch. Dynamic NTK changes beyond the model's context, where no sequence is.
    """
    config = model.config.get_text_config()
    ropes = getattr(config, "rope_parameters", None) or {}
    layers = [
        ropes,
        *(rope for rope in ropes.values() if isinstance(rope, dict)),
    ]  # one for all, or for each type
    lengths = [
        rope["original_max_position_embeddings"] for rope in layers if rope.get("rope_type") == "longrope"
    ]
    return min(lengths, default=None)


class _Trial:
    """A plan that only notes each layer's window: every token sees itself."""

    def __init__(self) -> None:
        self.windows: dict[int, int | None] = {}

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
        self.windows[layer] = window
        repeats = query_HND.shape[0] // value_KND.shape[0]
        return value_KND.repeat_interleave(repeats, dim=0).transpose(0, 1)


@torch.no_grad()
def _met_obstacle(model: PreTrainedModel) -> str | None:
    config = model.config.get_text_config()
    trial = _Trial()
    ids = torch.ones(1, 2, dtype=torch.long, device=model.device)
    place = torch.arange(2, device=model.device)[None]
    try:
        model.get_decoder()(input_ids=ids, position_ids=place, use_cache=False, plan=trial)
    except VentajaError as error:
        return str(error)
    except TypeError:
        return f"{type(model).__name__} does not hand arguments on to its attention"
    except Exception as error:  # a model's own code may do anything, and the plain way still computes it
        text = str(error).strip().split("\n")[0]
        return f"{type(model).__name__} fails with two tokens in a packed row: {type(error).__name__}: {text}"
    if set(trial.windows) != set(range(config.num_hidden_layers)):
        return f"{type(model).__name__} has layers without the usual attention"
    size = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    for layer, window in trial.windows.items():
        slides = _PLANNED_LAYERS[kinds[layer]] if kinds else size is not None
        if window != (size if slides else None):
            return f"{type(model).__name__} does not tell its attention about the sliding window"
    return None
