"""The built-in rewards. Each factory takes its options and gives a reward function.

They read the completion's text without the white space around it, and skip (None) a row whose column is None.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ventaja.environments import _worker
from ventaja.environments._hints import listed
from ventaja.errors import ConfigError, RewardError

Score: TypeAlias = float | Exception | None
Scores: TypeAlias = Sequence[Score]
RewardFunction: TypeAlias = Callable[..., Scores | Awaitable[Scores]]
"""`f(prompts, completions, completion_ids, **columns)`: one number per completion, or None to skip it.

An exception in a place of the list marks that one sample as broken.
"""

FULL_MARKS = 1.0
"""What the built-in verifiers give a right answer. They say so in their functions' attribute `full_marks`, as a function
of one's own may; only where it is said, or all rewards are 0 and 1, is an accuracy more than a guess."""

GIVEN = ("prompts", "completions", "completion_ids")
"""What every reward function may take besides the prompts' columns."""

Completions: TypeAlias = Sequence[str | Sequence[Mapping[str, str]]]


def completion_text(completion: str | Sequence[Mapping[str, str]]) -> str:
    """The answer's text, whether it arrived as text or as chat messages (then the last turn's)."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def exact_match(*, column: str = "answer", strip: bool = True, ignore_case: bool = False) -> RewardFunction:
    """1.0 if the completion equals the column's value, else 0.0.

    Args:
        strip: ignore white space around both.
        ignore_case: ignore the difference between upper and lower case.
    """

    def form(text: str) -> str:
        text = text.strip() if strip else text
        return text.casefold() if ignore_case else text

    def exact_match(completions: Completions, **columns: Any) -> list[float | None]:
        return [
            None if expected is None else float(form(completion_text(completion)) == form(str(expected)))
            for completion, expected in zip(completions, columns[column], strict=True)
        ]

    return _reads(column, exact_match)


def regex(pattern: str, *, group: int | str | None = None, column: str | None = None) -> RewardFunction:
    """1.0 if the pattern is found in the completion, or if what it captured equals the column's value.

    Args:
        pattern: a Python regular expression, searched anywhere in the text.
        group: the captured group to compare; by default the first, or the whole match if there is none.
            Where the pattern is found more than once, the last one counts.
        column: the column to compare with; None only asks whether the pattern is found.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"regex: the pattern {pattern!r} is not a regular expression: {error}.") from error
    chosen = min(compiled.groups, 1) if group is None else group
    if chosen not in range(compiled.groups + 1) and chosen not in compiled.groupindex:
        have = listed(compiled.groupindex)
        raise ConfigError(
            f"regex: the pattern {pattern!r} has no group {chosen!r}; "
            f"it has {compiled.groups} numbered from 1, and named ones: {have}."
        )

    def regex(completions: Completions, **columns: Sequence[Any]) -> list[float | None]:
        texts = [completion_text(completion).strip() for completion in completions]
        if column is None:
            return [float(compiled.search(text) is not None) for text in texts]
        return [
            None if expected is None else _last_group_equals(compiled, chosen, text, str(expected))
            for text, expected in zip(texts, columns[column], strict=True)
        ]

    return regex if column is None else _reads(column, regex)


def _last_group_equals(pattern: re.Pattern[str], group: int | str, text: str, expected: str) -> float:
    matches = list(pattern.finditer(text))
    captured = matches[-1][group] if matches else None
    return float(captured is not None and captured.strip() == expected.strip())


def math_verify(*, column: str = "answer", timeout: float = 5.0) -> RewardFunction:
    r"""1.0 if the completion's final answer is mathematically the column's value (`\frac12`, 0.5 and 50/100).

    The work is the math-verify package's. It happens in a process of its own, which is stopped after
    `timeout` seconds on one sample: that sample is broken, and the rest keep their rewards.
    """
    _need("math_verify", "math-verify", "math_verify")

    def math_verify(completions: Completions, **columns: Any) -> list[Score]:
        return [
            None
            if gold is None
            else _apart(
                "math_verify", {"gold": str(gold), "text": completion_text(completion).strip()}, timeout
            )
            for completion, gold in zip(completions, columns[column], strict=True)
        ]

    return _reads(column, math_verify)


def reasoning_gym(*, strict: bool = False, tag: str | None = None, timeout: float = 5.0) -> RewardFunction:
    """The task's own score of the answer, between 0 and 1, for prompts from `reasoning_gym:NAME`.

    Args:
        strict: 1.0 for full marks and 0.0 for anything less, so that a partly right answer earns nothing.
        tag: judge only the text in the last `<tag>…</tag>`; an answer without it earns 0.0.
        timeout: seconds for one sample, after which its process is stopped and the sample is broken.
    """
    _need("reasoning_gym", "reasoning-gym", "reasoning_gym")
    tagged = None if tag is None else re.compile(f"<{re.escape(tag)}>(.*?)</{re.escape(tag)}>", re.DOTALL)

    def reasoning_gym(
        completions: Completions,
        question: Sequence[str],
        answer: Sequence[Any],
        metadata: Sequence[Mapping[str, Any]],
        dataset: Sequence[str | None],
        dataset_options: Sequence[Mapping[str, Any] | None],
    ) -> list[Score]:
        scores: list[Score] = []
        for index, completion in enumerate(completions):
            text: str = completion_text(completion).strip()
            if tagged:
                found = tagged.findall(text)
                text = found[-1].strip() if found else ""
            name = dataset[index]
            if name is None:
                scores.append(None)
                continue
            if not text:
                scores.append(0.0)
                continue
            entry = {"question": question[index], "answer": answer[index], "metadata": metadata[index]}
            request = {
                "text": text,
                "entry": entry,
                "dataset": name,
                "options": dict(dataset_options[index] or {}),
            }
            score = _apart("reasoning_gym", request, timeout)
            scores.append(float(score >= 1.0) if strict and isinstance(score, float) else score)
        return scores

    return reasoning_gym


BUILT_IN: Mapping[str, Callable[..., RewardFunction]] = {
    "exact_match": exact_match,
    "math_verify": math_verify,
    "reasoning_gym": reasoning_gym,
    "regex": regex,
}
"""The names that a run file may use, and their factories."""


def built_in(name: str, options: Mapping[str, Any]) -> RewardFunction:
    """The reward function of this name, which says what it gives a right answer."""
    function: Any = BUILT_IN[name](**options)
    function.full_marks = FULL_MARKS
    return function


def _apart(kind: str, arguments: Mapping[str, Any], timeout: float) -> Score:
    try:
        return _worker.score_apart(kind, arguments, limit=timeout)
    except (_worker.WorkerError, TimeoutError) as error:
        return error.with_traceback(None)  # our own lines would only hide the verifier's
    except _worker.WorkerStartError as error:
        raise RewardError(f"{error}. Check the installation: pip install 'ventaja[tasks]'.") from error


def _reads(column: str, function: RewardFunction) -> RewardFunction:
    """The function, telling that it requires this column, so that a missing one is found before the run."""
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ("completions", column)]
    told: Any = function
    told.__signature__ = inspect.Signature(parameters)
    return function


def _need(module: str, package: str, reward: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"the reward '{reward}' needs the package {package}, which is not installed: "
            "pip install 'ventaja[tasks]'."
        )
