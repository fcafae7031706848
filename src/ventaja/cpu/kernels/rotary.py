"""Rotary positions (arXiv:2104.09864) on halves:  y₁ = x₁·cos − x₂·sin,  y₂ = x₂·cos + x₁·sin."""

import numpy as np

from ventaja.cpu.kernels.numbers import kernel, narrow, prange, widen


@kernel
def rotate(x, cos, sin, direction, y):
    """y [N, H, D] for cos and sin [N, D], whose halves are alike. Direction −1 turns back: the gradient."""
    N, H, D = x.shape
    half = D // 2
    for n in prange(N):
        for h in range(H):
            for d in range(half):
                c, s = widen(cos[n, d]), np.float32(direction) * widen(sin[n, d])
                first, second = widen(x[n, h, d]), widen(x[n, h, d + half])
                y[n, h, d] = narrow(first * c - second * s, y.dtype)
                y[n, h, d + half] = narrow(second * c + first * s, y.dtype)
