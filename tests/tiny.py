"""Tiny random models and a tokenizer of single characters: every test's own laptop-sized language model.

The weights are large, so that no distribution is flat and no mistake hides in a rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, processors
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    JambaConfig,
    JambaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ventaja.models import Policy
from ventaja.records import Prompt

torch.set_num_threads(1)  # threads cost more than they bring where a product takes microseconds

PACKABLE = ("llama", "qwen3", "gemma3", "gemma2", "gpt2")
"""Grouped queries; normalised queries; a sliding window; softcaps and a window; absolute positions."""
UNPACKABLE = ("bloom", "jamba")
"""Positions inside the attention scores; a recurrence."""

QUESTION = Prompt(id="q", content="?")
"""Of requests whose tokens say all that matters."""

PAD, EOS, START = 0, 1, 2
SPECIAL = ("<|pad|>", "<|end|>", "<|start|>")
CHARACTERS = "\n" + "".join(chr(c) for c in range(32, 127)) + "áéñ¿"
VOCABULARY = len(SPECIAL) + len(CHARACTERS)  # 103: no multiple of anything
WINDOW = 6
LONGROPE = 32
"""Beyond so many tokens phi3 takes its long factors."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


def make_tokenizer(
    *, chat_template: str | None = CHAT_TEMPLATE, starts: bool = False
) -> PreTrainedTokenizerFast:
    """One token per character. With `starts`, a start token begins every text encoded with special tokens."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *CHARACTERS))}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.decoder = decoders.Fuse()
    if starts:
        inner.post_processor = processors.TemplateProcessing(
            single="<|start|> $A", special_tokens=[("<|start|>", START)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=SPECIAL[PAD],
        eos_token=SPECIAL[EOS],
        additional_special_tokens=[SPECIAL[START]],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def _sizes(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "bos_token_id": START,
        **more,
    }


_GEMMA = {
    "head_dim": 8,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 8,
}

_MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_sizes())),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_sizes(head_dim=16, tie_word_embeddings=True))),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**_sizes(**_GEMMA))),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**_sizes(**_GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=3.0))
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=256,
            n_embd=32,
            n_layer=2,
            n_head=4,
            pad_token_id=PAD,
            eos_token_id=EOS,
            bos_token_id=START,
        )
    ),
    "phi3": lambda: Phi3ForCausalLM(
        Phi3Config(
            **_sizes(original_max_position_embeddings=LONGROPE),
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [2.0, 3.0, 5.0, 8.0],
            },
        )
    ),
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            n_layer=2,
            n_head=4,
            pad_token_id=PAD,
            eos_token_id=EOS,
            bos_token_id=START,
        )
    ),
    "jamba": lambda: JambaForCausalLM(
        JambaConfig(
            **_sizes(
                attn_layer_period=2,
                attn_layer_offset=1,
                expert_layer_period=2,
                expert_layer_offset=1,
                num_experts=2,
                num_experts_per_tok=1,
                mamba_d_state=4,
                mamba_dt_rank=4,
            )
        )
    ),
}


def make_model(kind: str, *, seed: int = 0, attention: str | None = None) -> PreTrainedModel:
    """A float32 model whose weights depend on `kind` and `seed` alone, so that two calls give equal copies."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _MODELS[kind]()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("A_log"):
                continue
            if parameter.dim() >= 2:
                parameter.copy_(0.3 * noise)
            else:  # norms and biases: near where they start, but none of them 0 or 1
                parameter.add_(0.1 * noise)
    model.generation_config.eos_token_id = EOS
    if attention is not None:
        model.set_attn_implementation(attention)
    return model.eval()


def make_policy(kind: str = "llama", *, seed: int = 0) -> Policy:
    return Policy(make_model(kind, seed=seed), make_tokenizer(), name=f"tiny-{kind}")


@functools.cache
def shared_policy(kind: str = "llama") -> Policy:
    """A policy for tests that change nothing about it."""
    return make_policy(kind)


def save_tiny_model(
    folder: Path, kind: str = "llama", *, seed: int = 0, chat_template: str | None = CHAT_TEMPLATE
) -> Path:
    """Write an ordinary checkpoint folder, which `load_policy` can load."""
    make_model(kind, seed=seed).save_pretrained(folder)
    make_tokenizer(chat_template=chat_template).save_pretrained(folder)
    return folder


def tiny_llama(folder: Path) -> Path:
    """A tiny Llama's checkpoint folder."""
    return save_tiny_model(folder, "llama")
