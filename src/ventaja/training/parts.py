"""The parts of an algorithm that are functions: those that have a name, and a user's own in their place.

A named one is a function of `ventaja.functional`, and what else the loop must know of it stands beside it in
`KINDS`. Own or named, a part is called the same way: with those of the arguments of its kind that its signature asks
for. So a function of the textbook can be handed in as it is, and wrapped.

This is the table. `calling.py` calls them, and `trial.py` looks at what a user's function gives. Nothing here loads torch:
a run file can be checked without.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ventaja.errors import ConfigError, did_you_mean
from ventaja.named import GIVEN_IN_PYTHON, load_named, spec_of, where

CLIPS = ("clip_low", "clip_high", "dual_clip")
"""The settings of a surrogate's clip."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What the loop must know of one choice, besides how to call it."""

    function: str | None = None
    """Its name in `ventaja.functional`; None if nothing is called."""
    with_ratio: str | None = None
    """A surrogate's function where there is a ratio to multiply the advantage with."""
    settings: tuple[str, ...] = ()
    """Which of `CLIPS` a surrogate reads."""
    clip: Literal["one side", "both sides"] | None = None
    """Where a surrogate's clip is known to hold a ratio: only where the advantage pulls it further out, or anywhere."""
    acts_at_zero: bool = False
    """True if a surrogate may act on a token whose advantage is 0."""
    per_sequence: bool = False
    """True of a ratio that all tokens of a sequence share."""
    within_groups: bool = False
    """True of a baseline that compares the answers of one prompt."""
    uniform: bool = False
    """True of a baseline that is one number for the whole batch."""
    kl_in: tuple[str, ...] = ("reward", "loss")
    """Where a KL estimator may be used."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One place for a function in an algorithm."""

    named: Mapping[str, Part]
    given: Mapping[str, str]
    """What a function may ask for, by the names of its parameters (an axis suffix such as `_BT` does not count)."""
    like: str
    """The argument whose shape the result has."""
    gives: str
    """What the result is."""


KINDS: Mapping[str, Kind] = {
    "baseline": Kind(
        named={
            "none": Part(),
            "constant": Part(uniform=True),
            "running_mean": Part(uniform=True),
            "batch_mean": Part(uniform=True),
            "leave_one_out": Part(function="leave_one_out", within_groups=True),
            "group_mean": Part(function="group_centred", within_groups=True),
            "greedy": Part(),
            "critic": Part(),
        },
        given={
            "reward": "[P, G], the return of each answer, a row per prompt",
            "is_valid": "[P, G], True where there is an answer that takes part",
        },
        like="reward",
        gives="what is subtracted from each answer's return",
    ),
    "scale": Kind(
        named={
            "none": Part(),
            "group_std": Part(function="group_standardised"),
            "batch_std": Part(function="whiten"),
            "minibatch_std": Part(),
        },
        given={
            "advantage": "[P, G], the returns less their baseline, a row per prompt",
            "is_valid": "[P, G], True where there is an answer that takes part",
        },
        like="advantage",
        gives="the scaled advantage of each answer",
    ),
    "ratio": Kind(
        named={
            "none": Part(),
            "token": Part(),
            "sequence": Part(function="sequence_log_ratio", per_sequence=True),
            "trajectory": Part(function="trajectory_log_ratio", per_sequence=True),
        },
        given={
            "log_ratio": "[B, T], log π − log π_old of each token, without gradient",
            "is_action": "[B, T], True at the tokens that count",
        },
        like="log_ratio",
        gives="the log-ratio of each sequence [B] or of each token [B, T]",
    ),
    "surrogate": Kind(
        named={
            "policy_gradient": Part(function="policy_gradient_loss", with_ratio="surrogate_loss"),
            "clipped": Part(function="clipped_surrogate_loss", settings=CLIPS, clip="one side"),
            "detached_clamp": Part(function="detached_clamp_loss", settings=CLIPS[:2], clip="both sides"),
        },
        given={
            "logprob": "[M], log π of each token, with its gradient",
            "old_logprob": "[M], log π_old",
            "log_ratio": "[M], the log-ratio that part `ratio` gives, with its gradient",
            "advantage": "[M], Â",
            "is_action": "[M], True at the tokens that count",
            "clip_low": "the setting",
            "clip_high": "the setting",
            "dual_clip": "the setting, or None",
        },
        like="logprob",
        gives="the loss of each token",
    ),
    "token_weight": Kind(
        named={
            "sequence_sum": Part(function="sequence_sum"),
            "sequence_mean": Part(function="sequence_mean"),
            "token_mean": Part(function="token_mean"),
            "fixed_length": Part(function="fixed_length"),
        },
        given={
            "is_action": "[B, T], True at the tokens of the whole update that count",
            "length": "the longest allowed answer, in tokens",
        },
        like="is_action",
        gives="how much each token counts in the sum of the losses",
    ),
    "kl_estimator": Kind(
        named={
            "k1": Part(function="kl_k1", kl_in=("reward",)),
            "k2": Part(function="kl_k2", kl_in=("loss",)),
            "k3": Part(function="kl_k3"),
            "k3+": Part(function="kl_k3_plus", kl_in=("loss",)),
            "k3_weighted": Part(function="kl_k3_weighted", kl_in=("loss",)),
            "exact": Part(kl_in=("loss",)),
        },
        given={
            "log_ratio": "any shape, log π − log π_ref of each token, with its gradient",
            "old_log_ratio": "the same, log π − log π_old",
        },
        like="log_ratio",
        gives="the KL at each token",
    ),
}
"""Every part that is a function, by its name in `Algorithm`."""


class Own(str):
    """A user's function as a part: the text that names it in files and tables, and the function.

    Two of the same name are equal. Without a function it is the name of one that only the program that gave it has.
    """

    function: Callable[..., Any] | None
    wants: dict[str, str]
    """Which argument of its kind each of its parameters is given."""

    def __new__(
        cls, name: str, function: Callable[..., Any] | None = None, wants: Mapping[str, str] | None = None
    ) -> Own:
        own = super().__new__(cls, name)
        own.function, own.wants = function, dict(wants or {})
        return own

    def __deepcopy__(self, memo: object) -> Own:
        return self


def chosen(kind: str, value: object) -> str:
    """What `value` chooses for a part of this kind: one of its names, or a function of one's own.

    Raises ValueError for text that names nothing, and for a function that cannot be called with what there is.
    """
    named = KINDS[kind].named
    if isinstance(value, Own) or (isinstance(value, str) and value in named):
        return value
    if isinstance(value, str) and value.endswith(GIVEN_IN_PYTHON):
        return Own(value)
    if isinstance(value, str) and ":" in value:
        try:
            function = load_named(value, "a function")
        except ConfigError as error:
            raise ValueError(str(error).rstrip(".")) from error
        if not callable(function):
            raise ValueError(f"{value!r} is a {type(function).__name__}, not a function")
        return _named_as(kind, function) or Own(value, function, wants_of(kind, function, value))
    if not callable(value):
        hint = did_you_mean(value, named) if isinstance(value, str) else ""
        raise ValueError(
            f"there is no {kind} {value!r}.{hint} There are {', '.join(named)}, and a function of your own: "
            "file.py:function or package.module:function (in Python, the function)"
        )
    spec = spec_of(value)
    return _named_as(kind, value) or Own(spec, value, wants_of(kind, value, spec))


def part_of(kind: str, value: object) -> Part:
    """What is known of a choice: of a user's function, which settings it asks for (any, if it is not here)."""
    if isinstance(value, Own):
        settings = tuple(n for n in CLIPS if value.function is None or n in value.wants.values())
        return Part(settings=settings, acts_at_zero=True)
    return KINDS[kind].named[str(value)]


def located(spec: str, function: Callable[..., Any] | None) -> str:
    """`losses.py:mine (/home/ana/losses.py:3)`"""
    place = where(function) if function is not None else ""
    return f"{spec} ({place})" if place else spec


# A function's parameters ------------------------------------------------------------------------------------


_AXES = re.compile(r"_[A-Z][A-Z0-9]*$")


def wants_of(kind: str, function: Callable[..., Any], spec: str) -> dict[str, str]:
    """Which argument each parameter is given. Raises ValueError if one without a default cannot be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{spec}: its parameters cannot be read ({error}). Wrap it in a function") from error
    known = KINDS[kind].given
    bound = function.keywords if isinstance(function, functools.partial) else {}
    wants: dict[str, str] = {}
    for each in parameters:
        name = _AXES.sub("", each.name)
        if each.kind is each.VAR_KEYWORD:
            wants |= {name: name for name in known if name not in {*wants.values(), *bound}}
        elif each.kind is each.POSITIONAL_ONLY and each.default is each.empty:
            raise ValueError(
                f"{located(spec, function)}: {each.name!r} is positional-only; arguments go by name"
            )
        elif each.kind is each.VAR_POSITIONAL or each.kind is each.POSITIONAL_ONLY or each.name in bound:
            continue
        elif name in known:
            wants[each.name] = name
        elif each.default is each.empty:
            raise ValueError(
                f"{located(spec, function)} asks for {each.name!r}, which a {kind} cannot be given."
                f"{did_you_mean(name, known)} It may ask for {', '.join(known)}. Give {each.name!r} a default, or "
                "bind it with functools.partial"
            )
    return wants


def _named_as(kind: str, function: Callable[..., Any]) -> str | None:
    """The name under which the table has this very function, if it has."""
    textbook = sys.modules.get("ventaja.functional")
    for name, part in KINDS[kind].named.items():
        if (
            textbook
            and part.function
            and not part.with_ratio
            and getattr(textbook, part.function) is function
        ):
            return name
    return None
