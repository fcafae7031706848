"""The attention with its backward pass written out equals the plain one, in value and gradient."""

import pytest
import torch
from torch import Tensor

from ventaja.cpu import group_attention
from ventaja.models import Bundle, pack_row
from ventaja.models.group_attention import GroupAttention

SHAPES = {
    "uneven groups": [(5, [3, 1, 4]), (2, [6]), (7, [2, 2])],
    "answers of one token": [(3, [1, 1]), (4, [1])],
    "no answers": [(3, []), (5, [])],
    "one answer": [(1, [9])],
    "long prompts": [(9, [3, 1, 4]), (12, [6]), (7, [2, 2]), (7, [])],
    "one token after the prefix": [(4, [3, 1, 4]), (4, [6]), (4, [])],
}
PREFIXES = {
    "uneven groups": 1,
    "answers of one token": 2,
    "no answers": 2,
    "one answer": 0,
    "long prompts": 6,
    "one token after the prefix": 3,
}
"""How many tokens their prompts share: those of the shortest but one."""


@pytest.mark.parametrize("large", [0, 2**23], ids=["flash kernels", "plain products"])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("worthwhile", [1, 10**6], ids=["prefix", "no prefix"])
@pytest.mark.parametrize("shape", SHAPES)
def test_fast_equals_plain(
    shape: str,
    worthwhile: int,
    key_heads: int,
    window: int | None,
    large: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_attention, "LARGE", large)
    row = pack_row(
        [
            Bundle(prompt_ids=list(range(prompt)), answers=[list(range(n)) for n in answers])
            for prompt, answers in SHAPES[shape]
        ],
        worthwhile=worthwhile,
    )
    assert row.prefix == (PREFIXES[shape] if worthwhile == 1 else 0)
    generator = torch.Generator().manual_seed(0)

    def random(heads: int) -> Tensor:
        return torch.randn(row.tokens, heads, 8, generator=generator).requires_grad_()

    query, key, value = random(4), random(key_heads), random(key_heads)
    weight = torch.randn(row.tokens, 4, 8, generator=generator)
    plan = GroupAttention(row)
    results = []
    for attend in (
        lambda: plan._attend_plainly(query, key, value, 0.3, window, None),
        lambda: group_attention.RowAttention(row)(query, key, value, 0.3, window),
    ):
        output = attend()
        results.append([output, *torch.autograd.grad((output * weight).sum(), (query, key, value))])
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("large", [0, 2**23], ids=["flash kernels", "plain products"])
@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_is_near_the_exact_result(shape: str, large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_attention, "LARGE", large)
    bundles = [
        Bundle(prompt_ids=list(range(prompt)), answers=[list(range(n)) for n in answers])
        for prompt, answers in SHAPES[shape]
    ]
    row = pack_row(bundles, worthwhile=1)
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(row.tokens, heads, 8, generator=generator) for heads in (4, 2, 2)]
    weight = torch.randn(row.tokens, 4, 8, generator=generator)
    plan = GroupAttention(row)
    results = []
    for dtype in (torch.float64, torch.bfloat16):
        inputs = [x.bfloat16().to(dtype).requires_grad_() for x in exact]
        if dtype == torch.bfloat16:
            output = group_attention.RowAttention(row)(*inputs, 0.3, None)
        else:
            output = plan._attend_plainly(*inputs, 0.3, None, None)
        results.append([output, *torch.autograd.grad((output * weight).sum(), inputs)])
    for plain, fast in zip(*results, strict=True):
        assert fast.dtype == torch.bfloat16
        assert (fast.double() - plain).norm() < 0.015 * plain.norm()
