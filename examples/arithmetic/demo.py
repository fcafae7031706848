"""`make demo`: SmolLM2-135M-Instruct learns to add and subtract, in a few minutes on a laptop's CPU."""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from rich.console import Console
from task import run_task

from ventaja.cli import prepare_process
from ventaja.tracking import table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="where the two runs go")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    prepare_process()
    console = Console()
    if arguments.folder.exists():
        previous = arguments.folder.with_name(f"{arguments.folder.name}-before")
        if previous.exists():
            console.print(f"{previous} held the demo before that; it is removed.")
            shutil.rmtree(previous)
        arguments.folder.rename(previous)
        console.print(f"An earlier demo was in {arguments.folder}; it is in {previous} now.")
    start = time.perf_counter()
    outcome = run_task(arguments.folder, seed=arguments.seed, console=console)
    stages = {"base": outcome.base, "after SFT": outcome.after_sft, "after RL": outcome.after_rl}
    console.print(
        table(
            f"Accuracy on {outcome.base.problems} held-out problems",
            ["checkpoint", "sampled", "greedy", "pass@4"],
            [
                [name, f"{e.accuracy_sampled:.1%}", f"{e.accuracy_greedy:.1%}", f"{e.pass_at[4]:.1%}"]
                for name, e in stages.items()
            ],
        )
    )
    gain = outcome.after_rl.accuracy_sampled - outcome.after_sft.accuracy_sampled
    console.print("reading the saved folder in plain transformers …")
    console.print(
        f"The saved folder in plain transformers, loaded with no arguments: {outcome.plain(outcome.rl, sampled=False):.1%} "
        "greedy."
    )
    console.print(
        f"RL added {gain * 100:+.1f} points of sampled accuracy in {time.perf_counter() - start:.0f} s."
    )
    console.print(f"Look inside:   {outcome.rl.report()}")
    console.print(f"Talk to it:    .venv/bin/ventaja chat {outcome.rl.path}")


if __name__ == "__main__":
    main()
