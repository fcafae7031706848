"""Rankings as they are learned from: by prompt, as tokens, each answer once however many people have ranked it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ventaja.errors import ConfigError, DataError
from ventaja.models import JudgedTokens, Policy, judged_tokens, render_prompt
from ventaja.models.judged import longest
from ventaja.rankings import read_rankings
from ventaja.records import Answer, Prompt, Ranking
from ventaja.tracking.words import counted
from ventaja.training.data import SET_ASIDE, question_of
from ventaja.training.ranking_config import RankingDataConfig, RankingEvalConfig

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One ranking of a prompt's answers: which of them, and in which tier each is."""

    answers: tuple[int, ...]
    """Places in `RankedPrompt.answers`."""
    tiers: tuple[int, ...]
    """Of each of them, from 0 for the best; what was not ranked is in the last."""
    line: int | None
    """The tier that the line between acceptable and not has to itself; None where none was drawn."""
    weight: float
    rater: str

    @property
    def items(self) -> int:
        """Answers, and the line."""
        return len(self.answers) + (self.line is not None)

    def pairs(self) -> list[tuple[int, int, int]]:
        """(better, worse, tiers between them) of all pairs of answers that are told apart, as places in `answers`."""
        return [
            (i, j, self._steps(i, j))
            for i, first in enumerate(self.tiers)
            for j, second in enumerate(self.tiers)
            if first < second
        ]

    def ties(self) -> list[tuple[int, int]]:
        """The pairs of answers that are in one tier."""
        return [
            (i, j) for i in range(len(self.tiers)) for j in range(i) if self.tiers[i] == self.tiers[j]
        ]  # fmt: skip

    def _steps(self, better: int, worse: int) -> int:
        first, second = self.tiers[better], self.tiers[worse]
        return second - first - (self.line is not None and first < self.line < second)


@dataclass(frozen=True, kw_only=True)
class RankedPrompt:
    """A prompt, all answers to it that anybody has ranked, and all rankings of them."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    answers: tuple[Answer, ...]
    answer_ids: tuple[tuple[int, ...], ...]
    rankings: tuple[Placed, ...]

    def fingerprint(self) -> list[int]:
        """All that training makes of it, as numbers."""
        told = [*self.prompt_ids, -1]
        for ids in self.answer_ids:
            told += [*ids, -1]
        for ranking in self.rankings:
            line = -1 if ranking.line is None else ranking.line
            told += [*ranking.answers, -1, *ranking.tiers, -1, line, round(ranking.weight * 1e6)]
        return told


@dataclass(frozen=True, kw_only=True)
class Unused:
    """A ranking that nothing can be learned from here, and why."""

    ranking: Ranking
    reason: str


@dataclass(kw_only=True)
class Tokenised:
    """What became of some rankings."""

    prompts: list[RankedPrompt] = field(default_factory=list)
    unused: list[Unused] = field(default_factory=list)
    cut: int = 0
    """Answers that lost their end."""
    re_encoded: int = 0
    """Answers whose token ids were another tokenizer's, or not known, so that their text was encoded."""


def read_sources(data: RankingDataConfig, *, say: Say) -> list[Ranking]:
    """The rankings of all files that the config names. Raises DataError if there is none."""
    found = [ranking for source in data.sources for ranking in read_file(source, say=say)]
    return found[: data.size]


def read_file(source: str, *, say: Say) -> list[Ranking]:
    """The rankings of one file. Raises DataError for a file that cannot be read, is empty or holds no ranking."""
    return read_rankings(source, say=say)


def split(
    rankings: Sequence[Ranking], config: RankingEvalConfig, *, say: Say
) -> tuple[list[Ranking], list[Ranking]]:
    """The rankings to train on, and those that are held out: of other prompts, whatever system message is before them.

    Raises ConfigError if none is left to train on.
    """
    if config.source is not None:
        held_out = read_file(config.source, say=say)
        asked = {question_of(ranking.prompt) for ranking in held_out}
        kept = [ranking for ranking in rankings if question_of(ranking.prompt) not in asked]
        if len(kept) < len(rankings):
            say(
                f"Not trained on: {counted(len(rankings) - len(kept), 'ranking')} of held-out prompts (eval.source)."
            )
    else:
        questions = sorted({question_of(ranking.prompt) for ranking in rankings})
        count = max(round(len(questions) * config.fraction), 1) if config.fraction else 0
        drawn = np.random.default_rng([config.seed, SET_ASIDE]).permutation(len(questions))[:count]
        asked = {questions[i] for i in drawn}
        kept = [ranking for ranking in rankings if question_of(ranking.prompt) not in asked]
        held_out = [ranking for ranking in rankings if question_of(ranking.prompt) in asked]
    if not kept:
        raise ConfigError(
            f"eval: the rankings are of {counted(len({question_of(r.prompt) for r in rankings}), 'prompt')}, and all of them "
            "are held out, so none is left to train on. Rank answers to more prompts, or set eval.fraction to 0."
        )
    return kept, held_out


def tokenise(network: Policy, rankings: Iterable[Ranking], *, max_tokens: int | None) -> Tokenised:
    """Rankings by prompt, in the order in which prompts first come; what cannot be used is told, not dropped."""
    limit = longest(network, max_tokens)
    result = Tokenised()
    by_prompt: dict[object, list[tuple[Ranking, list[JudgedTokens]]]] = {}
    rendered: dict[str, tuple[int, ...]] = {}
    for ranking in rankings:
        try:
            content = repr(ranking.prompt.content)
            if content not in rendered:
                rendered[content] = render_prompt(network.tokenizer, ranking.prompt)
            read = [
                judged_tokens(network, ranking.prompt, answer, max_tokens=limit, prompt_ids=rendered[content])
                for answer in ranking.answers
            ]
        except DataError as error:
            result.unused.append(Unused(ranking=ranking, reason=str(error)))
            continue
        if reason := _says_nothing(ranking, read):
            result.unused.append(Unused(ranking=ranking, reason=reason))
            continue
        by_prompt.setdefault(read[0].prompt_ids, []).append((ranking, read))
        result.cut += sum(tokens.is_cut for tokens in read)
        result.re_encoded += sum(
            tokens.answer_ids != (answer.token_ids or ())[: len(tokens.answer_ids)]
            for tokens, answer in zip(read, ranking.answers, strict=True)
        )
    result.prompts = [_joined(members) for members in by_prompt.values()]
    return result


def _says_nothing(ranking: Ranking, read: Sequence[JudgedTokens]) -> str | None:
    """Why nothing can be learned from a ranking, if that is so."""
    for better, worse in ranking.pairs():
        if read[better].answer_ids == read[worse].answer_ids:
            why = "once their ends are cut off" if read[better].is_cut else "as tokens"
            return f"answers {better} and {worse} are the same {why}, and one is ranked above the other"
    if ranking.line is None and not ranking.pairs():
        return "all answers are tied and no line is drawn, so it says nothing"
    return None


def _joined(members: Sequence[tuple[Ranking, list[JudgedTokens]]]) -> RankedPrompt:
    places: dict[tuple[int, ...], int] = {}
    answers: list[Answer] = []
    placed = []
    for ranking, read in members:
        for answer, tokens in zip(ranking.answers, read, strict=True):
            if tokens.answer_ids not in places:
                places[tokens.answer_ids] = len(answers)
                answers.append(answer)
        placed.append(_placed(ranking, [places[tokens.answer_ids] for tokens in read]))
    first, read = members[0]
    return RankedPrompt(
        prompt=first.prompt,
        prompt_ids=read[0].prompt_ids,
        answers=tuple(answers),
        answer_ids=tuple(places),
        rankings=tuple(placed),
    )


def _placed(ranking: Ranking, places: Sequence[int]) -> Placed:
    order: list[Sequence[int]] = [*ranking.order, *([ranking.unranked] if ranking.unranked else [])]
    tiers = {answer: tier for tier, members in enumerate(order) for answer in members}
    if ranking.line is not None:
        tiers = {answer: tier + (tier >= ranking.line) for answer, tier in tiers.items()}
    return Placed(
        answers=tuple(places),
        tiers=tuple(tiers[answer] for answer in range(len(ranking.answers))),
        line=ranking.line,
        weight=ranking.weight,
        rater=ranking.rater,
    )
