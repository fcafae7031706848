"""Loops over memory that torch would walk through five or ten times, walked through once; for CPUs.

Each does exactly what a few lines of torch beside its caller do, and a test says so. Matrix products stay torch's.
Compiled by numba at first use, and kept on disk; threads are torch's own.
"""

from ventaja.cpu.kernels.attention import gather_heads, join_softmax, join_softmax_gradient, scatter_heads
from ventaja.cpu.kernels.decoding import decode_attention
from ventaja.cpu.kernels.norm import PARTS, rms_norm, rms_norm_gradient
from ventaja.cpu.kernels.rotary import rotate
from ventaja.cpu.kernels.threads import CompileError
from ventaja.cpu.kernels.vocabulary import BLOCK, log_totals, logit_gradients

__all__ = [
    "BLOCK",
    "PARTS",
    "CompileError",
    "decode_attention",
    "gather_heads",
    "join_softmax",
    "join_softmax_gradient",
    "log_totals",
    "logit_gradients",
    "rms_norm",
    "rms_norm_gradient",
    "rotate",
    "scatter_heads",
]
