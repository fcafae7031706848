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
from ventaja.models import PackedRow, Policy, ScoreHead, TokenScores, ValueHead, Wanted
from ventaja.training.batch import Batch, Row, scores_table, scores_tables
from ventaja.training.config import AdamWConfig, OptimiserConfig
from ventaja.training.objective import Stats
from ventaja.training.optimiser import Optimiser
from ventaja.training.row_budget import Cut, RowBudget

MASTERS, OPTIMISER = "masters.safetensors", "optimiser.safetensors"
"""The files of a learner's training state."""
HEAD, HEAD_OPTIMISER = "value_head.safetensors", "value_head_optimiser.safetensors"
"""Those of its value head, if it has one."""

LOGPROBS = Wanted()
"""Log-probs of a row's targets, and nothing else."""
Objective = Callable[[Row, TokenScores], tuple[Tensor, Stats]]


@dataclass(frozen=True)
class Term:
    """A part of an update's loss: a loss [M] for each of a row's targets, and how much each token counts."""

    objective: Objective
    weight_ST: Tensor


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
    critic_stepped: bool = False
    """True if values were learned from it."""

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
        self.head_optimiser: Optimiser | None = None
        """Of the value head, if there is one: apart from the network's, so that neither scales the other's gradient."""

    def learn_values(self, config: AdamWConfig, *, initial_value: float) -> None:
        """Read values off the network from now on, by a linear head that is trained as `config` says."""
        self.learn_head(self.network.add_value_head(initial_value=initial_value), config)

    def learn_head(self, head: ValueHead | ScoreHead, config: AdamWConfig) -> None:
        """Train a head of the network's too, as `config` says."""
        total = self.optimiser.total_updates
        self.head_optimiser = Optimiser(head, config, total_updates=total, compute=torch.float32)

    @property
    def optimisers(self) -> list[Optimiser]:
        """The network's, and that of its value head."""
        return [optimiser for optimiser in (self.optimiser, self.head_optimiser) if optimiser is not None]

    @property
    def updates(self) -> int:
        """Optimiser steps made by the network."""
        return self.optimiser.updates

    @property
    def steps(self) -> int:
        """Updates that moved the network or its value head."""
        return max(optimiser.updates for optimiser in self.optimisers)

    @property
    def is_whole(self) -> bool:
        """False while a step is being made."""
        return all(optimiser.is_whole for optimiser in self.optimisers)

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

    @torch.no_grad()
    def read(self, batch: Batch, cut: Cut, wanted: Wanted) -> dict[str, Tensor]:
        """What is wanted of the batch's tokens, from one forward pass: tables [S, T] by the names `logprob`, `value` and
        `end_value`, as `scores_tables` has them."""
        shape = batch.is_action_ST.shape
        tables = {"logprob": torch.full(shape, torch.nan)} if wanted.logprob else {}
        if wanted.value:
            tables |= {"value": torch.full(shape, torch.nan), "end_value": torch.zeros(shape)}
        return tables | self.budget.run(
            cut, lambda rows: scores_tables(batch, lambda row: self.network.read(row, wanted), rows)
        )

    def update(
        self,
        cut: Cut,
        terms: Sequence[Term],
        *,
        wanted: Wanted = LOGPROBS,
        left_out: Mapping[str, float] | None = None,
    ) -> UpdateReport:
        """One optimiser step on Σ loss·weight over all rows and terms; how they were cut into rows changes nothing.

        The loss that is reported is the first term's. `left_out` are sums, as the first objective's, over tokens of
        the update that are in no row because they cannot change it: the report's means are over them too.
        Without any row there is no step.

        Raises RunError if the loss or its gradient is not finite; the weights are then as before.
        """

        def gradients(rows: Sequence[Row]) -> tuple[list[float], list[dict[str, float]]]:
            losses, sums = [0.0 for _ in terms], [dict[str, float]() for _ in terms]
            for row in rows:
                with self.network.cpu.step("training", row.packed.tokens):
                    scores = self.network.read(row.packed, wanted)
                    row_losses = []
                    for number, term in enumerate(terms):
                        loss_M, stats = term.objective(row, scores)
                        row_losses.append((loss_M * row.pick(term.weight_ST).to(loss_M.device)).sum())
                        for name, value in stats.items():
                            sums[number][name] = sums[number].get(name, 0.0) + float(value)
                    torch.stack(row_losses).sum().backward()
                losses = [loss + float(more.detach()) for loss, more in zip(losses, row_losses, strict=True)]
            return losses, sums

        optimiser, head = self.optimiser, self.head_optimiser
        losses, sums = self.budget.run(cut, gradients, undo=self.forget_gradients)
        learning_rate, number = optimiser.learning_rate, optimiser.updates + 1
        made = 0 if head is None else head.updates
        head_norm = 0.0
        if all(map(math.isfinite, losses)) and (head is None or head.has_finite_gradient()):
            with self.network.cpu.step("optimiser"):
                grad_norm = optimiser.step()
                if head is not None and math.isfinite(grad_norm):
                    head_norm = head.step()
        else:
            grad_norm = math.nan
        if not math.isfinite(grad_norm):
            self.forget_gradients()
            raise RunError(
                f"update {number}: loss {sum(losses):.4g}, gradient norm {grad_norm:.4g}: not finite, so nothing was "
                "updated. Lower optimiser.learning_rate, or train in float32 (model.precision)."
            )
        for name, value in (left_out or {}).items():
            sums[0][name] = sums[0].get(name, 0.0) + value
        tokens = [part.pop("tokens", 0.0) for part in sums]
        means = {
            name: value / count
            for part, count in zip(sums, tokens, strict=True)
            if count
            for name, value in part.items()
        }
        if head is not None:
            means["value/grad_norm"] = head_norm
        return UpdateReport(
            loss=losses[0],
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            tokens=int(tokens[0]),
            means=means,
            stepped=optimiser.updates == number,
            critic_stepped=head is not None and head.updates > made,
        )

    def forget_gradients(self) -> None:
        for optimiser in self.optimisers:
            optimiser.forget_gradients()

    def save(self, folder: Path, training: Path) -> None:
        """The network as an ordinary Hugging Face folder, and what its next update needs in the folder `training`."""
        self.network.save(folder)
        if masters := self.optimiser.master_weights():
            save_file({name: x.contiguous() for name, x in masters.items()}, training / MASTERS)
        state = self.optimiser.state()
        save_file({name: x.contiguous() for name, x in state.items()}, training / OPTIMISER)
        if self.head_optimiser is not None:
            state = self.head_optimiser.state()
            save_file(self.head_optimiser.weights(), training / HEAD)
            save_file({name: x.contiguous() for name, x in state.items()}, training / HEAD_OPTIMISER)

    def load(self, training: Path) -> None:
        """What `save` put into `training`; the network's own weights are loaded already."""
        # no masters where the folder's weights are float32: those of float32 runs, and of format 1
        if (training / MASTERS).exists():
            self.optimiser.load_master_weights(load_file(training / MASTERS))
        self.optimiser.load_state(load_file(training / OPTIMISER))
        if self.head_optimiser is not None:
            self.head_optimiser.load_master_weights(load_file(training / HEAD))
            self.head_optimiser.load_state(load_file(training / HEAD_OPTIMISER))
