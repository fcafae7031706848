"""What a rater said of several answers to one prompt."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ventaja.records.prompt import Prompt


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer that was ranked."""

    text: str
    token_ids: tuple[int, ...] | None = None
    """Its tokens exactly as sampled, an end-of-sequence token included; None where only the text is known."""
    source: str = ""
    """Who gave it (a model, a temperature, a round of a run). No rater is shown this."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One rater's order of a prompt's answers, with ties, open ends and the line between acceptable and not."""

    prompt: Prompt
    answers: tuple[Answer, ...]
    order: tuple[tuple[int, ...], ...]
    """Tiers of indices into `answers`, best first; answers of one tier are tied. Those in no tier are all worse than the
    ranked ones, and in no order among themselves."""
    line: int | None = None
    """How many tiers are acceptable: 0 says that all answers are bad, `len(order)` that all ranked ones are good (those in no
    tier are below the line). None where the rater drew no line."""
    rater: str = ""
    weight: float = 1.0
    """How much it counts beside others; above 0."""

    def __post_init__(self) -> None:
        named = Counter(index for tier in self.order for index in tier)
        if len(self.answers) < 2 and self.line is None:
            raise ValueError(f"a ranking compares at least two answers, and this has {len(self.answers)}")
        for index, times in named.items():
            if not 0 <= index < len(self.answers):
                raise ValueError(
                    f"'order' names answer {index}, but the prompt has {len(self.answers)} (0–{len(self.answers) - 1})"
                )
            if times > 1:
                raise ValueError(f"'order' names answer {index} twice")
        if not all(self.order):
            raise ValueError("'order' has an empty tier")
        if self.line is not None and not 0 <= self.line <= len(self.order):
            raise ValueError(
                f"'line' is {self.line}, but there are {len(self.order)} tiers (0–{len(self.order)})"
            )
        if not self.weight > 0:
            raise ValueError(f"'weight' must be above 0, not {self.weight}")

    @property
    def unranked(self) -> tuple[int, ...]:
        """The answers that are in no tier."""
        ranked = {index for tier in self.order for index in tier}
        return tuple(index for index in range(len(self.answers)) if index not in ranked)

    def pairs(self) -> list[tuple[int, int]]:
        """Every (better, worse) pair of answers that it tells apart; ties and the unranked among themselves give none."""
        tiers = [*self.order, self.unranked]
        return [
            (better, worse)
            for place, tier in enumerate(tiers)
            for later in tiers[place + 1 :]
            for better in tier
            for worse in later
        ]
