"""The loop over rankings, whatever learns from them: a reward model, or a policy by itself."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console

from ventaja.disk import atomic_file
from ventaja.errors import ConfigError, DataError
from ventaja.models import Policy, Wanted
from ventaja.records import Ranking
from ventaja.tracking import RANKING_COLUMNS, Progress, Run, RunFolder, loading
from ventaja.tracking.held_out import UNUSED, write_held_out
from ventaja.tracking.words import counted
from ventaja.training.learner import Learner, Term
from ventaja.training.prompts import Passes
from ventaja.training.ranked import RankedPrompt, Tokenised, Unused, read_sources, split, tokenise
from ventaja.training.ranking_batch import Numbering, RankedBatch, ranked_batch
from ventaja.training.ranking_config import DpoConfig, RewardModelConfig
from ventaja.training.ranking_measures import Scores, agreement, summary
from ventaja.training.rivals import bag_of_words, lengths
from ventaja.training.row_budget import out_of_memory_explained
from ventaja.training.session import Session, Start

LESS_MEMORY = (
    "Take fewer tokens at once (optimiser.max_tokens; a prompt with all its answers is computed together), or train adapters "
    "(model.lora) instead of all weights."
)


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is learned from, and what is only measured on."""

    train: Sequence[RankedPrompt]
    held_out: Sequence[RankedPrompt]
    numbering: Numbering

    def batch(self, chosen: Sequence[int], **more: bool) -> RankedBatch:
        """The training prompts at these places."""
        return ranked_batch(self.train, numbering=self.numbering, chosen=chosen, **more)


@runtime_checkable
class Task(Protocol):
    """What learns from rankings, and how."""

    learner: Learner
    keep_last: bool
    """True if the answers' last tokens are inputs too."""
    wanted: Wanted

    def batch(self, chosen: Sequence[int]) -> RankedBatch:
        """The training prompts at these places, with the targets that the loss has."""
        ...

    def term(self, ranked: RankedBatch, chosen: Sequence[int]) -> Term:
        """The loss of such a batch."""
        ...

    def scores(self) -> Scores:
        """What it gives to the held-out answers as it is now."""
        ...

    def measured(self, found: dict[str, Any], scores: Scores) -> None:
        """Note, and add to a measurement, what it alone knows."""
        ...


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A way to learn from rankings."""

    load: Callable[[Start], Policy]
    make: Callable[[Start, Learner, Data], Task]
    tells: Callable[[Data], Sequence[str]] = lambda data: ()
    """What to say of the data before training."""


def train_on_rankings(
    config: RewardModelConfig | DpoConfig,
    kind: Kind,
    *,
    command: str,
    rankings: Sequence[Ranking] | None,
    console: Console | None,
) -> Run:
    """Train as the config says and return the run; `rankings` stand in for the config's data.

    Raises VentajaError with what to do next. An error of any kind, Ctrl-C or SIGTERM in the middle first writes a checkpoint to
    go on from, once something was trained.
    """
    with RunFolder(config.run.folder).locked(command=command):
        return _train(config, kind, command=command, rankings=rankings, console=console)


def _train(
    config: RewardModelConfig | DpoConfig,
    kind: Kind,
    *,
    command: str,
    rankings: Sequence[Ranking] | None,
    console: Console | None,
) -> Run:
    run = config.run
    with loading(config.model.name, console):
        notes: list[str] = []
        if rankings is None:
            rankings = read_sources(config.data, say=notes.append)
        kept, set_aside = split(rankings, config.eval, say=notes.append)
        start = Start.of(config)
        network = kind.load(start)
        train = tokenise(network, kept, max_tokens=config.data.max_tokens)
        held_out = tokenise(network, set_aside, max_tokens=config.data.max_tokens)
        notes += _told(train, held_out)
        if not train.prompts:
            raise DataError(f"no ranking is left to train on. The first: {train.unused[0].reason}.")
        rows = start.check_same_rows([p.fingerprint() for p in train.prompts])
        data = Data(train=train.prompts, held_out=held_out.prompts, numbering=Numbering.of(train.prompts))
        notes += kind.tells(data)
        passes = Passes([1.0] * len(train.prompts), seed=run.seed)
        steps = run.updates or passes.steps(run.epochs, run.batch_size)
        done = int(start.checkpoint.path.name) if start.checkpoint else 0
        progress = Progress(steps, RANKING_COLUMNS, unit="step", start=done, console=console)
        learner = start.learner(network, config.optimiser, total_updates=steps, note=progress.note)
        task = kind.make(start, learner, data)
        start.restore({"policy": learner})
        setting = "run.epochs" if run.updates is None else "run.updates"
        session = Session(
            start, config, {"policy": learner}, progress, command=command, rows=rows, setting=setting
        )
    _write_unused(session.folder.path, [*train.unused, *held_out.unused])
    for note in notes:
        progress.note(note)
    measuring = Measuring(session, task, data)

    def save() -> None:
        session.save({})

    with session.running(), session.nothing_lost(save), out_of_memory_explained(LESS_MEMORY):
        while learner.updates < steps:
            began = time.perf_counter()
            chosen = passes.batch(learner.updates, run.batch_size)
            ranked = task.batch(chosen)
            progress.phase("training")
            rows_of = partial(ranked.rows, keep_last=task.keep_last)
            report = learner.update(rows_of, [task.term(ranked, chosen)], wanted=task.wanted)
            seconds = time.perf_counter() - began
            tokens = sum(len(s.token_ids) for s in ranked.batch.samples)
            tokens += sum(len(data.train[i].prompt_ids) for i in chosen)
            metrics = {
                "loss": report.loss,
                "accuracy": report.means["accuracy"],
                "grad_norm": report.grad_norm,
                "learning_rate": report.learning_rate,
                "rankings": float(len(ranked.weight_R)),
                "answers": float(ranked.answers),
                "tokens_per_second": tokens / seconds,
                "seconds/training": seconds,
            } | learner.metrics()
            if "value/grad_norm" in report.means:
                metrics["head_grad_norm"] = report.means["value/grad_norm"]
            last, best = learner.updates == steps, False
            if last or (config.eval.every and learner.updates % config.eval.every == 0):
                measurement, best = measuring.measure()
                metrics |= measurement
            session.record(learner.updates, metrics)
            session.pause(save, last=last, best=best and config.eval.every is not None)
        for note in measuring.said:
            progress.note(note)
    return Run(run.folder)


class Measuring:
    """The held-out rankings, and the lowest loss that a run has had on them, before a resume too."""

    def __init__(self, session: Session, task: Task, data: Data) -> None:
        self.session, self.task, self.data = session, task, data
        self.ranked = ranked_batch(data.held_out) if data.held_out else None
        losses = (line.get("eval/loss") for line in session.folder.metrics())
        self.lowest = min((loss for loss in losses if loss is not None), default=math.inf)
        self.said: list[str] = []
        self._rivals: dict[str, Any] | None = None

    def measure(self) -> tuple[dict[str, float], bool]:
        """The metrics of the weights as they are, and whether these are the best so far; the file of it all is written."""
        if self.ranked is None:
            return {}, False
        began = time.perf_counter()
        self.session.progress.phase("measuring")
        if self._rivals is None:
            self._rivals = {
                "longer": lengths(self.data.held_out),
                "bag_of_words": bag_of_words(self.data.train, self.data.held_out),
            }
        scores = self.task.scores()
        found = agreement(self.data.held_out, self.ranked, scores, rivals=self._rivals)
        found = {"step": self.task.learner.updates, **found}
        self.task.measured(found, scores)
        write_held_out(self.session.folder.path, found)
        self.said = _findings(found)
        best = found["loss"] < self.lowest
        self.lowest = min(found["loss"], self.lowest)
        return summary(found) | {"seconds/eval": time.perf_counter() - began}, best


def _findings(found: dict[str, Any]) -> list[str]:
    """The held-out result in a few lines."""
    if not found["accuracy"]["pairs"]:
        return []

    def share(each: dict[str, Any]) -> str:
        return f"{each['share']:.1%}"

    ours, rivals = found["accuracy"], found["rivals"]
    line = (
        f"Held out: {share(ours)} ± {ours['standard_error']:.1%} of {counted(ours['pairs'], 'pair')} of "
        f"{counted(found['prompts'], 'prompt')} as the raters have them; by length alone {share(rivals['longer'])}, by a bag of "
        f"words {share(rivals['bag_of_words'])}."
    )
    best_rival = max(rivals.values(), key=lambda each: each["share"])["share"]
    if ours["share"] - ours["standard_error"] <= best_rival:
        line += " That is no clear gain over the simplest rivals: gather more rankings, or train longer."
    return [line, found["length"]["said"]]


def _told(train: Tokenised, held_out: Tokenised) -> list[str]:
    """What became of the rankings on the way to tokens."""
    told = []
    rankings = sum(len(p.rankings) for p in train.prompts)
    answers = sum(len(p.answers) for p in train.prompts)
    measured = sum(len(p.rankings) for p in held_out.prompts)
    told.append(
        f"{counted(rankings, 'ranking')} of {counted(answers, 'answer')} to {counted(len(train.prompts), 'prompt')}; held out: "
        f"{counted(measured, 'ranking')} of {counted(len(held_out.prompts), 'prompt')}."
    )
    if unused := len(train.unused) + len(held_out.unused):
        told.append(f"Set aside in {UNUSED}, with the reason: {counted(unused, 'ranking')}.")
    if cut := train.cut + held_out.cut:
        told.append(
            f"Cut off at their end, for they are longer than data.max_tokens or the model: {counted(cut, 'answer')}."
        )
    if encoded := train.re_encoded + held_out.re_encoded:
        told.append(
            f"Encoded anew, for their token ids are not known or another tokenizer's: {counted(encoded, 'answer')}."
        )
    return told


def _write_unused(folder: Path, unused: Sequence[Unused]) -> None:
    if not unused:
        return
    with atomic_file(folder / UNUSED) as temporary, temporary.open("w", encoding="utf-8") as file:
        for each in unused:
            ranking = each.ranking
            line = {
                "why": each.reason,
                "id": ranking.prompt.id,
                "rater": ranking.rater,
                "answers": [answer.text for answer in ranking.answers],
                "order": ranking.order,
                "line": ranking.line,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def check_ensemble(has: int, wanted: int, name: str) -> None:
    """Raises ConfigError if training goes on from heads of another number."""
    if has != wanted:
        raise ConfigError(
            f"head.ensemble is {wanted}, but training begins from the reward model {name}, which has {has}. Set head.ensemble to "
            f"{has}, or begin from the model that it was made of."
        )
