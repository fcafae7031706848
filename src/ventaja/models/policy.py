"""The policy: a Hugging Face causal LM that scores packed rows and saves itself as an ordinary checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from ventaja.cpu import choose
from ventaja.functional import fused_kl
from ventaja.models.attention import angles_change_after, plain_attention, plan_attention
from ventaja.models.chat import Tokenizer
from ventaja.models.group_attention import GroupAttention
from ventaja.models.head import LogitHead
from ventaja.models.layout import PackedRow
from ventaja.models.padded import padded_hidden
from ventaja.models.quiet import without_progress_bars
from ventaja.models.score import ScoreHead
from ventaja.models.value import ValueHead
from ventaja.settings import CpuWay


@dataclass(frozen=True)
class TokenScores:
    """What the policy thinks of each target of a row, in the order of `PackedRow.target_M`."""

    logprob_M: Tensor
    entropy_M: Tensor | None
    value_M: Tensor | None = None
    """The value of the state before each target."""
    end_value_A: Tensor | None = None
    """The value after each answer's last token, where that is an input (`PackedRow.end_A`); of a reward model [A, E], a
    score by each of its heads."""
    kl_M: Tensor | None = None
    """The exact KL to the reference, over the vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be read off a row's last hidden states, all of it in one forward pass."""

    temperature: float = 1.0
    """What logits are divided by, as when the tokens were sampled."""
    logprob: bool = True
    """Log-probs of the targets. False: `TokenScores.logprob_M` is empty, and no logits are computed."""
    entropy: bool = False
    value: bool = False
    """Values, of a policy with a value head."""
    into_trunk: bool = True
    """Let the gradient of values through the head into the network."""
    reference: Policy | None = None
    """The exact KL to this network: the policy itself stands for what its adapters started from."""


class Policy:
    """A causal LM with its tokenizer.

    `module` is what is saved (a PEFT model if adapters are on); `causal_lm` is the plain model inside it. `cpu` is
    the setting of that name.
    """

    def __init__(self, module: Any, tokenizer: Tokenizer, *, name: str, cpu: CpuWay | None = None) -> None:
        self.cpu = choose(cpu)
        """What may be computed faster on a CPU."""
        self.module = module
        self.tokenizer = tokenizer
        self.name = name
        self.causal_lm: PreTrainedModel = (
            module.get_base_model() if hasattr(module, "peft_config") else module
        )
        self.eos_ids = _eos_ids(self.causal_lm, tokenizer)
        self.value_head: ValueHead | ScoreHead | None = None
        """What reads values, or a reward model's scores, off the last hidden states, if anything does."""
        self.recomputes = False
        """Gradient checkpointing (arXiv:1604.06174): layers are computed again in the backward pass."""
        module.eval()
        with plain_attention(self.causal_lm):
            self.head = LogitHead.of(self.causal_lm, self.cpu)
        self.not_packable = plan_attention(self.causal_lm)
        """Why this model cannot share a prompt's computation; None if it can."""
        self.angles_change_after = angles_change_after(self.causal_lm)
        """The length beyond which a sequence is another one to this model from its first token on; None if never."""
        if self.not_packable is None:
            self.cpu.install(self.causal_lm)

    @property
    def device(self) -> torch.device:
        return self.head.linear.weight.device

    @property
    def vocabulary(self) -> int:
        """How many tokens the model can predict; their ids are below it."""
        return self.head.linear.out_features

    @property
    def context_length(self) -> int | None:
        """The most tokens of prompt and answer together, if the model states a limit."""
        return getattr(self.causal_lm.config.get_text_config(), "max_position_embeddings", None)

    def room(self, prompt: int) -> int | None:
        """The most tokens of an answer to a prompt of so many; below 1 if there is none, None without a limit.

        An answer ends where its first tokens would become another sequence's: what was drawn must be what is scored.
        """
        limits = [self.context_length]
        if self.angles_change_after is not None and prompt <= self.angles_change_after:
            limits.append(self.angles_change_after)
        return min((limit - prompt for limit in limits if limit is not None), default=None)

    def is_packed(self, length: int) -> bool:
        """True if sequences of up to so many tokens are packed, False if they take the plain way."""
        return self.not_packable is None and (
            self.angles_change_after is None or length <= self.angles_change_after
        )

    @property
    def fallback_note(self) -> str | None:
        """What to tell the user if this model or this torch goes a plainer way: same results, more work."""
        notes = (self._not_packed_note, self.cpu.missing if self.device.type == "cpu" else None)
        return " ".join(note for note in notes if note) or None

    @property
    def _not_packed_note(self) -> str | None:
        if self.not_packable is not None:
            return (
                f"{self.name} is trained and sampled the plain way, with padding and each prompt computed once "
                f"per answer: {self.not_packable}."
            )
        if (limit := self.angles_change_after) is not None:
            return (
                f"{self.name} sees a sequence of more than {limit} tokens with other rotary angles from its first token "
                f"on (LongRoPE). Answers to prompts of up to {limit} tokens end there; longer prompts and examples take "
                "the plain way, with padding."
            )
        return None

    def add_value_head(self, *, initial_value: float) -> ValueHead:
        """Values are read off the last hidden states from now on."""
        width = self.head.linear.in_features
        head = self.value_head = ValueHead(width, device=self.device, initial_value=initial_value)
        return head

    def parameters(self) -> list[tuple[str, torch.nn.Parameter]]:
        """The trainable parameters with their names, each once."""
        return [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]

    def hidden(self, token_ids_N: Tensor, position_N: Tensor, plan: Any) -> Tensor:
        """Last hidden states [N, D] of one row, under an attention plan. For packable models."""
        with self._recomputing():
            output = self.causal_lm.get_decoder()(
                input_ids=token_ids_N[None], position_ids=position_N[None], use_cache=False, plan=plan
            )
        return output.last_hidden_state[0]

    def score(self, row: PackedRow, *, temperature: float = 1.0, entropy: bool = False) -> TokenScores:
        """Log-probs (and entropies) of a row's targets; gradients flow unless under `torch.no_grad`."""
        return self.read(row, Wanted(temperature=temperature, entropy=entropy))

    def read(self, row: PackedRow, wanted: Wanted) -> TokenScores:
        """What is wanted of a row, from one forward pass; gradients flow unless under `torch.no_grad`."""
        row = row.to(self.device)
        is_trained = wanted.logprob or wanted.into_trunk or wanted.reference is not None
        with nullcontext() if is_trained else torch.no_grad():
            hidden_MD, end_AD = self.states(row)
        logprob, entropy = hidden_MD.new_empty(0, dtype=torch.float32), None
        if wanted.logprob:
            logprob, entropy = self.head.logprobs(
                hidden_MD, row.target_M, temperature=wanted.temperature, entropy=wanted.entropy
            )
        value = end = kl = None
        if wanted.value:
            assert self.value_head is not None, f"{self.name} has no value head"
            value = self.value_head(hidden_MD if wanted.into_trunk else hidden_MD.detach())
            end = end_AD if end_AD is None or wanted.into_trunk else end_AD.detach()
            end = None if end is None else self.value_head(end)
        if wanted.reference is not None:
            kl = self._kl(hidden_MD, row, wanted.reference, wanted.temperature)
        return TokenScores(logprob, entropy, value, end, kl)

    def _kl(self, hidden_MD: Tensor, row: PackedRow, reference: Policy, temperature: float) -> Tensor:
        with torch.no_grad(), self.without_adapters() if reference is self else nullcontext():
            ref_hidden_MD = reference.states(row)[0]
        return fused_kl(
            hidden_MD,
            self.head.linear.weight,
            ref_hidden_MD,
            reference.head.linear.weight,
            bias_V=self.head.linear.bias,
            ref_bias_V=reference.head.linear.bias,
            temperature=temperature,
            softcap=self.head.softcap,
            scale=self.head.scale,
        )

    def score_padded(self, row: PackedRow, *, temperature: float = 1.0, entropy: bool = False) -> TokenScores:
        """The same as `score` for any model, through transformers' own forward pass: see `padded`."""
        row = row.to(self.device)
        return self._scores(self._padded_states(row)[0], row, temperature, entropy)

    def states(self, row: PackedRow) -> tuple[Tensor, Tensor | None]:
        """Last hidden states from which a row's targets are predicted [M, D], and those at its answers' ends [A, D].

        The row is on this device; it has ends if it keeps its answers' last tokens (`PackedRow.end_A`).
        """
        if not self.is_packed(int(row.position_N.max()) + 1):
            return self._padded_states(row)
        hidden_ND = self.hidden(row.token_ids_N, row.position_N, GroupAttention(row, self.cpu))
        return hidden_ND[row.source_M], None if row.end_A is None else hidden_ND[row.end_A]

    def _padded_states(self, row: PackedRow) -> tuple[Tensor, Tensor | None]:
        with self._recomputing(partial(plain_attention, self.causal_lm)):
            return padded_hidden(self.causal_lm, row)

    def _scores(self, hidden_MD: Tensor, row: PackedRow, temperature: float, entropy: bool) -> TokenScores:
        return TokenScores(
            *self.head.logprobs(hidden_MD, row.target_M, temperature=temperature, entropy=entropy)
        )

    @contextmanager
    def as_transformers_has_it(self) -> Iterator[PreTrainedModel]:
        """The model as one of transformers' own inside the block, to be called or to `generate` with."""
        with plain_attention(self.causal_lm):
            yield self.causal_lm

    @property
    def can_recompute(self) -> bool:
        """True if the model says which of its modules are layers."""
        return any(isinstance(m, GradientCheckpointingLayer) for m in self.causal_lm.modules())

    @contextmanager
    def _recomputing(self, again: Callable[[], AbstractContextManager[None]] = nullcontext) -> Iterator[None]:
        """Inside the block layers keep only their inputs for the backward pass, if that is wanted.

        transformers' own way needs training mode, which would wake dropout in some layers. A layer is computed
        again inside `again()`.
        """
        if not (self.recomputes and torch.is_grad_enabled()):
            yield
            return
        layers: list[Any] = [m for m in self.causal_lm.modules() if isinstance(m, GradientCheckpointingLayer)]
        contexts = lambda: (nullcontext(), again())  # noqa: E731
        for layer in layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, context_fn=contexts)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward

    @contextmanager
    def without_adapters(self) -> Iterator[Policy]:
        """The model that the adapters started from: a reference that costs no memory."""
        with self.module.disable_adapter():
            yield self

    @property
    def has_adapters(self) -> bool:
        return self.module is not self.causal_lm

    def adapters_are_new(self, start: str) -> bool:
        """True if the adapters began at zero on top of the model `start`, rather than being part of it."""
        return not (Path(start) / "adapter_config.json").exists()

    def freeze(self) -> None:
        """No parameter of this policy is trained: it is a reference to stay near."""
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face folder (a PEFT adapter folder with adapters on), in the module's precision."""
        with without_progress_bars():
            self.module.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _eos_ids(model: PreTrainedModel, tokenizer: Tokenizer) -> frozenset[int]:
    """Every token that ends an answer: the generation config's, the model's and the tokenizer's."""
    ids: set[int] = set()
    for source in (getattr(model, "generation_config", None), model.config.get_text_config(), tokenizer):
        eos = getattr(source, "eos_token_id", None)
        if eos is not None:
            ids.update(eos if isinstance(eos, (list, tuple)) else [eos])
    return frozenset(int(i) for i in ids)
