"""Steps of an answer: where a text is cut, and which token ends a step.

A step is a stretch of one of the policy's turns, (start, end) in characters of its text. White space at either end is no
part of a step, and what is nothing else is no step.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ventaja.environments._hints import listed
from ventaja.errors import ConfigError, did_you_mean
from ventaja.named import load_named, own_name
from ventaja.records import Completion, Trajectory

Span: TypeAlias = tuple[int, int]
Offsets: TypeAlias = Sequence[Span]
"""(start, end) of each token's text: what `Ask.offsets` gives."""
Cutter: TypeAlias = Callable[[str], Iterable[Span]]
"""`cut(text)`: where the steps of a turn begin and end."""
StepsLike: TypeAlias = str | Mapping[str, str] | Cutter
"""`line`, `sentence`, `turn`, `{tag: NAME}`, a cutter, or `file.py:cutter`."""


def line(text: str) -> list[Span]:
    """Each line that has something in it."""
    edges = [0, *itertools.accumulate(map(len, text.splitlines(keepends=True)))]
    return _stripped(text, itertools.pairwise(edges))


def sentence(text: str) -> list[Span]:
    """Each sentence, its `.`, `!`, `?` or `…` included; a line's end ends one too. A mark inside a number or a word ends
    none (3.5), one before white space always does (e. g. the one here)."""
    ends = re.finditer(r"(?<=[.!?…])(?=[\"'”’»)\]]*\s)[\"'”’»)\]]*|(?<=[。！？])|[\n\r]+", text)
    return _stripped(text, itertools.pairwise([0, *(end.end() for end in ends), len(text)]))


def tagged(text: str, *, tag: str) -> list[Span]:
    """What stands in each `<tag>…</tag>`. One that is not closed is no step."""
    name = re.escape(tag)
    return _stripped(
        text, [found.span(1) for found in re.finditer(f"<{name}>(.*?)</{name}>", text, re.DOTALL)]
    )


def turn(text: str) -> list[Span]:
    """The whole turn, whatever it says."""
    return [(0, len(text))]


NAMED: Mapping[str, Cutter] = {"line": line, "sentence": sentence, "turn": turn}


def cutter(steps: StepsLike, reward: str) -> Cutter:
    """The cutter that `steps` names. Raises ConfigError if it names none; `reward` is whose it is."""
    if callable(steps):
        return steps
    if isinstance(steps, Mapping):
        tag = steps.get("tag")
        if set(steps) != {"tag"} or not isinstance(tag, str) or not re.fullmatch(r"[^\s<>/]+", tag):
            raise ConfigError(
                f"reward {reward!r}: steps is {dict(steps)!r}. Where it is a mapping it names a tag: {{tag: step}} cuts out "
                "what stands in each <step>…</step>."
            )
        return functools.partial(tagged, tag=tag)
    if isinstance(steps, str) and steps in NAMED:
        return NAMED[steps]
    if isinstance(steps, str) and ":" in steps:
        found = load_named(steps, "a function")
        if callable(found):
            return found
    hint = did_you_mean(steps, NAMED) if isinstance(steps, str) else ""
    raise ConfigError(
        f"reward {reward!r}: there are no steps {steps!r}.{hint} Steps are {listed(NAMED)}, {{tag: NAME}} for what stands "
        "in <NAME>…</NAME>, or a function text → [(start, end), …] of your own (in a run file its name, file.py:function)."
    )


@dataclass(frozen=True)
class Step:
    """One step of a trajectory."""

    turn: int
    """Which of the policy's turns it is in."""
    start: int
    end: int
    text: str


def steps_of(trajectory: Trajectory, cut: Cutter) -> tuple[Step, ...]:
    """The steps of all of the policy's turns, in order. Raises ValueError for a span that is none of the text's."""
    found = []
    for number, completion in enumerate(trajectory.completions):
        spans = cut(completion.text)
        for span in spans:
            start, end = _span(span, completion.text, cut)
            found.append(Step(number, start, end, completion.text[start:end]))
    return tuple(found)


def place_of(step: Step, trajectory: Trajectory, offsets: Callable[[Completion], Offsets]) -> int:
    """Which token of the trajectory earns a step's reward: the last whose text reaches into the step.

    That token may reach into the next step too, if it stands on the border. A step without any text (a turn that says
    nothing) is earned by its turn's last token.
    """
    before, number = 0, -1
    for each in trajectory.turns:
        if isinstance(each, Completion):
            number += 1
            if number == step.turn:
                inside = [
                    t
                    for t, (start, end) in enumerate(offsets(each))
                    if max(start, step.start) < min(end, step.end)
                ]
                return before + (inside[-1] if inside else len(each) - 1)
        before += len(each)
    raise ValueError(f"there is no turn {step.turn}")


def _span(span: Any, text: str, cut: Cutter) -> Span:
    who = own_name(cut)
    try:
        start, end = (_whole(number) for number in span)
    except (TypeError, ValueError):
        raise ValueError(
            f"{who} cut out {span!r:.80}: a step is a pair (start, end) of whole numbers"
        ) from None
    if not (0 <= start < end <= len(text) or (cut is turn and start == end)):
        raise ValueError(
            f"{who} cut out {(start, end)} of a text of {len(text)} characters: a step begins before it ends, and both are "
            "within the text"
        )
    return start, end


def _whole(number: Any) -> int:
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        raise TypeError
    return int(number)


def _stripped(text: str, spans: Iterable[Span]) -> list[Span]:
    """Without white space at either end; what is nothing else is left out."""
    found = []
    for start, end in spans:
        inner = text[start:end]
        start += len(inner) - len(inner.lstrip())
        if inner.strip():
            found.append((start, start + len(inner.strip())))
    return found
