"""Answers that say the same: nobody should have to rank them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence


def distinct(texts: Sequence[str], *, alike: float | None) -> list[int]:
    """The places of those texts that are no near-duplicate of an earlier one that stays.

    Texts are compared without regard to capitals, white space and Unicode's ways to write one character. Two are near if
    their normalised Indel similarity, 1 − (insertions + deletions) / (both lengths), is at least `alike`, and they name the same numbers:
    between two long sums the wrong result is one character. At 1 only the same text counts, and None keeps everything.
    """
    from rapidfuzz import fuzz

    if alike is None:
        return list(range(len(texts)))
    kept: list[int] = []
    said = [_normalised(text) for text in texts]
    numbers = [re.findall(r"\d+", text) for text in said]
    for place, text in enumerate(said):
        if not any(
            text == said[other]
            or (numbers[place] == numbers[other] and fuzz.ratio(text, said[other]) >= 100 * alike)
            for other in kept
        ):
            kept.append(place)
    return kept


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
