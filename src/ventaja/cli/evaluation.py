"""What `ventaja eval` prints."""

from __future__ import annotations

from rich import box
from rich.table import Table

from ventaja.training import Evaluation


def evaluation_table(result: Evaluation) -> Table:
    """What was measured, one line each."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column("measure")
    table.add_column("value", justify="right", style="bold")
    table.add_row("accuracy, sampled", f"{result.accuracy_sampled:.1%}")
    table.add_row("accuracy, greedy", f"{result.accuracy_greedy:.1%}")
    for k, value in sorted(result.pass_at.items()):
        table.add_row(f"pass@{k}", f"{value:.1%}")
    table.add_row("mean reward", f"{result.mean_reward:.3f}")
    table.add_row("answers cut off", f"{result.truncated_fraction:.1%}")
    table.add_row("problems", str(result.problems))
    table.add_row("seconds", f"{result.seconds:.1f}")
    return table
