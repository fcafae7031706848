"""How often a model is right on problems that it was not trained on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import comb
from pathlib import Path
from statistics import fmean

from rich.console import Console

from ventaja.disk import unwritable
from ventaja.environments import Environment, Reward, SingleTurn, noted_metrics
from ventaja.errors import RewardError, RunError
from ventaja.records import Completion, Group, Judgement, write_groups
from ventaja.rollouts import Asking, load_weights, roll_out
from ventaja.tracking import EVAL_COLUMNS, Progress, loading
from ventaja.training.clock import Clock
from ventaja.training.config import EvaluationConfig
from ventaja.training.joints import make_engine, make_environment
from ventaja.training.model import load_model
from ventaja.training.model_reward import meet_all
from ventaja.training.prompts import Rendered, left_out_note, render_all, room_note

SECONDS_BETWEEN_LINES = 10.0
"""Of progress where there is no terminal: a measurement has no rounds that a line could tell of."""
MEASURING = 0xE7A1
"""Names the random streams of answers to held-out problems, apart from those that are trained on."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `ventaja eval` measures. An accuracy is a share of answers with full marks.

    What full marks are, a reward function says (the built-in verifiers do, by their attribute `full_marks`); an answer
    has them if every function that judged it gave its own. Where no function says so, answers are right or wrong if
    all of their rewards are 1 or 0. Otherwise there is no right and wrong, and accuracies are None.
    """

    problems: int
    accuracy_sampled: float | None
    accuracy_greedy: float | None
    pass_at: dict[int, float]
    """pass@k: the chance that at least one of k sampled answers is right; empty where there is no right."""
    mean_reward: float
    """Of the sampled answers."""
    truncated_fraction: float
    """Sampled answers that were cut off by max_tokens."""
    seconds: float
    rewards: dict[str, float] = field(default_factory=dict)
    """Each reward function's own mean score of the sampled answers that it judged, before weights."""
    reward_metrics: dict[str, float] = field(default_factory=dict)
    """`reward_metrics/NAME`: means of what reward functions gave to `log_metric`, over all answers, greedy ones too."""


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Unbiased estimate of pass@k from n samples of which c are right:  1 − C(n−c, k) / C(n, k).

    Codex (arXiv:2107.03374), eq. 1.
    """
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def full_marks(rewards: Sequence[Reward]) -> dict[str, float] | None:
    """What each reward function gives a right answer, by its name; None unless all of them say."""
    marks = {reward.name: reward.full_marks for reward in rewards}
    return (
        {name: mark for name, mark in marks.items() if mark is not None}
        if None not in marks.values()
        else None
    )


def evaluate(config: EvaluationConfig, *, console: Console | None = None) -> Evaluation:
    """Load the model and the problems, and measure. Progress is shown on `console`: standard error, if it is None.

    Raises VentajaError with what to do next.
    """
    console = console or Console(stderr=True)
    if config.output is not None:
        _check_output(config.output)
    with loading(config.model.name, console):
        environment = make_environment(config)
        policy = load_model(config.model)
        meet_all(getattr(environment, "rewards", ()), policy.tokenizer, policy=policy.name)
        engine = make_engine(config.engine, policy)
    limit = config.data.max_prompt_tokens if config.data else None
    problems = render_all(policy, environment.prompts, max_prompt_tokens=limit)
    progress = Progress(
        len(problems) * (config.samples + 1),
        EVAL_COLUMNS,
        unit="answer",
        console=console,
        seconds_between_lines=SECONDS_BETWEEN_LINES,
    )
    for note in (
        policy.fallback_note,
        left_out_note(problems.left_out),
        room_note(policy, problems.token_ids, config.sampling),
    ):
        if note:
            progress.note(note)
    start, answers, tokens = time.perf_counter(), 0, 0

    def finished(request: int, k: int, completion: Completion) -> None:
        nonlocal answers, tokens
        answers, tokens = answers + 1, tokens + len(completion)
        progress.update(answers, {"tokens_per_second": tokens / (time.perf_counter() - start)})

    load_weights(engine, policy, version=0)
    with progress:
        result, sampled = measure(
            Asking(
                engine=engine,
                sampling=config.sampling,
                vocabulary=policy.vocabulary,
                tokenizer=policy.tokenizer,
                phase=Clock({}, show=progress.phase),
                finished=finished,
            ),
            environment,
            problems,
            samples=config.samples,
            seed=config.seed,
            full_marks=full_marks(environment.rewards if isinstance(environment, SingleTurn) else ()),
            max_broken_fraction=config.reward.max_broken_fraction,
        )
    if config.output is not None:
        write_groups(config.output, sampled, flag="--output")
    return result


def _check_output(path: Path) -> None:
    """Raises RunError now for a file that could not be written in the end, when all the work would be lost."""
    if path.is_dir():
        raise RunError(f"{path}: this is a folder. Give a file, such as --output {path / 'answers.parquet'}")
    was_there = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if not was_there:
            path.unlink()
    except OSError as error:
        raise RunError(unwritable(path, error, flag="--output")) from error


def measure(
    ask: Asking,
    environment: Environment,
    problems: Rendered,
    *,
    samples: int,
    seed: int,
    full_marks: Mapping[str, float] | None = None,
    max_broken_fraction: float = 0.0,
) -> tuple[Evaluation, list[Group]]:
    """Sampled and greedy accuracy on the given problems, and the judged sampled answers.

    `full_marks` is what each reward function gives a right answer. Raises Interrupted once `ask` is to stop,
    RewardError if no answer could be judged or too many judgements are broken.
    """
    start = time.perf_counter()
    greedy = replace(ask, sampling=ask.sampling.model_copy(update={"temperature": 0.0}))
    with noted_metrics() as noted:
        judged = {
            kind: roll_out(
                environment,
                how,
                [problems.request(p, count=count, seed=(seed, MEASURING, p)) for p in range(len(problems))],
                max_broken_fraction=max_broken_fraction,
            )
            for kind, how, count in (("sampled", ask, samples), ("greedy", greedy, 1))
        }
    valid = {
        kind: [[j for j in group.judgements if j.is_valid] for group in groups]
        for kind, groups in judged.items()
    }
    if not all(any(rows) for rows in valid.values()):
        raise RewardError(
            f"none of the answers to the {len(problems)} problems could be judged: every reward was None or "
            "broken. Check that the problems have the columns that the reward function reads."
        )
    is_right = what_is_right(full_marks, [j for rows in valid.values() for row in rows for j in row])
    accuracy: dict[str, float | None] = dict.fromkeys(valid)
    pass_at: dict[int, float] = {}
    if is_right is not None:
        right = {kind: [sum(map(is_right, row)) for row in rows if row] for kind, rows in valid.items()}
        judged_answers = {kind: [len(row) for row in rows if row] for kind, rows in valid.items()}
        for kind in valid:
            accuracy[kind] = fmean(c / n for c, n in zip(right[kind], judged_answers[kind], strict=True))
        pairs = list(
            zip(judged_answers["sampled"], right["sampled"], strict=True)
        )  # broken answers do not count
        most = max(n for n, _ in pairs)
        pass_at = {
            k: fmean(pass_at_k(n, c, k) for n, c in pairs if n >= k)
            for k in (1, 2, 4, 8, 16, 32, 64)
            if k <= most
        }
    trajectories = [trajectory for group in judged["sampled"] for trajectory in group.trajectories]
    return Evaluation(
        problems=len(problems),
        accuracy_sampled=accuracy["sampled"],
        accuracy_greedy=accuracy["greedy"],
        pass_at=pass_at,
        mean_reward=fmean(j.reward for row in valid["sampled"] for j in row),
        truncated_fraction=fmean(trajectory.is_truncated for trajectory in trajectories),
        seconds=time.perf_counter() - start,
        rewards=mean_components([j for row in valid["sampled"] for j in row]),
        reward_metrics=noted.means(),
    ), judged["sampled"]


def mean_components(judgements: Sequence[Judgement]) -> dict[str, float]:
    """The mean of each reward function's own scores, where it judged."""
    scores: dict[str, list[float]] = {}
    for judgement in judgements:
        for name, score in judgement.components.items():
            if score is not None:
                scores.setdefault(name, []).append(score)
    return {name: fmean(values) for name, values in scores.items()}


def what_is_right(
    full_marks: Mapping[str, float] | None, judgements: Sequence[Judgement]
) -> Callable[[Judgement], bool] | None:
    """Tells a right answer by its judgement; None where rewards are of a kind that knows no right and wrong."""
    if full_marks:
        marks = full_marks

        def has_full_marks(judgement: Judgement) -> bool:
            given = {name: score for name, score in judgement.components.items() if score is not None}
            return bool(given) and all(score >= marks[name] for name, score in given.items())

        return has_full_marks
    if all(judgement.reward in (0.0, 1.0) for judgement in judgements):
        return lambda judgement: judgement.reward == 1.0
    return None
