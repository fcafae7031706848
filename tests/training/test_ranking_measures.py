"""Agreement with held-out rankings, by hand; the simplest rivals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.special import expit
from tiny_task import policy

from ventaja.records import Answer, Prompt, Ranking
from ventaja.tracking import RunFolder, write_report
from ventaja.tracking.held_out import write_held_out
from ventaja.training.ranked import RankedPrompt, tokenise
from ventaja.training.ranking_batch import bootstrap, ranked_batch
from ventaja.training.ranking_measures import Scores, agreement, summary
from ventaja.training.rivals import bag_of_words, lengths


def ranked(*given) -> list[RankedPrompt]:
    rankings = [
        Ranking(
            prompt=Prompt(id=f"p{number}", content=f"say {'abcdefgh'[prompt]}"),
            answers=tuple(Answer(text=text) for text in texts),
            order=order,
            line=line,
        )
        for number, (prompt, texts, order, line) in enumerate(given)
    ]
    found = tokenise(policy(), rankings, max_tokens=None)
    assert not found.unused
    return found.prompts


def measured(prompts, scores, *, line=None, **more):
    table = np.array(scores, dtype=float).reshape(len(scores), -1)
    line_E = None if line is None else np.full(table.shape[1], float(line))
    return agreement(prompts, ranked_batch(prompts), Scores(score_SE=table, line_E=line_E), **more)


# answers of 1, 2, 3 letters, and 1, 2: their ends are a token more
PROMPTS = ((0, ["a", "bb", "ccc"], ((0,), (1,), (2,)), None), (1, ["d", "ee"], ((0,), (1,)), None))


def test_accuracy_by_hand():
    # the first prompt: 0 > 2 > 1, so of 01, 02, 12 the last is wrong; the second is a draw
    found = measured(ranked(*PROMPTS), [3.0, 1.0, 2.0, 5.0, 5.0])
    assert found["accuracy"]["share"] == pytest.approx(2.5 / 4)
    assert found["accuracy_by_answers"]["3"] | {"standard_error": 0} == {
        "pairs": 3, "share": pytest.approx(2 / 3), "standard_error": 0,
    }  # fmt: skip
    assert found["accuracy_by_answers"]["2"]["share"] == 0.5
    # neighbours: 01 right, 12 wrong, de a draw; two apart: right
    assert found["accuracy_by_tiers_between"]["1"]["share"] == pytest.approx(1.5 / 3)
    assert found["accuracy_by_tiers_between"]["2"]["share"] == 1.0
    # off the mean of 5/8: 2 − 15/8 and ½ − 5/8, of 4 pairs
    assert found["accuracy"]["standard_error"] == pytest.approx(math.sqrt(2 * 0.125**2) / 4)
    # τ of 123 against 132 is 1/3, and equal scores say nothing
    assert found["kendall_tau"] == {"rankings": 2, "mean": pytest.approx(1 / 6)}


def test_calibration_by_hand():
    found = measured(ranked(*PROMPTS), [3.0, 1.0, 2.0, 5.0, 5.0])["calibration"]
    # σ(2) = .881 and σ(1) = .731 right, σ(1) = .731 wrong, σ(0) = ½ half right
    chances = {round(b["predicted"], 3): (b["pairs"], b["right"]) for b in found["bins"]}
    assert chances == {0.5: (1, 0.5), 0.731: (2, 0.5), 0.881: (1, 1.0)}
    expected = (2 * (expit(1) - 0.5) + (1 - expit(2))) / 4
    assert found["expected_error"] == pytest.approx(expected)


def test_the_loss_counts_the_line():
    # w = e, 1 and the line's 1 between them: e/(e + 2) · 1/2
    prompts = ranked((0, ["a", "b"], ((0,), (1,)), 1))
    assert measured(prompts, [1.0, 0.0], line=0.0)["loss"] == pytest.approx(
        -math.log(math.e / (math.e + 2) / 2)
    )
    assert measured(prompts, [1.0, 0.0])["loss"] == pytest.approx(math.log1p(math.exp(-1)))
    found = measured(prompts, [1.0, 0.5], line=0.2)["line"]
    assert (found["answers"], found["accuracy"]) == (2, 0.5)


def test_tiers_between_do_not_count_the_line():
    prompts = ranked((0, ["a", "b"], ((0,), (1,)), 1), (1, ["a", "b"], ((0,), (1,)), 2))
    assert list(measured(prompts, [1.0, 0.0, 1.0, 0.0])["accuracy_by_tiers_between"]) == ["1"]


def test_ties_are_told_apart():
    prompts = ranked((0, ["a", "b", "c"], ((0, 1), (2,)), None))
    found = measured(prompts, [2.0, 1.5, 0.0])["ties"]
    assert found == {"pairs": 1, "mean_difference": 0.5, "mean_difference_of_others": 1.75}


def test_a_bias_by_length_is_said():
    many = ranked(*[(i, ["a", "bbbb"], ((0,), (1,)) if i % 2 else ((1,), (0,)), None) for i in range(8)])
    longer = lengths(many)
    assert longer.tolist() == [2.0, 5.0] * 8
    found = measured(many, longer)["length"]
    assert (found["model_prefers_longer"], found["raters_prefer_longer"]) == (1.0, 0.5)
    assert found["said"].startswith(
        "Length bias: of two answers of different length the longer one scores higher in 100%"
    )
    assert "favours longer answers" in found["said"]
    fair = [1.0 if (i % 2 == 0) == (k == 1) else 0.0 for i in range(8) for k in range(2)]
    assert "no bias is seen" in measured(many, fair)["length"]["said"]


def test_rivals_are_measured_alike():
    prompts = ranked(*PROMPTS)
    found = measured(prompts, [0.0] * 5, rivals={"longer": lengths(prompts)})
    assert found["rivals"]["longer"]["share"] == 0.0  # the longer one is always the worse


def test_a_bag_of_words_learns_words():
    train = ranked(*[(i, ["a good b", "a bad b"], ((0,), (1,)), None) for i in range(6)])
    prompts = ranked((7, ["bad bad c", "good"], ((1,), (0,)), None))
    scores = bag_of_words(train, prompts)
    assert scores[1] > 0 > scores[0]
    assert scores[1] == pytest.approx(-scores[0])
    nothing = ranked((0, ["x", "y"], ((0,), (1,)), None))  # words that come once
    assert bag_of_words(nothing, prompts).tolist() == [0.0, 0.0]


def test_an_ensembles_heads_are_measured_each():
    found = measured(ranked(PROMPTS[1]), [[1.0, 0.0], [0.0, 1.0]])
    assert found["ensemble"]["accuracies"] == [1.0, 0.0]
    assert found["ensemble"]["spread"] == 0.5
    assert found["accuracy"]["share"] == 0.5


def test_the_bootstrap_is_found_again_and_has_mean_1():
    import torch

    weight = bootstrap(3)(torch.arange(2000), 2)
    assert torch.equal(weight[[7]], bootstrap(3)(torch.tensor([7]), 2))
    assert weight.mean(dim=0).tolist() == pytest.approx([1.0, 1.0], abs=0.08)
    assert weight.std(dim=0).tolist() == pytest.approx([1.0, 1.0], abs=0.1)


def test_the_report_shows_it_and_the_file_is_json(tmp_path):
    prompts = ranked(*PROMPTS)
    folder = RunFolder.create(tmp_path / "run", {"model": "m"}, command="")
    found = measured(prompts, [3.0, 1.0, 2.0, 5.0, 5.0], rivals={"longer": lengths(prompts)})
    write_held_out(folder.path, {"step": 3, **found, "raters": {"<ada>": 0.9}})
    assert summary(found)["eval/accuracy"] == 0.625
    assert json.loads((folder.path / "held_out.json").read_text())["step"] == 3
    page = write_report(folder.path).read_text()
    assert "Held-out rankings" in page
    assert "62.5%" in page
    assert "the longer answer is better" in page
    assert "&lt;ada&gt;" in page
    assert "Calibration" in page
    assert page.count("<svg") == 3


def test_nothing_to_compare_says_nothing():
    found = measured(ranked((0, ["a"], ((0,),), 1)), [1.0], line=0.0)
    assert found["accuracy"] == {"pairs": 0, "share": None, "standard_error": None}
    assert found["kendall_tau"]["mean"] is None
    assert "nothing is known" in found["length"]["said"]
    assert set(summary(found)) == {"eval/loss", "eval/line_accuracy"}
