"""Around the products of group attention: heads into a grid and back, and a softmax over what is shared and what is own.

A grid is [P, K, G, R, T, D]: P prompts, K key heads, G answers, R query heads per key head, T tokens, width D.
"""

import numpy as np

from ventaja.cpu.kernels.numbers import (
    copy_scaled,
    dot,
    exponentiate,
    kernel,
    largest,
    narrow,
    on_rows,
    prange,
    scale,
    store,
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
def join_softmax(over_prompt, over_own, prompt_length, tokens, window, scaling):
    """Scores become weights, in place: one softmax over all that a query sees, 0 elsewhere.

    Each line holds one segment's scores under one query head: over what it shares, as an answer its prompt
    [P·K·G·R, T·L], and over itself [P·K·G·R, T·T]. Token t sees the `prompt_length` [P] tokens of its prompt and its own up to t; with a window (0
    for none) only the last `window` of them all.
    """
    lines = len(over_own)
    for i in prange(lines):
        length = prompt_length[i * len(prompt_length) // lines]
        _join(over_prompt[i], over_own[i], tokens, length, window, np.float32(scaling))


@on_rows
def _join(over_prompt, over_own, T, length, window, scaling):
    # What can be done for all tokens at once is: rows are short, and what is left over of a vector is dear here.
    L = len(over_prompt) // T
    seen, own = np.empty(T * L, dtype=np.float32), np.empty(T * T, dtype=np.float32)
    copy_scaled(over_prompt, scaling, seen)
    copy_scaled(over_own, scaling, own)
    for t in range(T):
        of_prompt, of_own = seen[t * L : (t + 1) * L], own[t * T : (t + 1) * T]
        _hide(of_prompt, 0 if window == 0 else length + t - window + 1, length)
        _hide(of_own, 0 if window == 0 else t - window + 1, t + 1)
        top = max(largest(of_prompt), largest(of_own))
        subtract(of_prompt, top)
        subtract(of_own, top)
    exponentiate(seen)
    exponentiate(own)
    for t in range(T):
        of_prompt, of_own = seen[t * L : (t + 1) * L], own[t * T : (t + 1) * T]
        share = np.float32(1) / (sum_of(of_prompt) + sum_of(of_own))
        scale(of_prompt, share)
        scale(of_own, share)
    store(seen, over_prompt)
    store(own, over_own)


@on_rows
def _hide(row, first, stop):
    """−inf everywhere but from `first` to `stop`."""
    for j in range(min(first, len(row))):
        row[j] = -np.inf
    for j in range(stop, len(row)):
        row[j] = -np.inf


@kernel
def join_softmax_gradient(w_prompt, w_own, out, d_out, tokens, scaling, d_prompt, d_own):
    """Gradients of weights become those of scores, in place:  dS = W·(dW − Σ dOut·Out)·scaling.

    Lines as above; out and d_out are [P·K·G·R, T·D]. Σ dOut·Out over a query's width is Σ dW·W over all that it sees
    (FlashAttention, arXiv:2205.14135, B.2).
    """
    for i in prange(len(w_own)):
        _join_gradient(
            w_prompt[i], w_own[i], out[i], d_out[i], tokens, np.float32(scaling), d_prompt[i], d_own[i]
        )


@on_rows
def _join_gradient(w_prompt, w_own, out, d_out, T, scaling, d_prompt, d_own):
    L, D = len(w_prompt) // T, len(out) // T
    for t in range(T):
        delta = dot(d_out[t * D : (t + 1) * D], out[t * D : (t + 1) * D])
        of_prompt, of_own = slice(t * L, (t + 1) * L), slice(t * T, (t + 1) * T)
        _scores_gradient(w_prompt[of_prompt], delta, scaling, d_prompt[of_prompt])
        _scores_gradient(w_own[of_own], delta, scaling, d_own[of_own])


@on_rows
def _scores_gradient(weight, delta, scaling, gradient):
    for j in range(len(gradient)):
        gradient[j] = narrow(widen(weight[j]) * (widen(gradient[j]) - delta) * scaling, gradient.dtype)
