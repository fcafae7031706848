"""Each kernel computes what a few lines of torch do, in float32 and in bfloat16, on any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from ventaja.cpu import kernels
from ventaja.cpu.kernels import numbers
from ventaja.cpu.layers import rms_norm, rotate

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
SIZES = pytest.mark.parametrize("size", [1, 7, 16, 64, 83])


def near(dtype: torch.dtype) -> dict[str, float]:
    """Float32 sums in another order; bfloat16 that rounds once where torch rounds at each step."""
    return {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.03}


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def agree(ours: Tensor, theirs: Tensor, inputs: list[Tensor], dtype: torch.dtype) -> None:
    """In value, and in every gradient of a random sum."""
    assert ours.dtype == dtype
    weight = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(9))
    results = [
        torch.autograd.grad((y.float() * weight).sum(), inputs, retain_graph=True) for y in (ours, theirs)
    ]
    assert_close(ours.float(), theirs.float(), **near(dtype))
    for mine, plain in zip(*results, strict=True):
        assert_close(mine.float(), plain.float(), **near(dtype))


@DTYPES
@SIZES
@pytest.mark.parametrize(("offset", "rounds_first"), [(0.0, True), (0.0, False), (1.0, False)])
def test_rms_norm(dtype: torch.dtype, size: int, offset: float, rounds_first: bool) -> None:
    x, w = random(2, 5, size, dtype=dtype), random(size, dtype=dtype, seed=1)
    n = x.float() * (x.float().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    plain = w * n.to(dtype) if rounds_first else ((offset + w.float()) * n).to(dtype)
    agree(rms_norm(x, w, eps=1e-6, offset=offset, rounds_first=rounds_first), plain, [x, w], dtype)


def test_rms_norm_by_hand() -> None:
    # mean of 3² and 4² is 12.5; 3/√12.5 = 0.848528, 4/√12.5 = 1.131371; weights 2 and 1
    y = rms_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([2.0, 1.0]), eps=0.0, offset=0.0, rounds_first=True)
    assert_close(y, torch.tensor([[1.697056, 1.131371]]))


@DTYPES
@pytest.mark.parametrize("size", [2, 8, 64, 82])
def test_rotate(dtype: torch.dtype, size: int) -> None:
    x = random(5, 3, size, dtype=dtype)
    angle = random(5, size // 2, dtype=torch.float32, seed=1).detach().repeat(1, 2)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    first, second = x.chunk(2, -1)
    plain = x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]
    agree(rotate(x, cos, sin), plain, [x], dtype)


def attention_by_hand(q: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
    return (keys.float() @ q.float() * scaling).softmax(0) @ values.float()


@DTYPES
@pytest.mark.parametrize("window", [0, 1, 4, 9])
def test_decoding_attends_to_prompt_and_itself(dtype: torch.dtype, window: int) -> None:
    B, H, K, D, S, L, T = 5, 6, 2, 8, 3, 7, 6
    query, key, value = (random(B, h, D, dtype=dtype, seed=h + i).detach() for i, h in enumerate((H, K, K)))
    prompt_key, prompt_value = random(2, S, K, L, D, dtype=dtype, seed=5).detach()
    answer_key, answer_value = random(2, B + 2, K, T, D, dtype=dtype, seed=6).detach()
    before = answer_key.clone()
    slot, prompt_length, length = (
        torch.tensor([2, 0, 0, 1, 2]),
        torch.tensor([7, 1, 4]),
        torch.tensor([0, 1, 2, 5, 3]),
    )
    out = torch.empty_like(query)
    kernels.decode_attention(
        query, key, value, prompt_key, prompt_value, answer_key, answer_value, slot, prompt_length, length, window,
        0.3, out,
    )  # fmt: skip
    for b in range(B):
        t, n, s = int(length[b]), int(prompt_length[slot[b]]), int(slot[b])
        assert torch.equal(answer_key[b, :, t], key[b])
        assert torch.equal(answer_key[b, :, :t], before[b, :, :t])
        for h in range(H):
            k = h // (H // K)
            keys = torch.cat([prompt_key[s, k, :n], answer_key[b, k, : t + 1]])[-window:]
            values = torch.cat([prompt_value[s, k, :n], answer_value[b, k, : t + 1]])[-window:]
            assert_close(out[b, h].float(), attention_by_hand(query[b, h], keys, values, 0.3), **near(dtype))
    assert torch.equal(answer_key[B:], before[B:])


ON_THREADS = """
import torch

torch.set_num_threads(2)
from transformers import LlamaConfig, LlamaForCausalLM

from ventaja.models import Bundle, Policy, pack_row
from ventaja.records import Request
from ventaja.rollouts import LocalEngine, Sampling
from tiny import QUESTION, make_tokenizer
import numba

config = LlamaConfig(
    vocab_size=103, hidden_size=96, intermediate_size=200, num_hidden_layers=2, num_attention_heads=6,
    num_key_value_heads=2, initializer_range=0.2, pad_token_id=0, eos_token_id=1, bos_token_id=2,
)
results = []
for threads in (2, 1, 2):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    policy = Policy(LlamaForCausalLM(config).eval(), make_tokenizer(), name="small")
    requests = [Request(prompt=QUESTION, prompt_ids=tuple(range(3, 9 + i)), count=8, seed=(i,)) for i in range(8)]
    groups = LocalEngine(policy).sample(requests, Sampling(max_tokens=24))
    assert numba.get_num_threads() == threads
    row = pack_row(
        [Bundle(prompt_ids=r.prompt_ids, answers=[c.token_ids for c in g]) for r, g in zip(requests, groups)],
        worthwhile=1,
    )
    scores = policy.score(row, entropy=True)
    (scores.logprob_M.sum() + scores.entropy_M.sum()).backward()
    results.append((groups, scores.logprob_M.detach(), [p.grad for _, p in policy.parameters()]))
for groups, logprob_M, gradients in results[1:]:
    assert [[c.token_ids for c in g] for g in groups] == [[c.token_ids for c in g] for g in results[0][0]]
    torch.testing.assert_close(logprob_M, results[0][1], rtol=1e-5, atol=1e-5)
    for ours, first in zip(gradients, results[0][2]):
        torch.testing.assert_close(ours, first, rtol=1e-4, atol=1e-5 * float(first.abs().max()))
print("equal")
"""


def test_two_threads_compute_what_one_does() -> None:
    """In a process of its own: here numba has begun with one thread, as torch did."""
    place = {name: value for name, value in os.environ.items() if name != "NUMBA_NUM_THREADS"}
    place["PYTHONPATH"] = str(Path(__file__).parent.parent)
    place["OMP_NUM_THREADS"] = "2"  # a stated number is kept, whoever else is busy
    done = subprocess.run([sys.executable, "-c", ON_THREADS], env=place, capture_output=True, text=True)
    assert done.stdout == "equal\n", done.stderr


def test_a_cache_folder_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VENTAJA_CACHE", str(tmp_path / "file"))
    numbers._disk_folder.cache_clear()
    try:
        assert numbers._disk_folder() is None
        assert numbers._compiled(lambda x: x + 1)(2) == 3
        monkeypatch.setenv("VENTAJA_CACHE", str(tmp_path))
        numbers._disk_folder.cache_clear()
        assert Path(numbers._disk_folder()).is_dir()
    finally:
        monkeypatch.undo()
        numbers._disk_folder.cache_clear()


def test_a_tensor_with_gaps_is_refused() -> None:
    x = torch.zeros(4, 6).t()
    with pytest.raises(ValueError, match="contiguous"):
        kernels.rms_norm(x, torch.ones(4), 1e-5, 0.0, False, torch.empty(6, 4), torch.empty(6))
