"""How a round's samples are cut into optimiser steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ventaja.training.algorithms import Algorithm
from ventaja.training.batch import Batch, Row
from ventaja.training.left_out import teaches

MINIBATCHES = 0x3B
"""Names the random stream of minibatches, apart from those of shuffles and sampling."""


@dataclass(frozen=True, kw_only=True)
class Minibatch:
    """The samples of one optimiser step."""

    batch: Batch
    members: Sequence[int]
    """Which of the batch's sequences."""
    epoch: int
    """Which use of the round's samples it belongs to, from 0."""

    def rows(self, algorithm: Algorithm, max_tokens: int, *, ends: bool = False) -> list[Row]:
        """Packed rows of the sequences that can change an update; with `ends` the last token of one that was truncated
        is an input, so that a value after it can be read."""
        is_needed = teaches(self.batch, algorithm)
        members = [s for s in self.members if is_needed[s]]
        return self.batch.rows(members, max_tokens=max_tokens, keep_last="truncated" if ends else False)


def minibatches(batch: Batch, algorithm: Algorithm, *, seed: Sequence[int]) -> list[Minibatch]:
    """All minibatches of a round, epoch after epoch: whole groups or single sequences (part `shuffle`), in an order drawn
    anew for each epoch."""
    dealt_S = torch.arange(batch.sequences) if algorithm.shuffle == "trajectories" else batch.group_S
    things = dealt_S.unique().numpy()
    parts = []
    for epoch in range(algorithm.epochs):
        rng = np.random.default_rng([seed[0], MINIBATCHES, *seed[1:], epoch])
        for chosen in np.array_split(rng.permutation(things), algorithm.minibatches):
            members = torch.isin(dealt_S, torch.from_numpy(chosen)).nonzero()[:, 0].tolist()
            parts.append(Minibatch(batch=batch, members=members, epoch=epoch))
    return parts
