"""Root-mean-square norm (arXiv:1910.07467, eq. 4):  y = x / √(mean x² + ε) · (offset + w)."""

import numpy as np

from ventaja.cpu.kernels.numbers import kernel, narrow, prange, widen

PARTS = 64
"""Rows are summed for the weight's gradient in this many parts, whatever the number of threads."""


@kernel
def rms_norm(x, w, eps, offset, rounds_first, y, inverse):
    """y [N, D] and 1/rms [N]. `rounds_first`: x/rms is rounded to y's dtype before the weight multiplies it."""
    N, D = x.shape
    for n in prange(N):
        square = np.float32(0)
        for d in range(D):
            v = widen(x[n, d])
            square += v * v
        scale = np.float32(1) / np.sqrt(square / np.float32(D) + np.float32(eps))
        inverse[n] = scale
        if rounds_first:
            for d in range(D):
                v = widen(narrow(widen(x[n, d]) * scale, y.dtype))
                y[n, d] = narrow(v * (np.float32(offset) + widen(w[d])), y.dtype)
        else:
            for d in range(D):
                y[n, d] = narrow(widen(x[n, d]) * scale * (np.float32(offset) + widen(w[d])), y.dtype)


@kernel
def rms_norm_gradient(x, w, offset, inverse, dy, dx, dw):
    """dx [N, D], and dw in parts [PARTS, D] still to be summed.

    With n = x/rms and g = dy·(offset + w):  dx = (g − n · mean(g·n)) / rms,  dw = Σ dy·n.
    """
    N, D = x.shape
    for part in prange(PARTS):
        for d in range(D):
            dw[part, d] = 0
        for n in range(part * N // PARTS, (part + 1) * N // PARTS):
            scale = inverse[n]
            dot = np.float32(0)
            for d in range(D):
                v, g = widen(x[n, d]) * scale, widen(dy[n, d])
                dw[part, d] += g * v
                dot += g * (np.float32(offset) + widen(w[d])) * v
            dot /= np.float32(D)
            for d in range(D):
                g = widen(dy[n, d]) * (np.float32(offset) + widen(w[d]))
                dx[n, d] = narrow(scale * (g - widen(x[n, d]) * scale * dot), dx.dtype)
