"""The simplest judges that a reward model must beat: longer is better, and a bag of words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from ventaja.training.ranked import RankedPrompt

MOST_WORDS = 20_000


def lengths(prompts: Sequence[RankedPrompt]) -> np.ndarray:
    """How many tokens each answer has, prompt by prompt."""
    return np.array([len(ids) for p in prompts for ids in p.answer_ids], dtype=float)


def bag_of_words(train: Sequence[RankedPrompt], prompts: Sequence[RankedPrompt]) -> np.ndarray:
    """Scores of the answers of `prompts` by which words are in them: Bradley–Terry, fitted to all pairs of `train`.

    Logistic regression on differences with an L2 penalty of 1, over the words that are in at least two answers.
    """
    texts = [answer.text for p in train for answer in p.answers]
    counts = Counter(word for text in texts for word in _words(text))
    known = [word for word, count in counts.most_common(MOST_WORDS) if count > 1]
    places = {word: i for i, word in enumerate(known)}
    better, worse, weight = _pairs(train)
    if not known or not len(better):
        return np.zeros(sum(len(p.answers) for p in prompts))
    table = _table(texts, places)
    difference = table[better] - table[worse]

    def penalised(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = difference @ w
        loss = weight @ np.logaddexp(0, -margin) + 0.5 * w @ w
        gradient = -difference.T @ (weight / (1 + np.exp(np.clip(margin, -500, 500)))) + w
        return float(loss), gradient

    w = minimize(penalised, np.zeros(len(known)), jac=True, method="L-BFGS-B").x
    return _table([answer.text for p in prompts for answer in p.answers], places) @ w


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+|[^\w\s]", text.lower()))


def _table(texts: Sequence[str], places: dict[str, int]) -> csr_matrix:
    """Which of the known words are in each text."""
    found = [sorted(places[word] for word in _words(text) if word in places) for text in texts]
    ends = np.cumsum([0, *map(len, found)])
    columns = np.array([place for each in found for place in each], dtype=int)
    return csr_matrix((np.ones(len(columns)), columns, ends), shape=(len(texts), len(places)))


def _pairs(prompts: Sequence[RankedPrompt]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The better and the worse answer of each pair, among the answers of all prompts, and how much it counts: all pairs of a
    ranking together as much as the ranking."""
    rows, start = [], 0
    for p in prompts:
        for ranking in p.rankings:
            pairs = ranking.pairs()
            rows += [
                (start + ranking.answers[i], start + ranking.answers[j], ranking.weight / len(pairs))
                for i, j, _ in pairs
            ]
        start += len(p.answers)
    better, worse, weight = (np.array(column) for column in zip(*rows, strict=True)) if rows else ([],) * 3
    return np.asarray(better, dtype=int), np.asarray(worse, dtype=int), np.asarray(weight, dtype=float)
