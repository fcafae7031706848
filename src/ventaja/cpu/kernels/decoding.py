"""Attention of one new token per answer, over its prompt's shared keys and its own."""

import numpy as np

from ventaja.cpu.kernels.numbers import (
    copy_scaled,
    dot,
    exponentiate,
    kernel,
    largest,
    on_rows,
    prange,
    store_scaled,
    subtract,
    sum_of,
    widen,
)


@kernel
def decode_attention(
    query, new_key, new_value, prompt_key, prompt_value, answer_key, answer_value,
    slot, prompt_length, length, window, scaling, out,
):  # fmt: skip
    """out [B, H, D] for queries [B, H, D]; each answer's new key and value [B, K, D] are stored first.

    Answer b has `length[b]` tokens in answer_key [≥ B, K, T, D] already, and its prompt is `slot[b]` of prompt_key
    [S, K, L, D]. `window`: 0 for none, else it sees only that many last tokens, itself included.
    """
    for i in prange(len(query) * new_key.shape[1]):
        _one_key_head(
            i, query, new_key, new_value, prompt_key, prompt_value, answer_key, answer_value,
            slot, prompt_length, length, window, np.float32(scaling), out,
        )  # fmt: skip


@on_rows
def _one_key_head(
    i, query, new_key, new_value, prompt_key, prompt_value, answer_key, answer_value,
    slot, prompt_length, length, window, scaling, out,
):  # fmt: skip
    K = new_key.shape[1]
    b, k = i // K, i % K
    s, t = slot[b], length[b]
    for d in range(query.shape[2]):
        answer_key[b, k, t, d] = new_key[b, k, d]
        answer_value[b, k, t, d] = new_value[b, k, d]
    n, first, own = prompt_length[s], 0, 0
    if window > 0:
        first, own = min(n, max(0, n + t - window + 1)), max(0, t - window + 1)
    heads = query.shape[1] // K
    _attend(
        query[b, k * heads : (k + 1) * heads],
        prompt_key[s, k, first:n],
        prompt_value[s, k, first:n],
        answer_key[b, k, own : t + 1],
        answer_value[b, k, own : t + 1],
        scaling,
        out[b, k * heads : (k + 1) * heads],
    )


@on_rows
def _attend(query, seen_key, seen_value, own_key, own_value, scaling, out):
    """out [R, D] of one answer's R query heads that share a key head."""
    R, D = query.shape
    split, n = len(seen_key), len(seen_key) + len(own_key)
    weights, row = np.empty(R * n, dtype=np.float32), np.empty(D, dtype=np.float32)
    for r in range(R):
        weight = weights[r * n : (r + 1) * n]
        copy_scaled(query[r], scaling, row)
        _scores(row, seen_key, weight[:split])
        _scores(row, own_key, weight[split:])
        subtract(weight, largest(weight))
    exponentiate(
        weights
    )  # of all heads at once: rows are short, and what is left over of a vector is dear here
    for r in range(R):
        weight = weights[r * n : (r + 1) * n]
        for d in range(D):
            row[d] = 0
        _mix(weight[:split], seen_value, row)
        _mix(weight[split:], own_value, row)
        store_scaled(row, np.float32(1) / sum_of(weight), out[r])


@on_rows
def _scores(query, keys, out):
    """out [n] = keys [n, D] · query, four keys at a time."""
    n = len(keys)
    for j in range(0, n - 3, 4):
        a, b, c, e = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for d in range(len(query)):
            q = query[d]
            a += q * widen(keys[j, d])
            b += q * widen(keys[j + 1, d])
            c += q * widen(keys[j + 2, d])
            e += q * widen(keys[j + 3, d])
        out[j], out[j + 1], out[j + 2], out[j + 3] = a, b, c, e
    for j in range(n // 4 * 4, n):
        out[j] = dot(query, keys[j])


@on_rows
def _mix(weights, values, total):
    """total [D] += weights [n] · values [n, D], four values at a time."""
    n = len(values)
    for j in range(0, n - 3, 4):
        a, b, c, e = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        for d in range(len(total)):
            total[d] += (
                a * widen(values[j, d])
                + b * widen(values[j + 1, d])
                + c * widen(values[j + 2, d])
                + e * widen(values[j + 3, d])
            )
    for j in range(n // 4 * 4, n):
        for d in range(len(total)):
            total[d] += weights[j] * widen(values[j, d])
