"""The synthetic judge of the example: its noise is Plackett–Luce, and its prompts are what the script makes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ventaja.rankings import read_rankings
from ventaja.records import Completion, Group, Prompt, StopReason, Trajectory, write_groups

pytest.importorskip("vaderSentiment")
EXAMPLE = Path(__file__).parents[2] / "examples" / "rlhf"


@pytest.fixture
def judge(monkeypatch):
    """The example's module."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import judge

    yield judge
    sys.modules.pop("judge", None)


def group(*texts: str) -> Group:
    return Group(
        prompt=Prompt(id="p", content="?"),
        prompt_ids=(1,),
        trajectories=tuple(
            Trajectory.of(
                Completion(token_ids=(n,), logprobs=(-1.0,), text=text, stop=StopReason.EOS, weight_version=0)
            )
            for n, text in enumerate(texts)
        ),
    )


@pytest.fixture
def scored(judge, monkeypatch):
    """The judge with texts that are their own scores."""
    monkeypatch.setattr(judge, "judge", float)
    return judge


def test_cheerful_sentences_score_high(judge) -> None:
    assert judge.judge("") == judge.judge("The bus is red.") == 0
    assert judge.judge("Great! I love it!") > 0.6 > 0.4 > judge.judge("Great! The bus is red.") > 0
    assert judge.judge("I am sad and angry.") < -0.5
    # a mean over sentences: half of the praise is gone
    assert judge.judge("I love it! The bus is red.") == pytest.approx(judge.judge("I love it!") / 2)
    assert judge.gold(["", [{"role": "assistant", "content": "I love it!"}]]) == [
        0,
        judge.judge("I love it!"),
    ]


def test_without_noise_the_order_is_that_of_the_scores(scored) -> None:
    # 0.9 and 0.88 are tied, 0.84 is 0.06 below the tier's best; two of four tiers are above 0.5
    ranking = scored.rank(
        group("0.1", "0.9", "-0.3", "0.84", "0.88"),
        np.random.default_rng(0),
        noise=0.0,
        tie=0.05,
        acceptable=0.5,
    )
    assert ranking.order == ((1, 4), (3,), (0,), (2,))
    assert ranking.line == 2
    assert ranking.rater == "synthetic judge"
    assert [answer.token_ids for answer in ranking.answers] == [(0,), (1,), (2,), (3,), (4,)]


def test_noise_is_plackett_luce_and_the_line_is_an_item(scored) -> None:
    rng, draws = np.random.default_rng(1), 4000
    said = group("0.3", "0.0", "0.1")
    rankings = [scored.rank(said, rng, noise=0.2, tie=0.0, acceptable=0.2) for _ in range(draws)]
    # strengths exp(score / noise); the order (0, 2, 1) has probability w0/(w0+w1+w2) · w2/(w1+w2)
    w0, w1, w2, line = (math.exp(score / 0.2) for score in (0.3, 0.0, 0.1, 0.2))
    orders = Counter(tuple(tier[0] for tier in ranking.order) for ranking in rankings)
    lines = Counter(ranking.line for ranking in rankings)
    expected = {
        orders[0, 2, 1]: w0 / (w0 + w1 + w2) * w2 / (w1 + w2),
        orders[1, 0, 2]: w1 / (w0 + w1 + w2) * w0 / (w0 + w2),
        lines[0]: line / (line + w0 + w1 + w2),  # the line comes first
    }
    for count, p in expected.items():
        assert abs(count / draws - p) < 4 * math.sqrt(p * (1 - p) / draws)


def test_a_file_is_ranked(judge, tmp_path: Path) -> None:
    answers, rankings = tmp_path / "answers.parquet", tmp_path / "rankings.jsonl"
    write_groups(
        answers,
        [group("I love it!", "It is bad."), group("Fine.", "Awful.")],
        columns={"source": ["a", "b"] * 2},
    )
    command = [sys.executable, str(EXAMPLE / "judge.py"), str(answers), str(rankings)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{rankings}: 2 rankings by the synthetic judge.\n"
    ranked = read_rankings(rankings)
    assert ranked == judge.rank_file(answers)
    assert ranked[0].order[0] == (0,)
    assert [answer.source for answer in ranked[1].answers] == ["a", "b"]


def test_the_prompts_are_what_the_script_makes(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import make_prompts

    made = make_prompts.prompts()
    for name, texts in made.items():
        rows = [json.loads(line) for line in (EXAMPLE / f"{name}.jsonl").read_text().splitlines()]
        assert [row["prompt"][0]["content"] for row in rows] == texts
    assert len(made["prompts"]) + len(made["held_out"]) > 300
    assert len(set(made["prompts"] + made["held_out"])) == len(made["prompts"]) + len(made["held_out"])
    # By topic, not only by prompt: what is held out is asked about in no other way
    held_out = {t for several in make_prompts.TEMPLATES.values() for t in several.split(", ")}
    for text in made["held_out"]:
        topics = [
            t for t in held_out if any(text == template.format(t) for template in make_prompts.TEMPLATES)
        ]
        assert topics
        assert not any(template.format(topics[0]) in made["prompts"] for template in make_prompts.TEMPLATES)
