"""One trained network, and the one place with forward, backward, clip and optimiser step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ventaja.errors import ConfigError, RunError
from ventaja.models import PackedRow, Policy, TokenScores
from ventaja.training.batch import Batch, Row, scores_table
from ventaja.training.config import OptimiserConfig
from ventaja.training.objective import Stats
from ventaja.training.optimiser import Optimiser
from ventaja.training.row_budget import Cut, RowBudget

MASTERS, OPTIMISER = "masters.safetensors", "optimiser.safetensors"
"""The files of a learner's training state."""

Objective = Callable[[Row, TokenScores], tuple[Tensor, Stats]]


@dataclass(frozen=True, kw_only=True)
class UpdateReport:
    """What one update did."""

    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    means: dict[str, float] = field(default_factory=dict)
    """Means over tokens of whatever the objective reports."""
    stepped: bool = True
    """False if there was nothing to learn from, so that no optimiser step was made."""

    @classmethod
    def empty(cls, learning_rate: float) -> UpdateReport:
        """Of a minibatch without samples, which makes no step."""
        return cls(loss=0.0, grad_norm=0.0, learning_rate=learning_rate, tokens=0, stepped=False)


class Learner:
    """A network with its optimiser and row budget. The policy is one; a critic or a reward model is another.

    It knows nothing of what it is trained for: an objective tells it, per token. `network` arrives in float32 and
    computes in `compute` from here on. Raises ConfigError for gradient checkpointing that the network cannot do.
    """

    def __init__(
        self,
        network: Policy,
        config: OptimiserConfig,
        *,
        compute: torch.dtype,
        total_updates: int,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        if config.gradient_checkpointing and not network.can_recompute:
            raise ConfigError(
                f"optimiser.gradient_checkpointing: {network.name} does not say what its layers are, so they "
                "cannot be computed again. Leave it out, or lower optimiser.max_tokens."
            )
        self.network = network
        self.optimiser = Optimiser(network, config, total_updates=total_updates, compute=compute)
        network.recomputes = config.gradient_checkpointing
        self.budget = RowBudget(config.max_tokens, network, note=note)

    @property
    def updates(self) -> int:
        """Optimiser steps made."""
        return self.optimiser.updates

    @property
    def learning_rate(self) -> float:
        """Of the next update."""
        return self.optimiser.learning_rate

    def metrics(self) -> dict[str, float]:
        """What the weights say of themselves."""
        swallowed = self.optimiser.swallowed()
        return {} if swallowed is None else {"rounding/swallowed": swallowed}

    @torch.no_grad()
    def score(
        self, batch: Batch, cut: Cut, *, temperature: float = 1.0, network: Policy | None = None
    ) -> Tensor:
        """Log-probs [S, T] of the batch's tokens in the rows that `cut` makes; NaN for sequences in none of them.

        `network` is scored in place of this learner's own, in rows that fit beside it. Given the learner's own, it is
        scored without its adapters: the model that they started from.
        """

        def score(row: PackedRow) -> Tensor:
            return (network or self.network).score(row, temperature=temperature).logprob_M

        with self.network.without_adapters() if network is self.network else nullcontext():
            return self.budget.run(cut, lambda rows: scores_table(batch, score, rows))

    def update(
        self,
        cut: Cut,
        objective: Objective,
        weight_ST: Tensor,
        *,
        temperature: float = 1.0,
        entropy: bool = False,
        left_out: Mapping[str, float] | None = None,
    ) -> UpdateReport:
        """One optimiser step on Σ loss·weight over all rows; how they were cut into rows changes nothing.

        `left_out` are sums, as the objective's, over tokens of the update that are in no row because they cannot
        change it: the report's means are over them too. Without any row there is no step.

        Raises RunError if the loss or its gradient is not finite; the weights are then as before.
        """

        def gradients(rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
            loss, sums = 0.0, dict[str, float]()
            for row in rows:
                with self.network.cpu.step("training", row.packed.tokens):
                    scores = self.network.score(row.packed, temperature=temperature, entropy=entropy)
                    loss_M, stats = objective(row, scores)
                    row_loss = (loss_M * row.pick(weight_ST).to(loss_M.device)).sum()
                    row_loss.backward()
                loss += float(row_loss.detach())
                for name, value in stats.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
            return loss, sums

        optimiser = self.optimiser
        loss, sums = self.budget.run(cut, gradients, undo=optimiser.forget_gradients)
        learning_rate, number = optimiser.learning_rate, optimiser.updates + 1
        if math.isfinite(loss):
            with self.network.cpu.step("optimiser"):
                grad_norm = optimiser.step()
        else:
            grad_norm = math.nan
            optimiser.forget_gradients()
        if not math.isfinite(grad_norm):
            raise RunError(
                f"update {number}: loss {loss:.4g}, gradient norm {grad_norm:.4g}: not finite, so nothing was "
                "updated. Lower optimiser.learning_rate, or train in float32 (model.precision)."
            )
        for name, value in (left_out or {}).items():
            sums[name] = sums.get(name, 0.0) + value
        tokens = sums.pop("tokens", 0.0)
        return UpdateReport(
            loss=loss,
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            tokens=int(tokens),
            means={name: value / tokens for name, value in sums.items()} if tokens else {},
            stepped=optimiser.updates == number,
        )

    def save(self, folder: Path, training: Path) -> None:
        """The network as an ordinary Hugging Face folder, and what its next update needs in the folder `training`."""
        self.network.save(folder)
        if masters := self.optimiser.master_weights():
            save_file({name: x.contiguous() for name, x in masters.items()}, training / MASTERS)
        state = self.optimiser.state()
        save_file({name: x.contiguous() for name, x in state.items()}, training / OPTIMISER)

    def load(self, training: Path) -> None:
        """What `save` put into `training`; the network's own weights are loaded already."""
        # no masters where the folder's weights are float32: those of float32 runs, and of format 1
        if (training / MASTERS).exists():
            self.optimiser.load_master_weights(load_file(training / MASTERS))
        self.optimiser.load_state(load_file(training / OPTIMISER))
