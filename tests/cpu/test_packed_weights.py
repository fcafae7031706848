"""A product with packed weights is the linear layer's own, of the moment they were packed."""

import pytest
import torch
from tiny import make_model
from torch.testing import assert_close

from ventaja.cpu.packed_weights import PackedWeights


@pytest.mark.parametrize("rows", [1, 5, 64, 200])
def test_products_are_the_same(rows: int) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(40, 24), torch.nn.Linear(24, 7, bias=False))
    x = torch.randn(1, rows, 40, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = model(x)
        with PackedWeights(model).active():
            packed = model(x)
    assert_close(packed, plain, rtol=1e-5, atol=1e-6)
    assert torch.equal(model(x), plain)


def test_they_are_of_the_moment_they_were_packed() -> None:
    linear = torch.nn.Linear(4, 4, bias=False)
    model, x = torch.nn.Sequential(linear), torch.ones(1, 4)
    with torch.inference_mode():
        before = model(x)
        packed = PackedWeights(model)
        linear.weight.data.zero_()
        with packed.active():
            assert_close(model(x), before)
        assert torch.equal(model(x), torch.zeros(1, 4))


def test_other_precisions_and_other_layers_are_left_alone() -> None:
    linear = (
        torch.nn.Sequential(torch.nn.Linear(3, 3)).to(dtype) for dtype in (torch.float64, torch.bfloat16)
    )
    for model in (*linear, make_model("gpt2").transformer):
        with torch.inference_mode(), PackedWeights(model).active():
            assert not any("forward" in vars(m) for m in model.modules())
