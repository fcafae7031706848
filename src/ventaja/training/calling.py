"""The parts of an algorithm that are functions, called: named ones and a user's own in the same way.

What a user's function gives is looked at (`trial.py`). Named ones are not, which on a GPU would wait for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ventaja import functional as F
from ventaja.errors import RunError
from ventaja.training.algorithms import Algorithm
from ventaja.training.parts import Own, part_of, wants_of
from ventaja.training.trial import looked_at


def call(algorithm: Algorithm, kind: str, **given: Any) -> Tensor:
    """The result of the algorithm's part, for the arguments of its kind.

    Raises RunError, with a page about the function, if one of the user's breaks or gives what cannot be used.
    """
    value = getattr(algorithm, kind)
    if isinstance(value, Own):
        return looked_at(kind, value, given, RunError)
    part = part_of(kind, value)
    has_ratio = part.with_ratio is not None and algorithm.ratio != "none"
    function, wants = _textbook(kind, part.with_ratio if has_ratio else part.function)
    return function(**{parameter: given[name] for parameter, name in wants.items()})


def group_advantage(algorithm: Algorithm, reward_PG: Tensor, is_valid: Tensor) -> Tensor:
    """[P, G], what the group baseline and the scale make of the returns of each prompt's answers."""
    if algorithm.scale == "group_std":  # it subtracts the group's mean itself
        return F.group_standardised(reward_PG, is_valid=is_valid)
    advantage = reward_PG
    if isinstance(algorithm.baseline, Own):
        advantage = reward_PG - call(algorithm, "baseline", reward=reward_PG, is_valid=is_valid)
    elif part_of("baseline", algorithm.baseline).within_groups:
        advantage = call(algorithm, "baseline", reward=reward_PG, is_valid=is_valid)
    if isinstance(algorithm.scale, Own):
        advantage = call(algorithm, "scale", advantage=advantage, is_valid=is_valid)
    return advantage


@functools.cache
def _textbook(kind: str, name: str) -> tuple[Callable[..., Any], Mapping[str, str]]:
    """A function of `ventaja.functional`, and what its parameters are given."""
    function = getattr(F, name)
    return function, wants_of(kind, function, name)
