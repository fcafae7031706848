"""Over the vocabulary: log-sum-exp and its gradient. Logits z = factor · x for the stored x.

A product h Wᵀ that is stored in bfloat16 has lost its last bits: a logit of 20 may be off by 0.06, and so may each
log-prob. Only the likeliest words matter to a log-prob, so the logits of those are summed again here, in float32.
"""

import numpy as np

from ventaja.cpu.kernels.numbers import dot, exp, kernel, largest, narrow, on_rows, prange, widen

BLOCK = 256
"""Words per block: sums are made block by block, and a draw then walks through one."""


@on_rows
def _floor(top, within, factor):
    """Stored numbers above this are summed again. At a low temperature so few nats are less than what storing rounds."""
    margin = np.float32(within / factor)
    return top - max(margin, np.abs(top) * np.float32(2**-7)) if within >= 0 else np.float32(np.inf)


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
def _read_again(row, hidden, weight, floor, z):
    """z = the stored logits of a block of words, in float32; those above `floor` summed again: Σ_d h_d W_vd."""
    for v in range(len(row)):
        z[v] = widen(row[v])
    for v in range(len(row)):
        if z[v] > floor:
            z[v] = dot(hidden, weight[v])


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
def log_totals(x, hidden, weight, within, factor, token, with_entropy, logprob, log_total, entropy, floor):
    """Per row of x = hidden [N, D] weight [V, D]ᵀ: log π(token), log Σ exp z, and log Σ exp z − Σ p·z if asked.

    Logits less than `within` nats below the likeliest word's, and the token's own, are summed again; below 0, none.
    `floor` [N] is for the gradient: the stored numbers above it are those.
    """
    V = x.shape[1]
    blocks = (V + BLOCK - 1) // BLOCK
    for n in prange(len(x)):
        tops = np.empty(blocks, dtype=np.float32)
        for block in range(blocks):
            tops[block] = _top(x[n, block * BLOCK : min((block + 1) * BLOCK, V)])
        top, total, mean = largest(tops), np.float32(0), np.float32(0)
        floor[n] = _floor(top, within, factor)
        z = np.empty(BLOCK, dtype=np.float32)
        for block in range(blocks):
            start, stop = block * BLOCK, min((block + 1) * BLOCK, V)
            if tops[block] > floor[n]:
                again = z[: stop - start]
                _read_again(x[n, start:stop], hidden[n], weight[start:stop], floor[n], again)
                more, more_mean = _sums(again, top, np.float32(factor), with_entropy)
            else:
                more, more_mean = _sums(x[n, start:stop], top, np.float32(factor), with_entropy)
            total += more
            mean += more_mean
        log_sum = np.log(total)
        own = dot(hidden[n], weight[token[n]]) if within >= 0 else widen(x[n, token[n]])
        logprob[n] = (own - top) * np.float32(factor) - log_sum
        log_total[n] = log_sum + top * np.float32(factor)
        if with_entropy:
            entropy[n] = log_sum - mean / total


@on_rows
def _sums(row, top, factor, with_entropy):
    """Σ exp z, and Σ z·exp z if asked, z counted from the top."""
    if with_entropy:
        return _sum_exp_z(row, top, factor)
    return _sum_exp(row, top, factor), np.float32(0)


@kernel
def logit_gradients(
    x, hidden, weight, within, factor, token, log_total, entropy, floor, d_logprob, d_entropy, with_entropy
):
    """x [N, V] becomes the gradient of Σ d_logprob·log π(token) + d_entropy·H with respect to x, in place.

    ∂log π(a)/∂z_v = 1[v = a] − p_v,   ∂H/∂z_v = −p_v (log p_v + H)

    The arguments that `log_totals` has too are to be the same, and as it left them.
    """
    V = x.shape[1]
    for n in prange(len(x)):
        a, pull = token[n], np.float32(d_logprob[n])
        own = dot(hidden[n], weight[a]) if within >= 0 else widen(x[n, a])
        log_p = own * np.float32(factor) - log_total[n]
        chosen, slope, h, d_h = exp(log_p), np.float32(0), np.float32(0), np.float32(0)
        if with_entropy:
            h, d_h = entropy[n], d_entropy[n]
            slope = -d_h * (log_p + h)
        z = np.empty(BLOCK, dtype=np.float32)
        for start in range(0, V, BLOCK):
            row = x[n, start : min(start + BLOCK, V)]
            if _top(row) > floor[n]:
                again = z[: len(row)]
                _read_again(row, hidden[n], weight[start : start + len(row)], floor[n], again)
                if with_entropy:
                    _both_gradients(again, np.float32(factor), log_total[n], pull, d_h, h, row)
                else:
                    _logprob_gradients(again, np.float32(factor), log_total[n], pull, row)
            elif with_entropy:
                _both_gradients_in_place(row, np.float32(factor), log_total[n], pull, d_h, h)
            else:
                _logprob_gradients_in_place(row, np.float32(factor), log_total[n], pull)
        x[n, a] = narrow((pull * (np.float32(1) - chosen) + chosen * slope) * np.float32(factor), x.dtype)


@on_rows
def _logprob_gradients(z, factor, log_total, pull, row):
    for v in range(len(row)):
        row[v] = narrow(-pull * factor * exp(z[v] * factor - log_total), row.dtype)


@on_rows
def _both_gradients(z, factor, log_total, pull, d_entropy, entropy, row):
    for v in range(len(row)):
        log_p = z[v] * factor - log_total
        row[v] = narrow(-exp(log_p) * (pull + d_entropy * (log_p + entropy)) * factor, row.dtype)


# The same of a row that is its own z. Handed one array twice, the compiler could not tell that they do not overlap.


@on_rows
def _logprob_gradients_in_place(row, factor, log_total, pull):
    for v in range(len(row)):
        row[v] = narrow(-pull * factor * exp(widen(row[v]) * factor - log_total), row.dtype)


@on_rows
def _both_gradients_in_place(row, factor, log_total, pull, d_entropy, entropy):
    for v in range(len(row)):
        log_p = widen(row[v]) * factor - log_total
        row[v] = narrow(-exp(log_p) * (pull + d_entropy * (log_p + entropy)) * factor, row.dtype)
