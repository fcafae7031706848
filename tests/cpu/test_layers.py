"""Replaced layers compute what transformers' own do; those that nothing fits keep their own."""

from contextlib import nullcontext

import pytest
import torch
from tiny import PACKABLE, WINDOW, make_policy, shared_policy
from torch.testing import assert_close
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

from ventaja import cpu
from ventaja.cpu.layers import FastAttention, FastNorm
from ventaja.models import Bundle, pack_row

EXACT = {"rtol": 1e-5, "atol": 2e-5}
BUNDLES = [
    Bundle(prompt_ids=list(range(3, 3 + prompt)), answers=[list(range(40, 40 + n)) for n in answers])
    for prompt, answers in ((5, (3, 1, 7)), (1, (4,)), (2 * WINDOW + 3, (2, 9)), (WINDOW, (1,)))
]
"""Uneven answers; a prompt longer than the window, and an answer that outgrows it."""

# Two layers each. Gemma has four norms a layer and, in 3, two more for queries and keys; and one at the end.
COUNTS = {
    "llama": {FastNorm: 5, FastAttention: 2},
    "qwen3": {FastNorm: 9, FastAttention: 2},
    "gemma2": {FastNorm: 9, FastAttention: 2},
    "gemma3": {FastNorm: 13, FastAttention: 2},
    "gpt2": {FastNorm: 0, FastAttention: 0},
}


@pytest.mark.parametrize("kind", PACKABLE)
def test_which_layers_are_replaced(kind: str) -> None:
    layers = [vars(m).get("forward") for m in shared_policy(kind).causal_lm.modules()]
    assert {k: sum(type(f) is k for f in layers) for k in COUNTS[kind]} == COUNTS[kind]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gemma3"])
def test_values_and_gradients_equal_those_of_the_models_own_layers(kind: str) -> None:
    row = pack_row(BUNDLES)
    results = []
    for plainly in (False, True):
        policy = make_policy(kind)
        with cpu.removed(policy.causal_lm) if plainly else nullcontext():
            score = policy.score(row, entropy=True)
        assert score.entropy_M is not None
        (score.logprob_M.mean() + score.entropy_M.mean()).backward()
        results.append([score.logprob_M, *(p.grad for _, p in policy.parameters())])
    for fast, plain in zip(*results, strict=True):
        assert_close(fast, plain, **EXACT)


def test_inside_the_block_the_layers_are_the_models_own() -> None:
    model = shared_policy("llama").causal_lm
    norm = model.model.norm
    assert isinstance(norm.forward, FastNorm)
    with cpu.removed(model):
        assert "forward" not in vars(norm)
    assert isinstance(norm.forward, FastNorm)


def test_a_layer_that_computes_something_else_keeps_its_own() -> None:
    class ScaledRMSNorm(torch.nn.RMSNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1.5 * super().forward(x)

    model = torch.nn.Sequential(ScaledRMSNorm(8, eps=1e-5), torch.nn.RMSNorm(8, eps=1e-5))
    cpu.FAST.install(model)
    assert "forward" not in vars(model[0])
    assert isinstance(model[1].forward, FastNorm)
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert_close(model(x), torch.nn.RMSNorm(8, eps=1e-5)(1.5 * torch.nn.RMSNorm(8, eps=1e-5)(x)))


def norm_of(kind: type, weight: float) -> torch.nn.Module:
    norm = kind(64, eps=1e-6)
    torch.nn.init.constant_(norm.weight, weight)
    return norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("kind", "way"),
    [(LlamaRMSNorm, 0), (Olmo2RMSNorm, 1), (Gemma2RMSNorm, 2)],
    ids=["Llama", "Olmo2", "Gemma2"],
)
def test_which_norm_it_is_does_not_depend_on_its_weights(kind: type, way: int, dtype: torch.dtype) -> None:
    """With a weight of 300 the 1 that Gemma adds is smaller than a rounding of bfloat16."""
    for weight in (1.0, 300.0):
        norm = norm_of(kind, weight).to(dtype)
        cpu.FAST.install(norm)
        assert norm.forward.way == FastNorm.WAYS[way]
        assert float(norm.weight.detach()[0]) == weight
        assert norm.weight.dtype == dtype


def test_a_norm_whose_epsilon_is_not_found_keeps_its_own() -> None:
    class OddRMSNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.small = torch.nn.Parameter(torch.ones(8)), 1e-5

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight * x * (x.square().mean(-1, keepdim=True) + self.small).rsqrt()

    norm = OddRMSNorm()
    cpu.FAST.install(norm)
    assert "forward" not in vars(norm)


def test_attention_that_clamps_keeps_its_own() -> None:
    class Clamping(LlamaAttention):
        def forward(self, hidden_states: torch.Tensor, **how: object) -> object:
            return super().forward(hidden_states.clamp(-8, 8), **how)

    config = make_policy("llama").causal_lm.config
    for attention, is_replaced in ((LlamaAttention(config, 0), True), (Clamping(config, 0), False)):
        cpu.FAST.install(attention)
        assert ("forward" in vars(attention)) == is_replaced


def test_rotation_of_a_part_of_each_head_is_left_to_the_model() -> None:
    config = make_policy("llama").causal_lm.config
    attention = LlamaAttention(config, 0)
    cpu.FAST.install(attention)
    called = []
    attention.forward.plain = lambda hidden, **how: called.append(how["position_embeddings"])
    hidden, half = torch.zeros(1, 3, config.hidden_size), torch.ones(1, 3, attention.head_dim // 2)
    attention(hidden, position_embeddings=(half, half), plan=object())
    assert called == [(half, half)]
