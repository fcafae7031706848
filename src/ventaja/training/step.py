"""The one place with forward, backward, clip and optimiser step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ventaja.errors import RunError
from ventaja.models import Policy, TokenScores
from ventaja.training.batch import Row
from ventaja.training.objective import Stats
from ventaja.training.optimiser import Optimiser
from ventaja.training.row_budget import Cut, RowBudget

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


def update(
    policy: Policy,
    optimiser: Optimiser,
    budget: RowBudget,
    cut: Cut,
    objective: Objective,
    weight_ST: Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    left_out: Mapping[str, float] | None = None,
) -> UpdateReport:
    """One optimiser step on Σ loss·weight over all rows; how they were cut into rows changes nothing.

    `left_out` are sums, as the objective's, over tokens of the update that are in no row because they cannot change
    it: the report's means are over them too. Without any row there is no step.

    Raises RunError if the loss or its gradient is not finite; the weights are then as before.
    """

    def gradients(rows: Sequence[Row]) -> tuple[float, dict[str, float]]:
        loss, sums = 0.0, dict[str, float]()
        for row in rows:
            with policy.cpu.step("training", row.packed.tokens):
                scores = policy.score(row.packed, temperature=temperature, entropy=entropy)
                loss_M, stats = objective(row, scores)
                row_loss = (loss_M * row.pick(weight_ST).to(loss_M.device)).sum()
                row_loss.backward()
            loss += float(row_loss.detach())
            for name, value in stats.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return loss, sums

    loss, sums = budget.run(cut, gradients, undo=optimiser.forget_gradients)
    learning_rate, number = optimiser.learning_rate, optimiser.updates + 1
    if math.isfinite(loss):
        with policy.cpu.step("optimiser"):
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
