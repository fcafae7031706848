"""Supervised fine-tuning on the same step: only the answers' tokens count."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from rich.console import Console

from ventaja.errors import DataError
from ventaja.functional import token_mean
from ventaja.models import Policy, TokenizedExample, render_example
from ventaja.records import Example
from ventaja.tracking import SFT_COLUMNS, Run, RunFolder, loading
from ventaja.training.batch import Batch, Row
from ventaja.training.config import SftConfig
from ventaja.training.data import training_examples
from ventaja.training.objective import supervised_objective
from ventaja.training.prompts import shuffled
from ventaja.training.row_budget import out_of_memory_explained
from ventaja.training.session import Session
from ventaja.training.step import update

LESS_MEMORY = (
    "Take fewer tokens at once (optimiser.max_tokens), or train adapters (model.lora) instead of all weights."
)


def train_sft(
    config: SftConfig,
    *,
    command: str = "",
    examples: Sequence[Example] | None = None,
    console: Console | None = None,
) -> Run:
    """Train as the config says and return the run; `examples` stand in for the config's data.

    Raises VentajaError with what to do next. An error of any kind, Ctrl-C (also twice) or SIGTERM in the middle first
    writes a checkpoint to go on from, once something was trained.
    """
    with RunFolder(config.run.folder).locked(command=command):
        return _train(config, command=command, examples=examples, console=console)


def _train(
    config: SftConfig, *, command: str, examples: Sequence[Example] | None, console: Console | None
) -> Run:
    with loading(config.model.name, console):
        if examples is None:
            examples = training_examples(config.data)
        session = Session(config, command=command)
        tokenized, left_out = _tokenize(session.policy, examples, config)
        session.check_same_rows([example.token_ids for example in tokenized])
        run = config.run
        steps = run.updates or run.epochs * max(1, len(tokenized) // run.batch_size)
        session.make_optimiser(total_updates=steps)
        optimiser = session.optimiser
        session.start(
            done=optimiser.updates,
            total=steps,
            setting="run.epochs" if run.updates is None else "run.updates",
            columns=SFT_COLUMNS,
            unit="step",
            console=console,
        )
    if left_out:
        session.progress.note(f"{left_out} examples are longer than data.max_prompt_tokens and are left out.")

    def save() -> None:
        session.save({})

    with session.running(), session.nothing_lost(save), out_of_memory_explained(LESS_MEMORY):
        while optimiser.updates < steps:
            start = time.perf_counter()
            taken = optimiser.updates * run.batch_size
            chosen = shuffled(len(tokenized), taken, run.batch_size, seed=run.seed)
            batch = Batch.of_examples([tokenized[i] for i in chosen])
            session.progress.phase("training")
            report = update(
                session.policy,
                optimiser,
                session.budget,
                partial(_rows, batch),
                supervised_objective(batch),
                token_mean(batch.is_action_ST),
            )
            seconds = time.perf_counter() - start
            metrics = {
                "loss": report.loss,
                "grad_norm": report.grad_norm,
                "learning_rate": report.learning_rate,
                "tokens": float(report.tokens),
                "tokens_per_second": sum(map(len, batch.prompt_ids + batch.answers)) / seconds,
                "seconds/training": seconds,
            }
            if (swallowed := optimiser.swallowed()) is not None:
                metrics["rounding/swallowed"] = swallowed
            session.record(optimiser.updates, metrics)
            session.pause(save, last=optimiser.updates == steps)
    return Run(run.folder)


def _rows(batch: Batch, max_tokens: int) -> list[Row]:
    return batch.rows(range(batch.sequences), max_tokens=max_tokens)


def _tokenize(
    policy: Policy, examples: Sequence[Example], config: SftConfig
) -> tuple[list[TokenizedExample], int]:
    """Examples as tokens, and how many were left out for their length."""
    limit, context = config.data.max_prompt_tokens, policy.context_length
    kept = []
    for example in examples:
        tokens = render_example(policy.tokenizer, example, eos_ids=policy.eos_ids)
        if limit is not None and tokens.is_action.index(True) > limit:
            continue
        if context is not None and len(tokens.token_ids) > context:
            raise DataError(
                f"{example.id}: the example has {len(tokens.token_ids)} tokens, but {policy.name} takes "
                f"{context}. Shorten it, or leave out long prompts with data.max_prompt_tokens."
            )
        kept.append(tokens)
    if not kept:
        raise DataError(f"no example is left: all {len(examples)} prompts are longer than {limit} tokens.")
    return kept, len(examples) - len(kept)
