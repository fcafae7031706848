"""The gated product of a transformer's MLP (GLU variants, arXiv:2002.05202):  y = act(a)·b."""

import numpy as np

from ventaja.cpu.kernels.numbers import exp, inlined, kernel, narrow, on_rows, prange, widen

SILU, GELU_TANH = 0, 1


@inlined
def _activation(a, which):
    """act(a) and its slope. silu: a·σ(a). gelu_tanh: a·σ(2u), u = √(2/π)(a + 0.044715 a³)."""
    one = np.float32(1)
    if which == SILU:
        gate = one / (one + exp(-a))
        return a * gate, gate * (one + a * (one - gate))
    c, k = np.float32(1.5957691216057308), np.float32(0.044715)  # 2·√(2/π)
    gate = one / (one + exp(-c * (a + k * a * a * a)))
    return a * gate, gate * (one + a * (one - gate) * c * (one + np.float32(3) * k * a * a))


@on_rows
def _gated_row(a, b, which, y):
    for d in range(len(y)):
        act, _ = _activation(widen(a[d]), which)
        y[d] = narrow(widen(narrow(act, y.dtype)) * widen(b[d]), y.dtype)


@on_rows
def _gated_gradient_row(a, b, which, dy, da, db):
    for d in range(len(dy)):
        g = widen(dy[d])
        act, slope = _activation(widen(a[d]), which)
        da[d] = narrow(g * widen(b[d]) * slope, da.dtype)
        db[d] = narrow(g * act, db.dtype)


@kernel
def gated(a, b, which, y):
    """y [N, D]; act(a) is rounded to y's dtype before b multiplies it, as torch would."""
    for n in prange(len(a)):
        _gated_row(a[n], b[n], which, y[n])


@kernel
def gated_gradient(a, b, which, dy, da, db):
    """da = dy·b·act′(a),  db = dy·act(a);  [N, D] each."""
    for n in prange(len(a)):
        _gated_gradient_row(a[n], b[n], which, dy[n], da[n], db[n])
