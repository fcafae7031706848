"""Sampling what cannot be packed: through transformers' own forward pass and cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ventaja.models import Policy
from ventaja.models.attention import plain_attention
from ventaja.records import Request
from ventaja.rollouts.answer import Answer


class PlainBatch:
    """The answers being sampled now, all to prompts of the same length.

    So all of them are equally long at every step, and no model sees padding: neither one that puts positions
    into its scores nor one that reads its tokens one after the other.
    """

    def __init__(self, policy: Policy, requests: Sequence[Request], max_batch: int) -> None:
        self.policy = policy
        self.requests = requests
        self.capacity = max_batch
        self.answers: list[Answer] = []
        self._cache: Any = None
        self._hidden_BD = torch.empty(0)

    def admit(self, waiting: deque[Answer]) -> list[int]:
        """Once the batch is empty, let in the first waiting answer and those with prompts as long as its."""
        if self.answers or not waiting:
            return []
        length = len(self.requests[waiting[0].request].prompt_ids)
        alike = [a for a in waiting if len(self.requests[a.request].prompt_ids) == length]
        self.answers = alike[: self.capacity]
        entered = set(self.answers)
        rest = [answer for answer in waiting if answer not in entered]
        waiting.clear()
        waiting.extend(rest)
        self._cache = None
        self._feed([self._sequence(answer) for answer in self.answers])
        return list(range(len(self.answers)))

    def first_logits(self, rows: Sequence[int]) -> Tensor:
        """Logits [B, V] of the first token of answers that have just entered."""
        return self.policy.head.logits(self._hidden_BD[rows])

    def next_logits(self) -> Tensor:
        """Feed every answer's newest token; logits [B, V] of the next."""
        if self._cache is None:  # this model keeps nothing to go on from
            self._feed([self._sequence(answer) for answer in self.answers])
        else:
            self._feed([answer.tokens[-1:] for answer in self.answers])
        return self.policy.head.logits(self._hidden_BD)

    def remove(self, rows: list[int]) -> None:
        """Take finished answers out."""
        if not rows:
            return
        gone = set(rows)
        kept = [row for row in range(len(self.answers)) if row not in gone]
        self.answers = [self.answers[row] for row in kept]
        if self._cache is not None and kept:
            self._cache.reorder_cache(torch.tensor(kept, device=self.policy.device))

    def _sequence(self, answer: Answer) -> list[int]:
        return [*self.requests[answer.request].prompt_ids, *answer.tokens]

    def _feed(self, ids_BT: list[list[int]]) -> None:
        with plain_attention(self.policy.causal_lm):
            output = self.policy.causal_lm.get_decoder()(
                input_ids=torch.tensor(ids_BT, device=self.policy.device),
                past_key_values=self._cache,
                use_cache=True,
            )
        self._cache = output.get("past_key_values")
        self._hidden_BD = output.last_hidden_state[:, -1]
