"""What `ventaja eval` prints."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ventaja.training import Evaluation


def evaluation_table(result: Evaluation) -> RenderableType:
    """What was measured, one line each; and why there is no accuracy, if there is none."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column("measure")
    table.add_column("value", justify="right", style="bold")
    for kind, accuracy in (("sampled", result.accuracy_sampled), ("greedy", result.accuracy_greedy)):
        table.add_row(f"accuracy, {kind}", "–" if accuracy is None else f"{accuracy:.1%}")
    for k, value in sorted(result.pass_at.items()):
        table.add_row(f"pass@{k}", f"{value:.1%}")
    table.add_row("mean reward", f"{result.mean_reward:.3f}")
    for name, value in result.reward_metrics.items():
        table.add_row(name.removeprefix("reward_metrics/"), f"{value:.4g}")
    table.add_row("answers cut off", f"{result.truncated_fraction:.1%}")
    table.add_row("problems", str(result.problems))
    table.add_row("seconds", f"{result.seconds:.1f}")
    if result.accuracy_sampled is not None:
        return table
    return Group(
        table,
        Text(
            "These rewards are not 0 for wrong and 1 for right, so there is no accuracy. docs/rewards.md says how a "
            "function tells what it gives a right answer."
        ),
    )
