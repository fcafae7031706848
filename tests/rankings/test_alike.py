"""Which answers say the same, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ventaja.rankings.alike import distinct


def test_the_same_text_up_to_capitals_and_spaces() -> None:
    assert distinct(["Hello  there", "hello there\n", "ＨＥＬＬＯ there", "Hello"], alike=1.0) == [0, 3]


def test_near_texts_and_where_near_ends() -> None:
    # 20 letters each, one of them another: 1 insertion and 1 deletion in 40 letters leave 38/40 = 0.95
    one, other = "a" * 20, "a" * 19 + "b"
    assert distinct([one, other], alike=0.95) == [0]
    assert distinct([one, other], alike=0.951) == [0, 1]
    assert distinct([one, other], alike=None) == [0, 1]
    assert distinct([one, one], alike=None) == [0, 1]


def test_other_numbers_are_another_answer() -> None:
    sums = [f"First we add the two, and so the result of the sum is {n}." for n in (12, 13, 12)]
    assert distinct(sums, alike=0.9) == [0, 1]


@given(
    texts=st.lists(st.text("ab ", max_size=6), max_size=6), alike=st.sampled_from([None, 0.3, 0.7, 0.95, 1.0])
)
def test_what_stays(texts: list[str], alike: float | None) -> None:
    kept = distinct(texts, alike=alike)
    assert kept == sorted(set(kept))
    assert bool(kept) == bool(texts)
    again = [texts[place] for place in kept]
    assert distinct(again, alike=alike) == list(range(len(again)))
    if alike is not None:
        assert len(distinct([*texts, *texts], alike=alike)) == len(kept)


@pytest.mark.parametrize("text", ["", "שלום 👩‍👩‍👧", "x" * 10_000])
def test_odd_texts(text: str) -> None:
    assert distinct([text, text, "else"], alike=0.95) == [0, 2]
