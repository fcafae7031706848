"""What is kept, who is given what, and what the file is when something goes wrong."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter

import pytest

from ventaja.errors import RankingError
from ventaja.rankings import Added, Item, Judged, Order, Plan, StaleError, Store, next_showing, progress
from ventaja.rankings.items import items_of
from ventaja.records import Answer, Prompt, Ranking

GIVEN = Plan(way="given")


def item(name, answers=3):
    return Item(
        prompt=Prompt(id=name, content=f"{name}?", columns={"solution": 3}),
        answers=tuple(
            Answer(text=f"{name} {i}", source=f"model {i}", token_ids=(i, 2)) for i in range(answers)
        ),
    )


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    with Store(tmp_path / "r.db", clock=clock) as store:
        store.add([item("p"), item("q"), item("r")])
        yield store


def judge(store, showing, order=Order(tiers=((0,), (1, 2)), line=1), **more):  # noqa: B008
    judged = Judged(
        **{"key": f"k{showing.id}.{showing.version}", "seen": showing.version, "order": order, **more}
    )
    return store.judge(showing.id, showing.rater, judged)


def test_what_is_said_comes_back(store):
    showing = next_showing(store, store.rater("ana"), GIVEN)
    assert judge(store, showing, seconds=3.5) == 1
    [ranking] = store.rankings()
    assert ranking == Ranking(
        prompt=item("p").prompt, answers=item("p").answers, order=((0,), (1, 2)), line=1, rater="ana"
    )


def test_a_change_is_a_new_event_and_the_old_one_stays(store):
    showing = next_showing(store, store.rater("ana"), GIVEN)
    judge(store, showing)
    again = store.showing(showing.id, showing.rater)
    assert judge(store, again, Order(tiers=((2,),))) == 2
    assert store.rankings()[0].order == ((2,),)
    assert store.rankings()[0].line is None
    with store.reading() as db:
        kept = [
            tuple(row)
            for row in db.execute("SELECT version, tiers FROM event WHERE kind = 'ranked' ORDER BY id")
        ]
    assert kept == [(1, "[[0], [1, 2]]"), (2, "[[2]]")]


def test_no_event_can_be_changed_or_deleted(store):
    judge(store, next_showing(store, store.rater("ana"), GIVEN))
    for statement in (
        "UPDATE event SET tiers = '[]'",
        "DELETE FROM event",
        "UPDATE showing SET shown = '[]'",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="never"), store.writing() as db:
            db.execute(statement)


def test_the_same_submit_twice_counts_once(store):
    showing = next_showing(store, store.rater("ana"), GIVEN)
    assert judge(store, showing) == judge(store, showing) == 1
    assert len(store.rankings()) == 1


def test_a_stale_page_changes_nothing(store):
    showing = next_showing(store, store.rater("ana"), GIVEN)
    judge(store, showing)
    with pytest.raises(StaleError, match=r"version 1, this page shows 0"):
        judge(store, showing, Order(tiers=((1,),)), key="another tab")
    with pytest.raises(StaleError):
        judge(store, showing, Order(tiers=((1,),)))  # the same key for something else
    with pytest.raises(StaleError):
        store.draft(showing.id, showing.rater, 0, Order(tiers=((1,),)))
    assert store.rankings()[0].order == ((0,), (1, 2))


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (Order(tiers=((0,), (0,))), "names answer 0 twice"),
        (Order(tiers=((3,),)), r"names answer 3, but the prompt has 3 \(0–2\)"),
        (Order(tiers=((0,),), line=2), "'line' is 2"),
        (Order(tiers=()), "the order is empty"),
    ],
)
def test_an_order_that_does_not_fit_is_refused(store, order, says):
    showing = next_showing(store, store.rater("ana"), GIVEN)
    with pytest.raises(RankingError, match=says):
        judge(store, showing, order)
    assert store.rankings() == []


def test_nobody_judges_for_another(store):
    showing = next_showing(store, store.rater("ana"), GIVEN)
    ben = store.rater("ben")
    assert store.showing(showing.id, ben.id) is None
    with pytest.raises(RankingError, match="was not shown to you"):
        store.judge(showing.id, ben.id, Judged(key="k", seen=0, order=None))


def test_drafts_and_flags(store):
    ana = store.rater("ana")
    showing = next_showing(store, ana, GIVEN)
    store.draft(showing.id, ana.id, 0, Order(tiers=((1,),), line=0))
    store.flag(showing.id, ana.id, " wrong language ")
    again = next_showing(store, ana, GIVEN)
    assert (again.id, again.draft, again.comment) == (
        showing.id,
        Order(tiers=((1,),), line=0),
        "wrong language",
    )
    judge(store, showing)
    assert store.showing(showing.id, ana.id).draft is None
    assert [(flag["rater"], flag["comment"]) for flag in store.flags()] == [("ana", "wrong language")]
    store.flag(showing.id, ana.id, "")
    assert store.flags() == []


def test_a_skip_goes_to_others_and_can_be_taken_back(store):
    ana, ben = store.rater("ana"), store.rater("ben")
    showing = next_showing(store, ana, GIVEN)
    judge(store, showing, None)
    assert store.rankings() == []
    assert next_showing(store, ana, GIVEN).item == 2
    assert next_showing(store, ben, GIVEN).item == 1
    assert [row["state"] for row in store.history(ana.id)] == ["skipped"]
    judge(store, store.showing(showing.id, ana.id))
    assert [row["state"] for row in store.history(ana.id)] == ["ranked"]


def test_the_same_item_is_added_once(store):
    assert store.add([item("p"), item("new")]) == Added(new=1, known=1, rankings=0, said_before=0)


# ------------------------------------------------------------------------------------------------ who is given what


def test_asked_again_it_is_the_same_until_judged(store):
    ana = store.rater("ana")
    first = next_showing(store, ana, GIVEN)
    assert next_showing(store, ana, GIVEN) == first
    judge(store, first)
    assert next_showing(store, ana, GIVEN).item == 2


def test_each_item_goes_to_so_many_raters_and_to_none_twice(store):
    raters = [store.rater(name) for name in "abcd"]
    seen = Counter()
    while True:
        found = [(r, s) for r in raters if (s := next_showing(store, r, Plan(raters_per_item=2)))]
        if not found:
            break
        for rater, showing in found:
            seen[showing.item, rater.name] += 1
            judge(store, showing)
    assert set(seen.values()) == {1}
    assert Counter(item for item, _ in seen) == {1: 2, 2: 2, 3: 2}


def test_what_is_abandoned_comes_back(store, clock):
    ana, ben = store.rater("ana"), store.rater("ben")
    plan = Plan(way="given", abandoned_after=60.0)
    left = next_showing(store, ana, plan)
    assert next_showing(store, ben, plan).item == 2
    clock.now += 61
    # ben has an item open, and keeps it; carl gets what ana left
    carl = store.rater("carl")
    taken = next_showing(store, carl, plan)
    assert taken.item == left.item == 1
    judge(store, taken)
    assert next_showing(store, ana, plan).item != 1
    # but what ana hands in all the same is kept
    judge(store, left)
    assert Counter(r.prompt.id for r in store.rankings()) == {"p": 2}


def test_what_was_taken_over_and_skipped_goes_back(store, clock):
    ana, ben = store.rater("ana"), store.rater("ben")
    plan = Plan(way="given", abandoned_after=60.0)
    left = next_showing(store, ana, plan)
    clock.now += 61
    taken = next_showing(store, ben, plan)
    assert taken.item == left.item
    assert next_showing(store, ana, plan).item == 2  # ben has it now
    judge(store, taken, None)
    judge(store, next_showing(store, ana, plan))
    assert next_showing(store, ana, plan).id == left.id


def test_the_order_of_answers_is_drawn_and_kept(tmp_path):
    with Store(tmp_path / "r.db") as store:
        store.add([item(f"p{i}", answers=4) for i in range(30)])
        orders = {name: [] for name in "ab"}
        for name in orders:
            rater = store.rater(name)
            while (showing := next_showing(store, rater, Plan(way="given", raters_per_item=2))) is not None:
                orders[name].append(showing.shown)
                judge(store, showing)
                assert store.showing(showing.id, rater.id).shown == showing.shown
        assert len(orders["a"]) == 30
        assert orders["a"] != orders["b"]
        # every answer comes to every place: 30 draws leave out one of 16 with (3/4)^30 · 16 < 0.3 %
        assert {(place, at) for shown in orders["a"] for at, place in enumerate(shown)} == {
            (i, j) for i in range(4) for j in range(4)
        }


def test_least_sure_first(store):
    assert store.prioritise({"q": 0.5, "r": 0.9, "nowhere": 1.0}) == (2, ["nowhere"])
    ana = store.rater("ana")
    got = []
    while (showing := next_showing(store, ana, Plan(way="uncertain"))) is not None:
        got.append(showing.prompt.id)
        judge(store, showing)
    assert got == ["r", "q", "p"]


def test_progress(store, clock):
    ana, ben = store.rater("ana"), store.rater("ben")
    judge(store, next_showing(store, ana, GIVEN), seconds=4.0)
    judge(store, next_showing(store, ana, GIVEN), None)
    stand = progress(store, ana, GIVEN)
    assert (stand.ranked, stand.skipped, stand.left, stand.pace) == (1, 1, 1, 4)
    assert progress(store, ben, GIVEN).left == 2


def test_many_threads_lose_and_double_nothing(tmp_path):
    plan = Plan(raters_per_item=2)
    with Store(tmp_path / "r.db") as store:
        store.add([item(f"p{i}") for i in range(20)])
        names = [f"rater {i}" for i in range(6)]
        broken = []

        def work(name):
            try:
                rater = store.rater(name)
                while (showing := next_showing(store, rater, plan)) is not None:
                    judge(store, showing)
            except Exception as error:
                broken.append(error)

        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert broken == []
        said = Counter((r.prompt.id, r.rater) for r in store.rankings())
        assert set(said.values()) == {1}
        assert set(Counter(prompt for prompt, _ in said).values()) == {2}
        assert len(said) == 40


# ------------------------------------------------------------------------------------------------ the file


def test_a_round_trip_keeps_ties_line_and_rater(store, tmp_path):
    given = [
        Ranking(prompt=Prompt(id="x", content=({"role": "user", "content": "hola"},)),
                answers=(Answer(text="a"), Answer(text="b", source="m"), Answer(text="c", token_ids=(1,))),
                order=order, line=line, rater=rater, weight=weight)
        for order, line, rater, weight in (
            (((2,), (0, 1)), 1, "ana", 1.0), (((1,),), None, "ben", 0.5), ((), 0, "carl", 1.0), (((0,),), 0, "", 1.0),
        )
    ]  # fmt: skip
    with Store(tmp_path / "other.db") as other:
        assert other.add(items_of(given)) == Added(new=1, known=0, rankings=4, said_before=0)
        assert other.rankings() == given
        assert other.add(items_of(given)) == Added(new=0, known=1, rankings=0, said_before=4)
        assert other.rankings() == given


def test_rankings_whose_answers_stand_in_another_order_are_one_item():
    prompt = Prompt(id="x", content="x")
    a, b = Answer(text="a"), Answer(text="b")
    [one] = items_of(
        [
            Ranking(prompt=prompt, answers=(a, b), order=((0,), (1,)), rater="ana"),
            Ranking(prompt=prompt, answers=(b, a), order=((0,), (1,)), rater="ben"),
        ]
    )
    assert [r.order for r in one.rankings] == [((0,), (1,)), ((1,), (0,))]
    assert one.rankings[1].answers == (a, b)


def test_a_newer_file_is_refused(tmp_path):
    Store(tmp_path / "r.db").close()
    with sqlite3.connect(tmp_path / "r.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(RankingError, match="newer Ventaja.*version 99; this one knows 1.*Update Ventaja"):
        Store(tmp_path / "r.db")


def test_a_file_of_something_else_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE bookmarks (x)")
    db.close()
    with pytest.raises(RankingError, match="a database of something else"):
        Store(tmp_path / "other.db")
    (tmp_path / "note.txt").write_text("no database at all, but long enough to have a header " * 20)
    with pytest.raises(RankingError, match="damaged, or is none.*backup"):
        Store(tmp_path / "note.txt")
    with pytest.raises(RankingError, match="this is a folder"):
        Store(tmp_path)
    with pytest.raises(RankingError, match=r"there is no such file. Did you mean .*other.db"):
        Store(tmp_path / "othr.db", create=False)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "r.db"
    with Store(path) as store:
        store.add([item(f"p{i}", answers=8) for i in range(200)])
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + os.urandom(len(whole) // 2) + whole[8192 + len(whole) // 2 :])
    with pytest.raises(RankingError, match="damaged.*Nothing was changed.*backup"):
        Store(path)


def test_a_full_disk_loses_nothing_that_was_saved(store):
    ana = store.rater("ana")
    judge(store, next_showing(store, ana, GIVEN))
    showing = next_showing(store, ana, GIVEN)
    with store.reading() as db:  # no page more than there are: what a full disk looks like to SQLite
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    store._connection().execute(f"PRAGMA max_page_count = {pages}")

    def fill():
        for _ in range(200):
            store.flag(showing.id, ana.id, "x" * 2000)

    with pytest.raises(RankingError, match="disk is full.*saved before is safe.*Make room"):
        fill()
    store._connection().execute("PRAGMA max_page_count = 1000000")
    assert len(store.rankings()) == 1
    judge(store, showing)
    assert len(store.rankings()) == 2


def test_a_backup_while_somebody_writes(store, tmp_path):
    judge(store, next_showing(store, store.rater("ana"), GIVEN))
    with store.reading() as db:
        db.execute("SELECT count(*) FROM event").fetchone()
        other = threading.Thread(target=lambda: judge(store, next_showing(store, store.rater("ben"), GIVEN)))
        other.start()
        other.join()
    store.backup(tmp_path / "copy.db")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("copy")) == ["copy.db"]
    with Store(tmp_path / "copy.db", create=False) as copy:
        assert copy.rankings() == store.rankings()
        assert len(copy.rankings()) == 2
    with pytest.raises(RankingError, match="cannot be that file"):
        store.backup(store.path)


def test_only_the_owner_may_read_it(store, tmp_path):
    if os.name == "posix":
        assert store.path.stat().st_mode & 0o77 == 0
        store.backup(tmp_path / "copy.db")
        assert (tmp_path / "copy.db").stat().st_mode & 0o77 == 0


def test_what_was_confirmed_is_there_after_a_kill(tmp_path):
    """A process says each ranking aloud once it is saved, and is killed in the middle of it."""
    path = tmp_path / "r.db"
    with Store(path) as store:
        store.add([item(f"p{i}") for i in range(3000)])
    script = (
        "import sys; from ventaja.rankings import *\n"
        "store = Store(sys.argv[1]); ana = store.rater('ana')\n"
        "while (s := next_showing(store, ana, Plan())) is not None:\n"
        "    store.judge(s.id, ana.id, Judged(key=str(s.id), seen=0, order=Order(tiers=((1,), (0,)))))\n"
        "    print(s.prompt.id, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    said = [process.stdout.readline().strip() for _ in range(40)]
    process.send_signal(signal.SIGKILL)
    said += process.stdout.read().split()
    process.wait()
    process.stdout.close()
    with Store(path, create=False) as store:
        kept = Counter(ranking.prompt.id for ranking in store.rankings())
    assert set(said) <= set(kept)
    assert len(kept) - len(said) <= 1  # one may have been saved and not said yet
    assert set(kept.values()) == {1}
