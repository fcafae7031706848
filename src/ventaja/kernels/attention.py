"""Around the products of group attention: heads into a grid and back, and a softmax over two pieces.

A grid is [P, K, G, R, T, D]: P prompts, K key heads, G answers, R query heads per key head, T tokens, width D.
Scores lie in two pieces, over the shared prompt [P, K, G, R, T, L] and over the answer itself [P, K, G, R, T, T].
"""

import numpy as np
from numba import prange

from ventaja.kernels.numbers import (
    copy_scaled,
    dot,
    exponentiate,
    kernel,
    largest,
    narrow,
    on_rows,
    store_scaled,
    subtract,
    sum_of,
    widen,
)


@kernel
def gather_heads(x, index, grid):
    """Rows of x [N, K·R, D] into their places; `index` [P·G·T] names each place's row, −1 for none: zeros."""
    P, K, G, R, T, D = grid.shape
    for place in prange(P * G * T):
        p, g, t = place // (G * T), place // T % G, place % T
        n = index[place]
        for k in range(K):
            for r in range(R):
                if n < 0:
                    for d in range(D):
                        grid[p, k, g, r, t, d] = 0
                else:
                    for d in range(D):
                        grid[p, k, g, r, t, d] = x[n, k * R + r, d]


@kernel
def scatter_heads(grid, slot, start, x):
    """The grid's places `slot` [n], flat in [P, G, T], back into the rows of x [N, K·R, D] from `start` on."""
    _, K, G, R, T, D = grid.shape
    for n in prange(len(slot)):
        p, g, t = slot[n] // (G * T), slot[n] // T % G, slot[n] % T
        for k in range(K):
            for r in range(R):
                for d in range(D):
                    x[start + n, k * R + r, d] = grid[p, k, g, r, t, d]


@kernel
def join_softmax(over_prompt, over_own, prompt_length, window, scaling):
    """Scores become weights, in place: one softmax over both pieces of what a query sees, 0 elsewhere.

    Token t of an answer sees the `prompt_length` [P] tokens of its prompt and its own up to t; with a window
    (0 for none) only the last `window` of them all.
    """
    P, K, G, R = over_prompt.shape[:4]
    for i in prange(P * K * G * R):
        p, k, g, r = i // (K * G * R), i // (G * R) % K, i // R % G, i % R
        _join(over_prompt[p, k, g, r], over_own[p, k, g, r], prompt_length[p], window, np.float32(scaling))


@on_rows
def _join(over_prompt, over_own, length, window, scaling):
    T, L = over_prompt.shape
    seen, own = np.empty((T, L), dtype=np.float32), np.empty((T, T), dtype=np.float32)
    copy_scaled(over_prompt.reshape(-1), scaling, seen.reshape(-1))
    copy_scaled(over_own.reshape(-1), scaling, own.reshape(-1))
    for t in range(T):
        seen[t, length:] = -np.inf
        own[t, t + 1 :] = -np.inf
        if window > 0:
            seen[t, : max(0, length + t - window + 1)] = -np.inf
            own[t, : max(0, t - window + 1)] = -np.inf
        top = max(largest(seen[t]), largest(own[t]))
        subtract(seen[t], top)
        subtract(own[t], top)
    # Over all rows at once: rows are short, and what is left over of a vector is dear here.
    exponentiate(seen.reshape(-1))
    exponentiate(own.reshape(-1))
    for t in range(T):
        share = np.float32(1) / (sum_of(seen[t]) + sum_of(own[t]))
        for j in range(L):
            seen[t, j] *= share
        for j in range(T):
            own[t, j] *= share
    store_scaled(seen.reshape(-1), np.float32(1), over_prompt.reshape(-1))
    store_scaled(own.reshape(-1), np.float32(1), over_own.reshape(-1))


@kernel
def join_softmax_gradient(w_prompt, w_own, out, d_out, scaling, d_prompt, d_own):
    """Gradients of weights become those of scores, in place:  dS = W·(dW − Σ dOut·Out)·scaling.

    Σ dOut·Out over a query's width is Σ dW·W over all that it sees (FlashAttention, arXiv:2205.14135, B.2).
    """
    P, K, G, R = w_prompt.shape[:4]
    for i in prange(P * K * G * R):
        p, k, g, r = i // (K * G * R), i // (G * R) % K, i // R % G, i % R
        _join_gradient(
            w_prompt[p, k, g, r], w_own[p, k, g, r], out[p, k, g, r], d_out[p, k, g, r], np.float32(scaling),
            d_prompt[p, k, g, r], d_own[p, k, g, r],
        )  # fmt: skip


@on_rows
def _join_gradient(w_prompt, w_own, out, d_out, scaling, d_prompt, d_own):
    for t in range(len(out)):
        delta = dot(d_out[t], out[t])
        _scores_gradient(w_prompt[t], delta, scaling, d_prompt[t])
        _scores_gradient(w_own[t], delta, scaling, d_own[t])


@on_rows
def _scores_gradient(weight, delta, scaling, gradient):
    for j in range(len(gradient)):
        gradient[j] = narrow(widen(weight[j]) * (widen(gradient[j]) - delta) * scaling, gradient.dtype)
