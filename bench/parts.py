"""Each faster way of `ventaja.cpu`, switched off alone: a whole round without it says what it earns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

from torch import Tensor

from ventaja.cpu import PLAIN, Cpu, layers
from ventaja.functional import fused_logprobs
from ventaja.models.group_attention import GroupAttention
from ventaja.rollouts import decoding


def _logprobs(self: Cpu, hidden: Tensor, weight: Tensor, ids: Tensor, *, factor: float, entropy: bool) -> Any:
    return fused_logprobs(hidden, weight, ids, scale=factor, entropy=entropy)


def _attend_in(self: Cpu, row: Any) -> Callable[..., Tensor]:
    attention = GroupAttention(row, PLAIN)
    return lambda *what: attention._attend_plainly(*what, None)


def _its_own(self: Any, *inputs: Any, **named: Any) -> Any:
    """A replaced layer computes as transformers wrote it."""
    return self.plain(*inputs, **named)


@contextmanager
def _products_per_prompt() -> Iterator[None]:
    """Decoding attends as with many keys, and then without flash attention: products and a softmax."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(decoding, "FEW_KEYS", 0))
        stack.enter_context(patch.object(Cpu, "attention_with_total", lambda self, *what: None))
        yield


PARTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "log-probs by kernel": lambda: patch.object(Cpu, "logprobs", _logprobs),
    "group attention with its backward pass": lambda: patch.object(Cpu, "attend_in", _attend_in),
    "decoding attention by kernel": _products_per_prompt,
    "norms": lambda: patch.object(layers.FastNorm, "__call__", _its_own),
    "rotary attention's layers": lambda: patch.object(layers.FastAttention, "__call__", _its_own),
    "threads by measured steps": lambda: patch.object(Cpu, "step", lambda self, kind, work=1: nullcontext()),
}
"""What is switched off inside the block, by the name of the part."""
