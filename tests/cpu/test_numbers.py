"""bfloat16 and the exponential as kernels compute them, against torch."""

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.testing import assert_close

from ventaja.cpu import FAST, PLAIN
from ventaja.cpu.kernels.numbers import exp, narrow, widen


@njit
def _widened(x, out):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        out[i] = widen(x[i])


@njit
def _narrowed(x, out):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        out[i] = narrow(x[i], out.dtype)


@njit
def _exponentials(x, out):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        out[i] = exp(x[i])


def test_every_bfloat16_is_read_as_torch_reads_it() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    ours = np.empty(2**16, dtype=np.float32)
    _widened(bits, ours)
    theirs = torch.from_numpy(bits).view(torch.bfloat16).float()
    assert_close(torch.from_numpy(ours), theirs, rtol=0, atol=0, equal_nan=True)


def rounded(x: Tensor) -> Tensor:
    out = np.empty(len(x), dtype=np.uint16)
    _narrowed(x.numpy(), out)
    return torch.from_numpy(out).view(torch.bfloat16)


def test_numbers_are_rounded_as_torch_rounds_them() -> None:
    bits = torch.randint(-(2**31), 2**31, (200_000,), generator=torch.Generator().manual_seed(0))
    x = bits.to(torch.int32).view(torch.float32)
    x = x[~x.isnan()]
    # halfway between two neighbours, the even one: 1 + 2⁻⁸ lies between 1 and 1 + 2⁻⁷; 1 + 3·2⁻⁸ goes up to 1 + 2⁻⁶
    by_hand = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), math.inf, -math.inf, 0.0, 3.4e38])
    assert rounded(by_hand).tolist() == [1.0, 1 + 2**-6, -1.0, math.inf, -math.inf, 0.0, math.inf]
    assert torch.equal(rounded(x), x.bfloat16())
    assert rounded(torch.tensor([math.nan])).isnan().all()


def test_exponentials_are_right_to_the_last_places() -> None:
    x = torch.linspace(-87, 88, 1_000_001)
    out = np.empty(len(x), dtype=np.float32)
    _exponentials(x.numpy(), out)
    exact = x.double().exp()
    assert float(((torch.from_numpy(out) - exact) / exact).abs().max()) < 2e-7  # float32's own step is 1.2e-7


def test_exponentials_of_what_is_no_ordinary_number() -> None:
    x = np.array([-math.inf, -1e30, -100.0, 0.0, math.nan], dtype=np.float32)
    out = np.empty_like(x)
    _exponentials(x, out)
    assert out[:4].tolist() == [0.0, 0.0, 0.0, 1.0]
    assert math.isnan(out[4])


def test_which_tensors_kernels_take() -> None:
    x = torch.zeros(2)
    assert FAST.takes(x)
    assert FAST.takes(x.bfloat16(), x.bfloat16())
    assert not FAST.takes(x, x.bfloat16())
    assert not FAST.takes(x.double())
    assert not FAST.takes(x.half())
    assert not FAST.takes(x.to("meta"))
    assert not PLAIN.takes(x)
