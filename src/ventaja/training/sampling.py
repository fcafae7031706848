"""Answers to rank: sampled from one or several models, or taken from what a run says."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ventaja.disk import atomic_file
from ventaja.errors import ConfigError, RunError
from ventaja.models import Policy
from ventaja.models.load import resolve_model
from ventaja.rankings.alike import distinct
from ventaja.records import Completion, Group, Judgement, Prompt, Trajectory, write_groups
from ventaja.rollouts import Asking, load_weights
from ventaja.tracking import EVAL_COLUMNS, Progress, Run
from ventaja.tracking.words import counted
from ventaja.training.clock import Clock
from ventaja.training.data import training_prompts
from ventaja.training.evaluation import SECONDS_BETWEEN_LINES
from ventaja.training.joints import make_engine
from ventaja.training.model import load_model
from ventaja.training.partial import Partial
from ventaja.training.prompts import Rendered, left_out_note, render_all, room_note
from ventaja.training.sampling_config import SampleConfig

TO_RANK = 0x4A
"""Names the random streams of answers that are to be ranked, apart from those that are trained on or measured."""
BLOCK = 256
"""About so many answers are sampled before they are put on the disk: no more is lost when the process is killed."""


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """What `ventaja sample` wrote."""

    path: Path
    prompts: int
    answers: int
    alike: int = 0
    """Answers that were dropped as near-duplicates of another one to the same prompt."""
    left_out: tuple[str, ...] = ()
    """The ids of prompts with fewer than two distinct answers: there is nothing to rank."""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A prompt with all answers that there are, and who gave each."""

    group: Group
    sources: tuple[str, ...]

    def chosen(self, places: Sequence[int]) -> Pool:
        """Some of the answers, in this order."""
        judgements = self.group.judgements
        return Pool(
            group=replace(
                self.group,
                trajectories=tuple(self.group.trajectories[place] for place in places),
                judgements=tuple(judgements[place] for place in places) if judgements else (),
            ),
            sources=tuple(self.sources[place] for place in places),
        )


def sample(config: SampleConfig, *, console: Console | None = None, command: str = "") -> Sampled:
    """Sample answers (or take a run's), drop near-duplicates, and write the groups. Progress is shown on `console`: standard
    error, if it is None.

    The file has the further column `source`: which model and temperature, or which round of a run, gave an answer. A prompt
    whose answers are all alike is left out. What is sampled is kept block by block beside the output; a call with the same
    settings goes on from there, and writes the same file as one that was never stopped.

    Raises VentajaError with what to do next.
    """
    console = console or Console(stderr=True)
    start = time.perf_counter()
    for path, flag in ((config.output, "--output"), (config.readable, "--readable")):
        if path is not None and path.exists():
            raise RunError(f"{path}: this is there already. Choose another file with {flag}, or remove it.")
    if config.from_run is not None:
        written = _write(config, _of_run(config, Run(config.from_run)), at_most=config.answers)
    else:
        assert config.data is not None
        prompts = training_prompts(config.data)
        with Partial.open(config.output, _begun(config, prompts), command=command) as partial:
            try:
                _sample_blocks(config, prompts, partial, console)
            except KeyboardInterrupt:
                console.print(
                    f"What is sampled so far is in {partial.folder}. The same command goes on with it."
                )
                raise
            written = _write(config, _pools(config, partial), at_most=None)
            partial.remove()
    return replace(written, seconds=time.perf_counter() - start)


def _write(config: SampleConfig, pools: Sequence[Pool], *, at_most: int | None) -> Sampled:
    """Of each prompt, the distinct answers; drawn from them, if there are more than `at_most`."""
    kept: list[Pool] = []
    alike, left_out = 0, []
    for number, pool in enumerate(pools):
        places = distinct([trajectory.text for trajectory in pool.group.trajectories], alike=config.alike)
        alike += len(pool.group) - len(places)
        if at_most is not None and len(places) > at_most:
            draw = np.random.default_rng([config.seed, TO_RANK, number]).permutation(len(places))[:at_most]
            places = [places[place] for place in sorted(draw)]
        if len(places) < 2:
            left_out.append(pool.group.prompt.id)
        else:
            kept.append(pool.chosen(places))
    if not kept:
        raise RunError(
            f"{config.output}: none of the {len(pools)} prompts has two distinct answers, so there is nothing to rank. Raise "
            "sampling.temperature or answers, or set alike to null to keep near-duplicates."
        )
    if config.readable is not None:
        _write_readable(config.readable, kept)
    sources = [source for pool in kept for source in pool.sources]
    write_groups(config.output, [pool.group for pool in kept], columns={"source": sources}, flag="--output")
    return Sampled(
        path=config.output, prompts=len(kept), answers=len(sources), alike=alike, left_out=tuple(left_out)
    )


def _write_readable(path: Path, pools: Sequence[Pool]) -> None:
    with atomic_file(path, flag="--readable") as temporary, temporary.open("w", encoding="utf-8") as file:
        for pool in pools:
            row = {
                "id": pool.group.prompt.id,
                "prompt": pool.group.prompt.content,
                "answers": [
                    {"text": trajectory.text, "source": source}
                    for trajectory, source in zip(pool.group.trajectories, pool.sources, strict=True)
                ],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


# ------------------------------------------------------------------------------------------------ from a run


def _of_run(config: SampleConfig, run: Run) -> list[Pool]:
    """What the run said to each prompt in the rounds that are meant, all of them together."""
    there = run.folder.rollout_rounds()
    if not there:
        raise RunError(f"{run.path}: this run has no rollouts yet. Wait for its first round.")
    if missing := [number for number in config.rounds if number not in there]:
        raise ConfigError(
            f"rounds: {run.path} has no rollouts of round {missing[0]}; it has those of {there[0]} to {there[-1]}"
            f"{'' if len(there) == there[-1] - there[0] + 1 else ', with gaps'}."
        )
    found: dict[tuple[str, tuple[int, ...]], list[tuple[Trajectory, str, Judgement | None]]] = {}
    prompts: dict[tuple[str, tuple[int, ...]], Prompt] = {}
    for number in dict.fromkeys(config.rounds or there[-1:]):
        for group in run.rollouts(number):
            key = (group.prompt.id, group.prompt_ids)
            prompts.setdefault(key, group.prompt)
            judged = group.judgements or (None,) * len(group)
            found.setdefault(key, []).extend(
                (trajectory, f"{run.name}, round {number}", judgement)
                for trajectory, judgement in zip(group.trajectories, judged, strict=True)
            )
    return [
        Pool(
            group=Group(
                prompt=prompts[key],
                prompt_ids=key[1],
                trajectories=tuple(trajectory for trajectory, _, _ in answers),
                judgements=tuple(j for _, _, j in answers if j is not None)
                if all(j is not None for _, _, j in answers)
                else (),
            ),
            sources=tuple(source for _, source, _ in answers),
        )
        for key, answers in found.items()
    ]


# ------------------------------------------------------------------------------------------------ sampling


def _begun(config: SampleConfig, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """All that the answers follow from, as plain values: whoever goes on must have the same."""
    assert config.model is not None
    assert config.data is not None
    return {
        "model": config.model.model_dump(mode="json", exclude={"name"}),
        "candidates": [one.model_dump(mode="json") for one in config.chosen_candidates],
        "engine": config.engine.model_dump(mode="json"),
        "sampling": config.sampling.model_dump(mode="json"),
        "answers": config.answers,
        "seed": config.seed,
        "data.max_prompt_tokens": config.data.max_prompt_tokens,
        "the fingerprint of the prompts": _digest([[p.id, p.content, dict(p.columns)] for p in prompts]),
    }


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()[:16]


def _blocks(prompts: int, share: int) -> list[range]:
    """Which prompts stand in each block of a candidate that gives each of them so many answers."""
    size = max(1, BLOCK // share)
    return [range(first, min(first + size, prompts)) for first in range(0, prompts, size)]


def _sample_blocks(
    config: SampleConfig, prompts: Sequence[Prompt], partial: Partial, console: Console
) -> None:
    """Have each block of each candidate on the disk."""
    names = list(dict.fromkeys(str(one.model) for one in config.chosen_candidates))
    if "models" not in partial.noted():
        # A run that still goes on has another last checkpoint by the time that somebody goes on here.
        partial.note(models={name: resolve_model(name) for name in names})
    shown = _Shown(config, len(prompts), partial, console)
    with shown.progress:
        if shown.done:
            shown.progress.note(f"Going on with {partial.folder}: {counted(shown.done, 'answer')} are there.")
        for name in names:
            missing = list(_missing(config, partial, name))
            if missing:
                _sample_model(config, prompts, name, partial, shown)


def _missing(config: SampleConfig, partial: Partial, name: str) -> Iterator[tuple[int, int, range]]:
    """(candidate, block, its prompts) of what a model has yet to answer; all before any prompts were rendered."""
    count = partial.noted().get("prompts", 1)
    for place, (one, share) in enumerate(zip(config.chosen_candidates, config.shares, strict=True)):
        if one.model == name:
            for number, block in enumerate(_blocks(count, share)):
                if not partial.has(place, number):
                    yield place, number, block


class _Shown:
    """Progress over all candidates."""

    def __init__(self, config: SampleConfig, prompts: int, partial: Partial, console: Console) -> None:
        self.each = config.answers
        count = partial.noted().get("prompts", prompts)
        self.done = sum(
            len(block) * share
            for place, share in enumerate(config.shares)
            for number, block in enumerate(_blocks(count, share))
            if partial.has(place, number)
        )
        self.tokens, self.start = 0, time.perf_counter()
        self.progress = Progress(
            count * self.each,
            EVAL_COLUMNS,
            unit="answer",
            console=console,
            start=self.done,
            seconds_between_lines=SECONDS_BETWEEN_LINES,
        )

    def finished(self, request: int, k: int, completion: Completion) -> None:
        self.done, self.tokens = self.done + 1, self.tokens + len(completion)
        speed = self.tokens / (time.perf_counter() - self.start)
        self.progress.update(self.done, {"tokens_per_second": speed})


def _sample_model(
    config: SampleConfig, prompts: Sequence[Prompt], name: str, partial: Partial, shown: _Shown
) -> None:
    """Sample the blocks that one model has yet to answer. Its weights are gone when this returns."""
    assert config.data is not None
    progress = shown.progress
    progress.phase(f"loading {name}")
    policy = _load(config, name, partial)
    rendered = render_all(policy, prompts, max_prompt_tokens=config.data.max_prompt_tokens)
    _check_tokens(config, name, rendered, partial)
    progress.total = len(rendered) * shown.each
    for note in (
        policy.fallback_note,
        left_out_note(rendered.left_out),
        room_note(policy, rendered.token_ids, config.sampling),
    ):
        if note:
            progress.note(note)
    engine = make_engine(config.engine, policy)
    load_weights(engine, policy, version=0)
    for place, number, block in list(_missing(config, partial, name)):
        temperature = config.chosen_candidates[place].temperature
        ask = Asking(
            engine=engine,
            sampling=config.sampling.model_copy(update={"temperature": temperature}),
            vocabulary=policy.vocabulary,
            tokenizer=policy.tokenizer,
            phase=Clock({}, show=progress.phase),
            finished=shown.finished,
        )
        requests = [
            rendered.request(row, count=config.shares[place], seed=(config.seed, TO_RANK, place, row))
            for row in block
        ]
        answers = zip(requests, ask(requests), strict=True)
        partial.write(place, number, [request.answered(completions) for request, completions in answers])


def _load(config: SampleConfig, name: str, partial: Partial) -> Policy:
    assert config.model is not None
    resolved = partial.noted()["models"][name]
    if Path(resolved).is_absolute() and not Path(resolved).exists():
        raise RunError(
            f"{partial.folder}: what is here was begun with {resolved}, which is gone (a run keeps only its newest "
            "checkpoints). Remove the folder to begin anew."
        )
    return load_model(config.model, resolved)


def _check_tokens(config: SampleConfig, name: str, rendered: Rendered, partial: Partial) -> None:
    """Raises ConfigError if a model reads the prompts as other tokens than the first one: a group has one prompt."""
    said = _digest([[prompt.id for prompt in rendered.prompts], rendered.token_ids])
    first = partial.noted().get("tokens")
    if first is None:
        partial.note(tokens=said, prompts=len(rendered))
    elif first != said:
        raise ConfigError(
            f"candidates: {name} reads the prompts as other tokens than {config.chosen_candidates[0].model} (another tokenizer or "
            "chat template), and the answers of one file share one prompt's tokens. Sample each into a file of its own."
        )


def _pools(config: SampleConfig, partial: Partial) -> list[Pool]:
    """What all candidates said to each prompt."""
    pools: list[Pool] = []
    for place, (one, share) in enumerate(zip(config.chosen_candidates, config.shares, strict=True)):
        blocks = range(len(_blocks(partial.noted()["prompts"], share)))
        groups = [group for number in blocks for group in partial.read(place, number)]
        source = f"{one.model}, temperature {one.temperature:g}"
        own = [Pool(group=group, sources=(source,) * len(group)) for group in groups]
        pools = own if place == 0 else [_joined(*pair) for pair in zip(pools, own, strict=True)]
    return pools


def _joined(first: Pool, second: Pool) -> Pool:
    trajectories = first.group.trajectories + second.group.trajectories
    return Pool(group=replace(first.group, trajectories=trajectories), sources=first.sources + second.sources)
