"""Supervised fine-tuning on the same step: only the answers' tokens count."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

from rich.console import Console

from ventaja.errors import ConfigError, DataError
from ventaja.functional import nll_loss, token_mean
from ventaja.models import Policy, TokenizedExample, render_example
from ventaja.records import Example
from ventaja.tracking import SFT_COLUMNS, Progress, Run, RunFolder, loading
from ventaja.tracking.words import counted
from ventaja.training.batch import Batch, Row
from ventaja.training.config import SftConfig, SftDataConfig
from ventaja.training.data import hold_out, training_examples
from ventaja.training.learner import Learner, Term
from ventaja.training.objective import supervised_objective
from ventaja.training.prompts import Passes
from ventaja.training.row_budget import out_of_memory_explained
from ventaja.training.session import Session, Start

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
        notes: list[str] = []
        examples, set_aside = hold_out(config, examples, say=notes.append)
        start = Start.of(config)
        policy = start.load(config)
        tokenized, weights = _tokenize(policy, examples, config.data, say=notes.append)
        measured = _tokenize(policy, set_aside, config.data, say=notes.append)[0] if set_aside else []
        rows = start.check_same_rows([example.token_ids for example in tokenized])
        run = config.run
        passes = Passes(weights, seed=run.seed)
        steps = run.updates or passes.steps(run.epochs, run.batch_size)
        if not steps:
            raise ConfigError(
                f"run.epochs: {counted(run.epochs, 'epoch')} would use no row at all, so small are the weights in "
                "data.source. Raise them."
            )
        done = int(start.checkpoint.path.name) if start.checkpoint else 0
        progress = Progress(steps, SFT_COLUMNS, unit="step", start=done, console=console)
        learner = start.learner(policy, config.optimiser, total_updates=steps, note=progress.note)
        learners = {"policy": learner}
        start.restore(learners)
        setting = "run.epochs" if run.updates is None else "run.updates"
        session = Session(start, config, learners, progress, command=command, rows=rows, setting=setting)
    for note in notes:
        progress.note(note)
    held_out = HeldOut(session, measured)

    def save() -> None:
        session.save({})

    with session.running(), session.nothing_lost(save), out_of_memory_explained(LESS_MEMORY):
        while learner.updates < steps:
            began = time.perf_counter()
            chosen = passes.batch(learner.updates, run.batch_size)
            batch = Batch.of_examples([tokenized[i] for i in chosen])
            progress.phase("training")
            term = Term(supervised_objective(batch), token_mean(batch.is_action_ST))
            report = learner.update(partial(_rows, batch), [term])
            seconds = time.perf_counter() - began
            metrics = {
                "loss": report.loss,
                "grad_norm": report.grad_norm,
                "learning_rate": report.learning_rate,
                "tokens": float(report.tokens),
                "tokens_per_second": sum(len(s.prompt_ids) + len(s) for s in batch.samples) / seconds,
                "seconds/training": seconds,
            } | learner.metrics()
            last, best = learner.updates == steps, False
            if config.eval.every and (last or learner.updates % config.eval.every == 0):
                measurement, best = held_out.measure()
                metrics |= measurement
            session.record(learner.updates, metrics)
            session.pause(save, last=last, best=best)
        if (number := session.folder.best_checkpoint()) is not None:
            where = session.folder.checkpoint_path(number)
            progress.note(f"eval/loss was lowest, {held_out.lowest:.4f}, after step {number}: {where}")
    return Run(run.folder)


class HeldOut:
    """Examples that are not trained on, and the lowest loss that a run has had on them, before a resume too."""

    def __init__(self, session: Session, examples: Sequence[TokenizedExample]) -> None:
        self.session, self.examples = session, examples
        losses = (line.get("eval/loss") for line in session.folder.metrics())
        self.lowest = min((loss for loss in losses if loss is not None), default=math.inf)

    def measure(self) -> tuple[dict[str, float], bool]:
        """The metrics of the weights as they are, and whether these are the best so far."""
        start = time.perf_counter()
        self.session.progress.phase("measuring")
        loss = held_out_loss(self.session.learner, self.examples)
        best = loss < self.lowest
        self.lowest = min(loss, self.lowest)
        return {"eval/loss": loss, "seconds/eval": time.perf_counter() - start}, best


def held_out_loss(learner: Learner, examples: Sequence[TokenizedExample]) -> float:
    """Mean of −log p over all tokens that are answers', in nats."""
    batch = Batch.of_examples(examples)
    logprob_ST = learner.score(batch, partial(_rows, batch))
    return float((nll_loss(logprob_ST) * token_mean(batch.is_action_ST)).sum())


def _rows(batch: Batch, max_tokens: int) -> list[Row]:
    return batch.rows(range(batch.sequences), max_tokens=max_tokens)


def _tokenize(
    policy: Policy, examples: Sequence[Example], data: SftDataConfig, *, say: Callable[[str], None]
) -> tuple[list[TokenizedExample], list[float]]:
    """Examples as tokens, and how often each is used in a pass; `say` is told what was left out or cut."""
    longest = _longest(policy, data)
    kept: list[TokenizedExample] = []
    weights: list[float] = []
    long_prompts = long = cut = 0
    for example in examples:
        tokens = render_example(policy.tokenizer, example, eos_ids=policy.eos_ids)
        if data.max_prompt_tokens is not None and tokens.is_action.index(True) > data.max_prompt_tokens:
            long_prompts += 1
            continue
        if longest is not None and len(tokens.token_ids) > longest:
            if data.too_long == "error":
                raise DataError(
                    f"{example.id}: the example has {len(tokens.token_ids)} tokens, but "
                    f"{f'{policy.name} takes' if data.max_tokens is None else 'data.max_tokens is'} {longest}. Set "
                    "data.too_long to truncate or to leave_out, or shorten the example."
                )
            tokens = tokens.truncated(longest)
            if data.too_long == "leave_out" or True not in tokens.is_action:
                long += 1
                continue
            cut += 1
        kept.append(tokens)
        weights.append(example.weight)
    limit = "" if longest is None else counted(longest, "token")
    if long_prompts:
        say(f"Left out: {counted(long_prompts, 'example')} with a prompt longer than data.max_prompt_tokens.")
    if cut:
        say(f"Cut after {limit}: {counted(cut, 'example')} (data.too_long: truncate).")
    if long:
        why = "" if data.too_long == "leave_out" else ", before any answer begins"
        say(f"Left out: {counted(long, 'example')} longer than {limit}{why}.")
    if not kept:
        reasons = [
            f"{counted(long_prompts, 'prompt')} longer than data.max_prompt_tokens={data.max_prompt_tokens}"
        ] * bool(long_prompts) + [
            f"{counted(long, 'example')} longer than {limit} (data.too_long: {data.too_long})"
        ] * bool(long)
        raise DataError(
            f"no example is left: {' and '.join(reasons)}. Raise these limits, or shorten the examples."
        )
    return kept, weights


def _longest(policy: Policy, data: SftDataConfig) -> int | None:
    """The most tokens that an example may have."""
    context = policy.context_length
    if data.max_tokens is not None and context is not None and data.max_tokens > context:
        raise ConfigError(
            f"data.max_tokens is {data.max_tokens}, but {policy.name} takes {context}. Lower it."
        )
    return context if data.max_tokens is None else data.max_tokens
