"""The demo's run, shared by `make demo` and `make results`: supervised start, GRPO, and their measurement; and the same
start tuned by other algorithms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plain import plain_accuracy
from rich.console import Console
from ruamel.yaml import YAML

from ventaja import (
    Evaluation,
    EvaluationConfig,
    RlConfig,
    Run,
    SftConfig,
    evaluate,
    parse,
    train_rl,
    train_sft,
)

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Outcome:
    """One whole demo: three measurements on the same held-out problems, and the two runs."""

    base: Evaluation
    after_sft: Evaluation
    after_rl: Evaluation
    sft: Run
    rl: Run

    def plain(self, run: Run, *, sampled: bool) -> float:
        """A run's accuracy as plain transformers gets it from the saved folder."""
        return plain_accuracy(run.last_checkpoint, read("eval.yaml"), sampled=sampled)


def run_task(folder: Path, *, seed: int, console: Console | None = None) -> Outcome:
    """Train from the base model into `folder` and measure before, between and after."""
    console = console or Console()
    sft_folder, rl_folder = folder / "sft", folder / "grpo"
    console.rule("The base model")
    base = measure("smollm2-135m", console)
    console.rule("A supervised start: 24 steps of 16 examples")
    sft = train_sft(parse(SftConfig, _with(read("sft.yaml"), sft_folder, seed)), console=console)
    after_sft = measure(str(sft_folder), console)
    console.rule("Reinforcement learning: GRPO")
    rl_values = _with(read("rl.yaml"), rl_folder, seed) | {"model": str(sft_folder)}
    rl = train_rl(parse(RlConfig, rl_values), console=console)
    return Outcome(base, after_sft, measure(str(rl_folder), console), sft, rl)


@dataclass(frozen=True)
class Tuned:
    """One algorithm's run from the demo's supervised start, and where it landed."""

    run: Run
    after: Evaluation

    @property
    def minutes(self) -> float:
        """What its rounds took: sampling, judging and training."""
        parts = (self.run.column(f"seconds/{part}") for part in ("sampling", "judging", "training"))
        return sum(map(sum, parts)) / 60


def run_other(name: str, outcome: Outcome, folder: Path, *, seed: int, console: Console) -> Tuned:
    """What `NAME.yaml` beside this file changes in rl.yaml, from the supervised start of `outcome`."""
    console.rule(f"Reinforcement learning: {name.upper()}")
    values, changes = read("rl.yaml"), read(f"{name}.yaml")
    values |= {group: _over(values.get(group, {}), change) for group, change in changes.items()}
    values = _with(values, folder / name, seed) | {"model": str(outcome.sft.path)}
    run = train_rl(parse(RlConfig, values), console=console)
    return Tuned(run, measure(str(folder / name), console))


def _over(values: dict, changes: dict) -> dict:
    # another algorithm's parts are not those of rl.yaml
    return changes if "name" in changes else values | changes


def measure(model: str, console: Console) -> Evaluation:
    """Accuracy on the held-out problems of eval.yaml."""
    config = parse(EvaluationConfig, read("eval.yaml") | {"model": model})
    console.print(f"measuring on {config.data.size} held-out problems …")
    return evaluate(config)


def read(name: str) -> dict:
    """A run file beside this one."""
    return YAML(typ="safe").load(HERE / name)


def _with(values: dict, folder: Path, seed: int) -> dict:
    return values | {"run": values["run"] | {"folder": str(folder), "seed": seed}}
