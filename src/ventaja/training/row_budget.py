"""Rows that fit into memory: when they do not, rows of half as many tokens are tried, from then on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from ventaja.errors import RunError
from ventaja.models import Policy
from ventaja.models.memory import is_out_of_memory
from ventaja.training.batch import Row

T = TypeVar("T")

Cut = Callable[[int], Sequence[Row]]
"""Cuts what is to be computed into rows of at most so many tokens."""


class RowBudget:
    """The most tokens of a row: as configured, until memory runs out.

    Cutting rows differently changes no result but its rounding, so a computation that ran out of memory is
    begun anew with smaller rows. A single sequence cannot be cut; for it, gradient checkpointing is turned on.
    """

    def __init__(self, tokens: int, policy: Policy, *, note: Callable[[str], None]) -> None:
        self.tokens = tokens
        self.policy = policy
        self.note = note

    def run(
        self, cut: Cut, compute: Callable[[Sequence[Row]], T], *, undo: Callable[[], None] | None = None
    ) -> T:
        """compute(rows), with rows that fit. `undo` forgets what an attempt left behind.

        Raises RunError if nothing smaller can be tried.
        """
        while True:
            rows = cut(self.tokens)
            try:
                return compute(rows)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Out here the traceback is gone, and with it all that it held in memory.
            if undo is not None:
                undo()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._try_less(cut, max(row.packed.tokens for row in rows))

    def _try_less(self, cut: Cut, tokens: int) -> None:
        smaller = tokens
        while smaller > 1:
            smaller //= 2
            if max(row.packed.tokens for row in cut(smaller)) < tokens:
                self.tokens = smaller
                self.note(
                    f"A row of {tokens} tokens did not fit into memory. From here on rows have at most {smaller}; to "
                    f"begin with that, set --optimiser.max_tokens {smaller}"
                )
                return
        if not self.policy.recomputes and self.policy.can_recompute:
            self.policy.recomputes = True
            self.note(
                f"A sequence of {tokens} tokens did not fit into memory. From here on layers are computed again in "
                "the backward pass: slower, with less memory (optimiser.gradient_checkpointing)."
            )
            return
        raise RunError(
            f"a sequence of {tokens} tokens does not fit into memory, even alone"
            f"{' and with gradient checkpointing' if self.policy.recomputes else ''}. "
            "Shorten answers (sampling.max_tokens) or prompts (data.max_prompt_tokens), or train adapters "
            "(model.lora) instead of all weights."
        )


@contextmanager
def out_of_memory_explained(advice: str) -> Iterator[None]:
    """Raises RunError where memory ran out and nothing smaller could be tried: in sampling or the optimiser."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(
            f"memory ran out: {str(error).strip().splitlines()[0] if str(error) else type(error).__name__}. {advice}"
        ) from error
