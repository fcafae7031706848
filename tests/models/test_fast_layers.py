"""Replaced layers compute what transformers' own do; those that nothing fits keep their own."""

import pytest
import torch
from test_packing import BUNDLES, EXACT
from tiny import PACKABLE, make_policy, shared_policy
from torch.testing import assert_close

from ventaja.models import fast_layers, pack_row
from ventaja.models.fast_layers import FastAttention, FastForward, FastMLP, FastNorm

# Two layers each. Gemma has four norms a layer and, in 3, two more for queries and keys; and one at the end.
COUNTS = {
    "llama": {FastNorm: 5, FastMLP: 2, FastAttention: 2},
    "qwen3": {FastNorm: 9, FastMLP: 2, FastAttention: 2},
    "gemma2": {FastNorm: 9, FastMLP: 2, FastAttention: 2},
    "gemma3": {FastNorm: 13, FastMLP: 2, FastAttention: 2},
    "gpt2": {FastNorm: 0, FastMLP: 0, FastAttention: 0},
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
        if plainly:
            for module in policy.causal_lm.modules():
                if isinstance(vars(module).get("forward"), FastForward):
                    del module.forward
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
    with fast_layers.removed(model):
        assert "forward" not in vars(norm)
    assert isinstance(norm.forward, FastNorm)


def test_a_layer_that_computes_something_else_keeps_its_own() -> None:
    class ScaledRMSNorm(torch.nn.RMSNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1.5 * super().forward(x)

    model = torch.nn.Sequential(ScaledRMSNorm(8, eps=1e-5), torch.nn.RMSNorm(8, eps=1e-5))
    fast_layers.install(model)
    assert "forward" not in vars(model[0])
    assert isinstance(model[1].forward, FastNorm)
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert_close(model(x), torch.nn.RMSNorm(8, eps=1e-5)(1.5 * torch.nn.RMSNorm(8, eps=1e-5)(x)))
