"""Agreement by hand, beside the package `krippendorff`, and on a store."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ventaja.rankings import Item, Judged, Order, Plan, Store, agreement, next_showing
from ventaja.rankings.agreement import krippendorff_alpha, ranks_of
from ventaja.rankings.alpha import ordinal_alpha
from ventaja.records import Answer, Prompt


def test_ranks_by_hand():
    # best: 2; then 0 and 3 share places 2 and 3; 1 and 4 are not placed and share 4 and 5
    assert ranks_of(((2,), (0, 3)), 5) == (2.5, 4.5, 1.0, 2.5, 4.5)


def test_alpha_by_hand():
    # Two raters, two units: (1, 1) and (2, 2) agree wholly.
    assert ordinal_alpha(np.array([[1.0, 2.0], [1.0, 2.0]])) == 1
    # Opposed: (1, 2) and (2, 1). n = 4, n_1 = n_2 = 2, o_12 = o_21 = 2, δ is one number, which falls out:
    # α = 1 − 3 · (2 + 2) / (2 · 2 · 2) = 1 − 12/8 = −1/2
    assert ordinal_alpha(np.array([[1.0, 2.0], [2.0, 1.0]])) == pytest.approx(-0.5, abs=1e-15)


def test_alpha_where_there_is_none():
    assert ordinal_alpha(np.array([[1.0, np.nan], [np.nan, 2.0]])) is None
    assert ordinal_alpha(np.array([[1.0, 1.0], [1.0, 1.0]])) is None
    assert krippendorff_alpha({1: {"a": (1.0, 2.0)}}) is None


@given(
    st.lists(
        st.lists(st.sampled_from([1.0, 1.5, 2.0, 3.0, 4.0, float("nan")]), min_size=3, max_size=3),
        min_size=1,
        max_size=8,
    )
)
def test_alpha_is_the_packages(units):
    package = pytest.importorskip("krippendorff")
    values = np.array(units).T
    ours = ordinal_alpha(values)
    if ours is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = package.alpha(reliability_data=values, level_of_measurement="ordinal")
        assert ours == pytest.approx(theirs, abs=1e-12)


def say(store, rater, item, tiers, line=None, plan=Plan(raters_per_item=9, way="given")):  # noqa: B008
    """The rater says this of the item, which must come next."""
    showing = next_showing(store, rater, plan)
    assert showing is not None
    assert showing.item == item
    judged = Judged(
        key=f"{rater.name} {showing.id}", seen=showing.version, order=Order(tiers=tiers, line=line)
    )
    store.judge(showing.id, rater.id, judged)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "r.db") as store:
        yield store


def item(name, answers=3, **more):
    return Item(
        prompt=Prompt(id=name, content=name),
        answers=tuple(Answer(text=f"{name} {i}") for i in range(answers)),
        **more,
    )


def test_two_raters_by_hand(store):
    store.add([item("p"), item("q")])
    ana, ben = store.rater("ana"), store.rater("ben")
    say(store, ana, 1, ((0,), (1,), (2,)), line=1)
    say(store, ben, 1, ((0,), (2,), (1,)), line=2)
    say(store, ana, 2, ((0, 1), (2,)))
    found = agreement(store)
    # of (0,1), (0,2), (1,2) the first two are ordered alike; of the line, answer 0 is good for both, 1 bad, 2 not alike
    assert found.pairs == pytest.approx(2 / 3)
    assert found.line == pytest.approx(2 / 3)
    assert found.compared == 1
    assert [(r.name, r.ranked, r.with_others) for r in found.raters] == [("ana", 2, 2 / 3), ("ben", 1, 2 / 3)]
    # ranks (1,1), (2,3), (3,2): n_1 = n_2 = n_3 = 2; middles 1, 3, 5; o_11 = 2, o_23 = o_32 = 2
    # observed = 2 · 2 · 4 = 16; expected = 2 · 4 · (4 + 16 + 4) = 192; α = 1 − 5 · 16 / 192 = 7/12
    assert found.alpha == pytest.approx(7 / 12)


def test_full_disagreement_is_below_chance_and_said(store):
    store.add([item("p", answers=2)])
    say(store, store.rater("ana"), 1, ((0,), (1,)))
    say(store, store.rater("ben"), 1, ((1,), (0,)))
    found = agreement(store)
    assert found.pairs == 0
    assert found.alpha == pytest.approx(-0.5)
    assert found.items[0].pairs == 0


def test_gold_and_repeats(store):
    # the right order is 0 > 1 = 2: two pairs are told apart
    store.add([item("gold", gold=Order(tiers=((0,), (1, 2)))), *(item(f"p{i}") for i in range(7))])
    ana = store.rater("ana")
    always_gold = Plan(raters_per_item=1, way="given", gold_every=1)
    say(store, ana, 1, ((1,), (0,), (2,)), plan=always_gold)  # 0 > 2 is right, 0 > 1 is not
    for number in range(2, 9):
        say(store, ana, number, ((0,), (1,), (2,)))
    say(store, ana, 2, ((0,), (2,), (1,)), plan=Plan(repeat_every=1))  # two pairs of three as before
    [rater] = agreement(store).raters
    assert (rater.on_gold, rater.gold) == (1 / 2, 1)
    assert (rater.with_self, rater.repeats) == (2 / 3, 1)
    assert rater.with_others is None
    assert agreement(store).compared == 0
