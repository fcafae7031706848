"""What all kernels share: torch's bfloat16 as numba sees it, the exponential, and how a kernel is compiled."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, wraps
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ventaja.cpu.kernels.threads import config, numba, use_torchs_threads
from ventaja.settings import cache_folder

prange = numba.prange
"""A loop whose steps may run at the same time."""

_OPTIONS: dict[str, Any] = {
    # Sums may be reordered, so that they run in vectors; infinities and NaN keep their meaning.
    "fastmath": {"reassoc", "contract", "nsz"},
    "error_model": "numpy",
}

_TEXT = sha256(b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()[:16]

_ONLY_PRANGE = dict.fromkeys(
    ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"), False
)
"""Assignments to slices stay ordinary loops, which compile several times faster."""


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    """Compile at first call, and keep it on disk if the cache folder can be written."""
    folder, before = _disk_folder(), config.CACHE_DIR
    config.CACHE_DIR = folder or before
    try:
        return numba.njit(**_OPTIONS | {"cache": folder is not None} | options)(function)
    finally:
        config.CACHE_DIR = before


@cache
def _disk_folder() -> str | None:
    """Named after all kernels' text, since one is built into another; None if it cannot be written."""
    folder = cache_folder() / "kernels" / _TEXT
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return str(folder) if os.access(folder, os.W_OK) else None


def inlined(function: Callable[..., Any]) -> Any:
    """A function that kernels call in their inner loops."""
    return _compiled(function, inline="always")


def on_rows(function: Callable[..., Any]) -> Any:
    """A loop over one row; rows as arrays of one dimension are what the compiler turns into vectors."""
    return _compiled(function)


def kernel(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a function of arrays and numbers; called with contiguous tensors, which it writes into.

    Its `prange` loops run on as many threads as torch uses, and their results do not depend on how many.
    """
    compiled = _compiled(function, parallel=_ONLY_PRANGE)

    @wraps(function)
    def call(*arguments: Any) -> None:
        use_torchs_threads()
        compiled(*[_array(a) if isinstance(a, Tensor) else a for a in arguments])

    return call


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory; bfloat16, which numpy does not know, as the upper halves of float32 numbers."""
    if not tensor.is_contiguous():
        raise ValueError(f"kernels take contiguous tensors, got strides {tensor.stride()}")
    if tensor.requires_grad:
        tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def widen(x):
    """A stored number as float32."""
    raise NotImplementedError("only inside kernels")


@numba.extending.overload(widen, inline="always")
def _widen(x):
    if x == numba.types.uint16:
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: np.float32(x)


def narrow(value, dtype):
    """A float32 number as it is stored in an array of this dtype, rounded to nearest, ties to even."""
    raise NotImplementedError("only inside kernels")


@numba.extending.overload(narrow, inline="always")
def _narrow(value, dtype):
    if dtype.dtype == numba.types.uint16:

        def round_to_even(value, dtype):
            bits = np.float32(value).view(np.uint32)
            return np.uint16(
                (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            )

        return round_to_even
    return lambda value, dtype: np.float32(value)


_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)


@inlined
def exp(x):
    """e^x in float32 to about 1 unit in the last place; 0 below −87, for −inf too. In vectors, unlike libm's.

    x = n·ln 2 + f with |f| ≤ ln 2 / 2; a polynomial for e^f (Cephes, expf), and n into the exponent's bits.
    """
    clamped = min(max(x, np.float32(-87.0)), np.float32(88.0))
    n = np.floor(clamped * _LOG2E + np.float32(0.5))
    f = clamped - n * _LN2_HIGH - n * _LN2_LOW
    p = np.float32(1.9875691500e-4)
    p = p * f + np.float32(1.3981999507e-3)
    p = p * f + np.float32(8.3334519073e-3)
    p = p * f + np.float32(4.1665795894e-2)
    p = p * f + np.float32(1.6666665459e-1)
    p = p * f + np.float32(5.0000001201e-1)
    p = p * f * f + f + np.float32(1.0)
    scale = np.uint32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    below = np.float32(0.0) if x < np.float32(-87.0) else x  # x is NaN, if it is neither
    return p * scale if x >= np.float32(-87.0) else below


@on_rows
def dot(a, b):
    """Σ a·b of two rows of one length."""
    total = np.float32(0)
    for d in range(len(a)):
        total += widen(a[d]) * widen(b[d])
    return total


@on_rows
def copy_scaled(row, factor, out):
    """out = factor · row, in float32."""
    for d in range(len(out)):
        out[d] = widen(row[d]) * factor


@on_rows
def store_scaled(row, factor, out):
    """out = factor · row, in out's dtype."""
    for d in range(len(out)):
        out[d] = narrow(row[d] * factor, out.dtype)


@on_rows
def store(row, out):
    """out = row, in out's dtype."""
    for d in range(len(out)):
        out[d] = narrow(row[d], out.dtype)


@on_rows
def scale(row, factor):
    """row *= factor."""
    for d in range(len(row)):
        row[d] *= factor


@on_rows
def subtract(row, x):
    """row −= x."""
    for d in range(len(row)):
        row[d] -= x


@on_rows
def exponentiate(row):
    """row = exp(row)."""
    for d in range(len(row)):
        row[d] = exp(row[d])


@on_rows
def sum_of(row):
    """Σ row."""
    total = np.float32(0)
    for d in range(len(row)):
        total += row[d]
    return total


def _largest(row):
    """The largest number of a float32 row; −inf of an empty one."""
    top = np.float32(-np.inf)
    for d in range(len(row)):
        top = max(top, row[d])
    return top


# Without NaN's rules a maximum runs in vectors; NaN shows in the exponentials.
largest = _compiled(_largest, fastmath={"nnan", "nsz", "reassoc"})
