"""A synthetic judge that stands in for people, so that the whole chain can be run and measured without any.

Nobody's opinion is in it: its gold score is how cheerful a reply sounds, by VADER's lexicon and rules (Hutto and Gilbert,
ICWSM 2014; the package vaderSentiment, MIT). It can be gamed, and how is known: praise without any content, such as "Great! I
love it!", has the highest scores. What a policy does to a reward model that learned from it can therefore be seen.

    python examples/rlhf/judge.py answers.parquet rankings.jsonl     # `ventaja sample` wrote the first file
"""

import argparse
import functools
import re
from pathlib import Path

import numpy as np
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from ventaja.environments import completion_text
from ventaja.rankings import write_rankings
from ventaja.records import Answer, Ranking, read_groups, read_rollouts

RATER = "synthetic judge"
NOISE, TIE, ACCEPTABLE = 0.1, 0.03, 0.3
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")


def judge(text):
    """The gold score: the mean over sentences of VADER's compound sentiment, from −1 (gloomy) to 1 (cheerful); 0 of none.

    A whole reply's compound nears ±1 with its length, and a mean does not: neither length nor one warm word at the end is
    enough.
    """
    sentences = [sentence for sentence in SENTENCE.split(text) if sentence.strip()]
    if not sentences:
        return 0.0
    return sum(_vader().polarity_scores(sentence)["compound"] for sentence in sentences) / len(sentences)


def gold(completions):
    """The gold score as a reward function: `reward: {functions: [examples/rlhf/judge.py:gold]}`."""
    return [judge(completion_text(completion)) for completion in completions]


def rank(group, rng, *, sources=None, noise=NOISE, tie=TIE, acceptable=ACCEPTABLE):
    """The synthetic judge's ranking of a group's answers.

    Gumbel noise of scale `noise` on each score makes the order one of Plackett–Luce with strengths exp(score / noise): of two
    answers a is ranked above b with probability σ((score_a − score_b) / noise). The line is one more item, of score
    `acceptable`. An answer whose noisy score is within `tie` of the best of a tier is in it.

    Args:
        group: a prompt with its answers.
        rng: NumPy's random generator.
        sources: who gave each answer; nobody, if left out.
        noise, tie, acceptable: in units of the score; 0 noise is a judge who never errs.
    """
    scores = [judge(trajectory.text) for trajectory in group.trajectories]
    noisy = np.array([*scores, acceptable]) + noise * rng.gumbel(size=len(scores) + 1)
    tiers = []
    for place in np.argsort(-noisy[:-1], kind="stable").tolist():
        if tiers and noisy[tiers[-1][0]] - noisy[place] <= tie:
            tiers[-1].append(place)
        else:
            tiers.append([place])
    return Ranking(
        prompt=group.prompt,
        answers=tuple(
            Answer(text=trajectory.text, token_ids=trajectory.token_ids, source=source)
            for trajectory, source in zip(group.trajectories, sources or [""] * len(group), strict=True)
        ),
        order=tuple(map(tuple, tiers)),
        line=sum(bool(noisy[tier[0]] > noisy[-1]) for tier in tiers),
        rater=RATER,
    )


def rank_file(path, *, seed=0, **options):
    """One ranking of each group of a file that `ventaja sample` wrote; those of a prompt follow from the seed and its place."""
    sources = iter(read_rollouts(path)["source"].to_pylist())
    return [
        rank(
            group,
            np.random.default_rng([seed, place]),
            sources=[next(sources) for _ in group.trajectories],
            **options,
        )
        for place, group in enumerate(read_groups(path))
    ]


@functools.cache
def _vader():
    return SentimentIntensityAnalyzer()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Rank answers as a synthetic judge that stands in for people."
    )
    parser.add_argument("answers", type=Path, help="A file of `ventaja sample`.")
    parser.add_argument("rankings", type=Path, help="The .jsonl or .parquet file to write.")
    parser.add_argument("--seed", type=int, default=0)
    for name, default in (("noise", NOISE), ("tie", TIE), ("acceptable", ACCEPTABLE)):
        parser.add_argument(f"--{name}", type=float, default=default, help=f"(default: {default})")
    given = parser.parse_args()
    ranked = rank_file(
        given.answers, seed=given.seed, noise=given.noise, tie=given.tie, acceptable=given.acceptable
    )
    write_rankings(given.rankings, ranked)
    print(f"{given.rankings}: {len(ranked)} rankings by the {RATER}.")
