"""What a ranking may say, and the pairs that it tells apart."""

import pytest

from ventaja.records import Answer, Prompt, Ranking

PROMPT = Prompt(id="p", content="?")


def ranking(order, *, answers=4, **more):
    texts = tuple(Answer(text=f"answer {i}") for i in range(answers))
    return Ranking(prompt=PROMPT, answers=texts, order=order, **more)


def test_pairs_by_hand():
    # 2 > (0 = 3) > 1: two beat by 2 and one by 2 as well, two beat 1; 0 and 3 are tied
    assert ranking(((2,), (0, 3), (1,))).pairs() == [(2, 0), (2, 3), (2, 1), (0, 1), (3, 1)]


def test_what_is_in_no_tier_is_worse_and_unordered():
    top = ranking(((1,),))
    assert top.unranked == (0, 2, 3)
    assert top.pairs() == [(1, 0), (1, 2), (1, 3)]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"order": ((0,), (4,))}, r"'order' names answer 4, but the prompt has 4 \(0–3\)"),
        ({"order": ((0, 1), (0,))}, "'order' names answer 0 twice"),
        ({"order": ((0,), ())}, "'order' has an empty tier"),
        ({"order": ((0,), (1,)), "line": 3}, r"'line' is 3, but there are 2 tiers \(0–2\)"),
        ({"order": ((0,),), "answers": 1}, "compares at least two answers, and this has 1"),
        ({"order": ((0,),), "weight": 0.0}, "'weight' must be above 0"),
    ],
)
def test_what_a_ranking_cannot_be(given, says):
    with pytest.raises(ValueError, match=says):
        ranking(**given)


def test_a_line_makes_one_answer_worth_a_word():
    assert ranking(((0,),), answers=1, line=0).pairs() == []
