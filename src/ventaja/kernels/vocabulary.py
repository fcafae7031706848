"""Over the vocabulary: log-sum-exp, its gradient, and drawing a word. Logits z = factor · x for the stored x."""

import numpy as np

from ventaja.kernels.numbers import exp, kernel, largest, narrow, on_rows, prange, widen

BLOCK = 256
"""Words per block: a draw sums blocks first, then walks through one."""


@on_rows
def _top(row):
    """The largest number of a row, found in 16 lanes."""
    lanes = np.empty(16, dtype=np.float32)
    for lane in range(16):
        lanes[lane] = -np.inf
    for start in range(0, len(row) - 16 + 1, 16):
        for lane in range(16):
            v = widen(row[start + lane])
            lanes[lane] = v if v > lanes[lane] else lanes[lane]
    top = largest(lanes)
    for v in range(len(row) // 16 * 16, len(row)):
        top = max(top, widen(row[v]))
    return top


@on_rows
def _sum_exp(row, top, factor):
    total = np.float32(0)
    for v in range(len(row)):
        total += exp((widen(row[v]) - top) * factor)
    return total


@on_rows
def _sum_exp_z(row, top, factor):
    """Σ exp z and Σ z·exp z, z counted from the top."""
    total, mean = np.float32(0), np.float32(0)
    for v in range(len(row)):
        z = (widen(row[v]) - top) * factor
        e = exp(z)
        total += e
        mean += e * z
    return total, mean


@kernel
def log_totals(x, factor, token, with_entropy, logprob, log_total, entropy):
    """Per row of x [N, V]: log π(token), log Σ exp z, and the entropy log Σ exp z − Σ p·z if asked."""
    for n in prange(len(x)):
        top, mean = _top(x[n]), np.float32(0)
        if with_entropy:
            total, mean = _sum_exp_z(x[n], top, np.float32(factor))
        else:
            total = _sum_exp(x[n], top, np.float32(factor))
        log_sum = np.log(total)
        logprob[n] = (widen(x[n, token[n]]) - top) * np.float32(factor) - log_sum
        log_total[n] = log_sum + top * np.float32(factor)
        if with_entropy:
            entropy[n] = log_sum - mean / total


@kernel
def logit_gradients(x, factor, token, log_total, entropy, d_logprob, d_entropy, with_entropy):
    """x [N, V] becomes the gradient of Σ d_logprob·log π(token) + d_entropy·H with respect to x, in place.

    ∂log π(a)/∂z_v = 1[v = a] − p_v,   ∂H/∂z_v = −p_v (log p_v + H)
    """
    for n in prange(len(x)):
        a, weight = token[n], np.float32(d_logprob[n])
        log_p = widen(x[n, a]) * np.float32(factor) - log_total[n]
        chosen, slope = exp(log_p), np.float32(0)
        if with_entropy:
            slope = -d_entropy[n] * (log_p + entropy[n])
            _both_gradients(x[n], np.float32(factor), log_total[n], weight, d_entropy[n], entropy[n])
        else:
            _logprob_gradients(x[n], np.float32(factor), log_total[n], weight)
        x[n, a] = narrow((weight * (np.float32(1) - chosen) + chosen * slope) * np.float32(factor), x.dtype)


@on_rows
def _logprob_gradients(row, factor, log_total, weight):
    for v in range(len(row)):
        row[v] = narrow(-weight * factor * exp(widen(row[v]) * factor - log_total), row.dtype)


@on_rows
def _both_gradients(row, factor, log_total, weight, d_entropy, entropy):
    for v in range(len(row)):
        log_p = widen(row[v]) * factor - log_total
        row[v] = narrow(-exp(log_p) * (weight + d_entropy * (log_p + entropy)) * factor, row.dtype)


@kernel
def draw_words(x, factor, uniform, word, logprob):
    """Word [B] where each row's distribution function passes its uniform number, and its log-prob.

    Blocks are added up in float64, each of them in float32; the words of the one that is walked through in float64.
    """
    B, V = x.shape
    blocks = (V + BLOCK - 1) // BLOCK
    for b in prange(B):
        top = _top(x[b])
        sums = np.empty(blocks, dtype=np.float64)
        total = 0.0
        for block in range(blocks):
            sums[block] = _sum_exp(x[b, block * BLOCK : (block + 1) * BLOCK], top, np.float32(factor))
            total += sums[block]
        target, before = uniform[b] * total, 0.0
        block = 0
        while block < blocks - 1 and (before + sums[block] <= target or sums[block] == 0):
            before += sums[block]
            block += 1
        while sums[block] == 0:  # rounding must not step past the last possible word
            block -= 1
        chosen, weight = -1, 0.0
        for v in range(block * BLOCK, min(V, (block + 1) * BLOCK)):
            w = exp((widen(x[b, v]) - top) * np.float32(factor))
            if w > 0:
                chosen, weight = v, w
                before += w
                if before > target:
                    break
        word[b] = chosen
        logprob[b] = np.log(weight) - np.log(total)
