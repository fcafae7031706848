"""Files of rankings: what is written comes back, what others wrote is read, and nothing is dropped in silence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ventaja.errors import DataError
from ventaja.rankings import read_rankings, write_pairs, write_rankings
from ventaja.records import Answer, Prompt, Ranking

ENDINGS = ("jsonl", "parquet")
CHAT = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "¿Qué tal?"})


def silent(text: str) -> None:
    raise AssertionError(f"nothing is to be said, but: {text}")


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=3,
)


@st.composite
def rankings(draw: st.DrawFn) -> Ranking:
    """Any ranking: ties, open ends, a line anywhere, answers known by their tokens or only by their text."""
    texts = draw(st.lists(TEXTS, min_size=2, max_size=5, unique=True))
    tokens = st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=4).map(tuple)
    answers = tuple(Answer(text=text, token_ids=draw(tokens), source=draw(TEXTS)) for text in texts)
    places = draw(st.permutations(range(len(texts))))[: draw(st.integers(1, len(texts)))]
    order: list[list[int]] = []
    for place in places:
        if order and draw(st.booleans()):
            order[-1].append(place)
        else:
            order.append([place])
    messages = st.lists(
        st.builds(
            lambda role, content: {"role": role, "content": content},
            st.sampled_from(["system", "user", "assistant"]),
            TEXTS,
        ),
        min_size=1,
        max_size=3,
    )
    return Ranking(
        prompt=Prompt(
            id=draw(TEXTS),
            content=draw(TEXTS | messages.map(tuple)),
            columns=draw(st.dictionaries(TEXTS, JSON, max_size=2)),
        ),
        answers=answers,
        order=tuple(map(tuple, order)),
        line=draw(st.none() | st.integers(0, len(order))),
        rater=draw(TEXTS),
        weight=draw(st.floats(0, 1e9, exclude_min=True)),
    )


# The type checker that tests run under draws random items of a list to look at, inside the strategies too.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("ending", ENDINGS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some=st.lists(rankings(), min_size=1, max_size=4))
def test_what_is_written_comes_back(tmp_path: Path, ending: str, some: list[Ranking]) -> None:
    path = tmp_path / f"rankings.{ending}"
    write_rankings(path, some)
    assert read_rankings(path, say=silent) == some


def test_a_line_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "by_hand.jsonl"
    lines(path, {"prompt": "2 + 2?", "answers": ["4", "5", "four", "22"], "order": [[0, 2], 1], "line": 1})
    [ranking] = read_rankings(path, say=silent)
    assert ranking == Ranking(
        prompt=Prompt(id="by_hand.jsonl:1", content="2 + 2?"),
        answers=tuple(Answer(text=text) for text in ("4", "5", "four", "22")),
        order=((0, 2), (1,)),
        line=1,
    )
    assert ranking.unranked == (3,)
    # 0 and 2 beat 1, and all three beat 3, which is in no tier
    assert sorted(ranking.pairs()) == [(0, 1), (0, 3), (1, 3), (2, 1), (2, 3)]


def pair(**columns: Any) -> dict[str, Any]:
    return {"prompt": "Hi?", "chosen": "Hello!", "rejected": "No.", **columns}


TURNS = [{"role": "user", "content": "Hi?"}]
GOOD, BAD = {"role": "assistant", "content": "Hello!"}, {"role": "assistant", "content": "No."}

PAIRS: dict[str, tuple[dict[str, Any], str | tuple[dict[str, str], ...]]] = {
    "text": (pair(), "Hi?"),
    "a chat, answered by turns": (pair(prompt=TURNS, chosen=[GOOD], rejected=[BAD]), tuple(TURNS)),
    "a chat, answered by text": (pair(prompt=TURNS), tuple(TURNS)),
    "text, answered by turns": (pair(chosen=[GOOD], rejected=[BAD]), tuple(TURNS)),
    "no prompt, and two chats": (
        {"chosen": [*CHAT, GOOD], "rejected": [*CHAT, BAD]},
        CHAT,
    ),
    "a prompt that both chats begin with": (
        pair(chosen=[*TURNS, GOOD], rejected=[*TURNS, BAD]),
        tuple(TURNS),
    ),
    "a dialogue as text": (
        {"chosen": "\n\nHuman: Hi?\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi?\n\nAssistant: No."},
        tuple(TURNS),
    ),
}


@pytest.mark.parametrize(("row", "content"), PAIRS.values(), ids=PAIRS)
def test_pairs_are_rankings_of_two(tmp_path: Path, row: dict[str, Any], content: Any) -> None:
    path = lines(tmp_path / "pairs.jsonl", {**row, "margin": 0.5})
    [ranking] = read_rankings(path, say=silent)
    assert ranking.prompt == Prompt(id="pairs.jsonl:1", content=content, columns={"margin": 0.5})
    assert [answer.text for answer in ranking.answers] == ["Hello!", "No."]
    assert ranking.order == ((0,), (1,))


BATTLES: list[tuple[str, tuple[tuple[int, ...], ...], int | None]] = [
    ("model_a", ((0,), (1,)), None),
    ("model_b", ((1,), (0,)), None),
    ("tie", ((0, 1),), None),
    ("tie (bothbad)", ((0, 1),), 0),
    ("both_bad", ((0, 1),), 0),
]


@pytest.mark.parametrize(("winner", "order", "line"), BATTLES)
def test_battles_are_rankings_of_two(tmp_path: Path, winner: str, order: Any, line: int | None) -> None:
    parts = [{"type": "text", "text": "Hello!"}]
    row = {
        "question_id": "7f",
        "model_a": "large",
        "model_b": "small",
        "winner": winner,
        "judge": "arena_user_3",
        "conversation_a": [*TURNS, {**GOOD, "content": parts}],
        "conversation_b": [*TURNS, BAD],
    }
    [ranking] = read_rankings(lines(tmp_path / "arena.jsonl", row), say=silent)
    assert (ranking.order, ranking.line, ranking.rater) == (order, line, "arena_user_3")
    assert ranking.answers == (
        Answer(text="Hello!", source="large"),
        Answer(text="No.", source="small"),
    )
    assert ranking.prompt.content == tuple(TURNS)
    assert ranking.prompt.columns == {"question_id": "7f"}


def test_battles_with_a_column_for_each_winner(tmp_path: Path) -> None:
    path = tmp_path / "battles.csv"
    path.write_text(
        "id,model_a,model_b,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n"
        '30,x,y,"[""Hi?""]","[""Hello!""]","[""No.""]",0,1,0\n'
        '31,x,y,"[""Hi?"",""And?""]","[""Hello!"",""So""]","[""No."",""No.""]",1,0,0\n'
        '32,x,y,"[""Hi?""]","[null]","[""No.""]",1,0,0\n'
    )
    said: list[str] = []
    [ranking] = read_rankings(path, say=said.append)
    assert ranking.order == ((1,), (0,))
    assert [answer.source for answer in ranking.answers] == ["x", "y"]
    assert ranking.prompt.content == tuple(TURNS)
    assert "2 of 3 rows are set aside in battles.rejected.jsonl" in said[0]


ASIDE: dict[str, tuple[dict[str, Any], str]] = {
    "chosen = rejected": (pair(rejected="Hello!"), "chosen and rejected are the same"),
    "two chats that are the same": (
        {"chosen": [*TURNS, GOOD], "rejected": [*TURNS, GOOD]},
        "both answers are the same",
    ),
    "chats that part early": (
        {"chosen": [*TURNS, GOOD, *TURNS, GOOD], "rejected": [*TURNS, BAD, *TURNS, BAD]},
        "differ in more than their last answer",
    ),
    "nothing asked in common": (
        {"chosen": [GOOD], "rejected": [BAD]},
        "nothing in common that was asked",
    ),
    "another prompt": (
        pair(prompt="Why?", chosen=[*TURNS, GOOD], rejected=[*TURNS, BAD]),
        "'prompt' is not what chosen and rejected begin with",
    ),
    "one answer": (
        {"prompt": "?", "answers": ["a"], "order": [[0]]},
        "compares at least two answers, and this has 1",
    ),
    "named twice": ({"prompt": "?", "answers": ["a", "b"], "order": [[0], [1, 0]]}, "names answer 0 twice"),
    "not there": (
        {"prompt": "?", "answers": ["a", "b"], "order": [[0], [2]]},
        "names answer 2, but the prompt has 2 (0–1)",
    ),
    "a line beyond the end": (
        {"prompt": "?", "answers": ["a", "b"], "order": [0, 1], "line": 3},
        "'line' is 3, but there are 2 tiers",
    ),
    "weightless": ({"prompt": "?", "answers": ["a", "b"], "order": [0, 1], "weight": 0}, "above 0"),
    "nothing said": ({"prompt": "?", "answers": ["a", "b"], "order": []}, "so it says nothing"),
    "above itself": (
        {"prompt": "?", "answers": ["a", "b", "a"], "order": [0, 1, 2]},
        "answers 0 and 2 are the same, and one is ranked above the other",
    ),
    "no winner": (
        {"winner": None, "conversation_a": [*TURNS, GOOD], "conversation_b": [*TURNS, BAD]},
        "it has no winner",
    ),
    "other questions": (
        {"winner": "tie", "conversation_a": [GOOD], "conversation_b": [BAD]},
        "begin with different questions",
    ),
}


@pytest.mark.parametrize(("row", "why"), ASIDE.values(), ids=ASIDE)
def test_what_says_nothing_is_set_aside_and_counted(tmp_path: Path, row: dict[str, Any], why: str) -> None:
    path = lines(tmp_path / "mixed.jsonl", pair(), row)
    said: list[str] = []
    assert len(read_rankings(path, say=said.append)) == 1
    [aside] = map(json.loads, (tmp_path / "mixed.rejected.jsonl").read_text().splitlines())
    assert aside["line"] == 2
    assert why in aside["why"]
    assert aside["row"] == row
    assert len(said) == 1
    assert "1 of 2 rows are set aside in mixed.rejected.jsonl" in said[0]
    assert why in said[0]


BROKEN: dict[str, tuple[Any, str]] = {
    "an order that is missing": (
        {"prompt": "?", "answers": ["a", "b"], "ordre": [0, 1]},
        "this is no ranking: the row has 'prompt', 'answers', 'ordre'. Rename 'ordre' to 'order'?",
    ),
    "answers alone": ({"prompt": "?", "answers": ["a", "b"]}, "what `ventaja rank` asks people about"),
    "other columns": ({"question": "?", "chosen_one": "a"}, "'chosen' and 'rejected'"),
    "a key misspelt": (
        {"prompt": "?", "answers": ["a", "b"], "order": [0, 1], "lines": 1},
        "there is nothing called 'lines'. Did you mean 'line'?",
    ),
    "no prompt": ({"answers": ["a", "b"], "order": [0, 1]}, "the row has no 'prompt'"),
    "an order of words": ({"prompt": "?", "answers": ["a", "b"], "order": ["a", "b"]}, "'order' holds 'a'"),
    "true as a place": ({"prompt": "?", "answers": ["a", "b"], "order": [True, 0]}, "'order' holds True"),
    "an answer that is a number": ({"prompt": "?", "answers": [4, "b"], "order": [0, 1]}, "answers[0] is 4"),
    "an answer with another key": (
        {"prompt": "?", "answers": [{"text": "a", "tokens": [1]}, "b"], "order": [0, 1]},
        "answers[0] has 'tokens'. Did you mean 'token_ids'?",
    ),
    "tokens that are none": (
        {"prompt": "?", "answers": [{"text": "a", "token_ids": [0.5]}, "b"], "order": [0, 1]},
        "'token_ids' must be a list of whole numbers",
    ),
    "a weight of text": (
        {"prompt": "?", "answers": ["a", "b"], "order": [0, 1], "weight": "1"},
        "'weight' is '1'; it must be a number",
    ),
    "half a line": (
        {"prompt": "?", "answers": ["a", "b"], "order": [0, 1], "line": 0.5},
        "it must be a number of tiers",
    ),
    "text without a prompt": ({"chosen": "a", "rejected": "b"}, "where its answer begins cannot be known"),
    "null": (pair(chosen=None), "'chosen' is null"),
    "a chat and a text": (pair(chosen=[GOOD]), "one of 'chosen' and 'rejected' is text"),
    "an unknown winner": (
        {"winner": "nobody", "conversation_a": [*TURNS, GOOD], "conversation_b": [*TURNS, BAD]},
        "'winner' is 'nobody'; it is one of 'model_a'",
    ),
    "a role": (
        pair(prompt=[{"role": "asistant", "content": "?"}]),
        "has the role 'asistant'. Did you mean 'assistant'?",
    ),
}


@pytest.mark.parametrize(("row", "why"), BROKEN.values(), ids=BROKEN)
def test_a_malformed_row_ends_the_reading(tmp_path: Path, row: Any, why: str) -> None:
    path = lines(tmp_path / "broken.jsonl", pair(), row)
    with pytest.raises(DataError) as raised:
        read_rankings(path, say=silent)
    assert f"{path}:2: " in str(raised.value)
    assert why in str(raised.value)


def test_a_file_without_rows_is_an_error(tmp_path: Path) -> None:
    empty = lines(tmp_path / "empty.jsonl")
    with pytest.raises(DataError, match="the file is empty, so there are no rankings"):
        read_rankings(empty)
    with pytest.raises(DataError, match="there is no such file"):
        read_rankings(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match="this is no file of rankings"):
        read_rankings("org/name")
    useless = lines(tmp_path / "useless.jsonl", pair(rejected="Hello!"))
    with pytest.raises(
        DataError, match="no ranking is left. The first row: chosen and rejected are the same"
    ):
        read_rankings(useless, say=lambda text: None)
    for write in (write_rankings, write_pairs):
        with pytest.raises(DataError, match="there are no rankings to write"):
            write(tmp_path / "none.jsonl", [])


def ranked(content: Any = "?", **fields: Any) -> Ranking:
    answers = tuple(Answer(text=text) for text in ("a", "b", "c", "d"))
    return Ranking(**{"prompt": Prompt(id="p", content=content), "answers": answers, **fields})


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("content", ["?", CHAT], ids=["text", "chat"])
def test_pairs_for_others(tmp_path: Path, ending: str, content: Any) -> None:
    path = tmp_path / f"pairs.{ending}"
    said: list[str] = []
    # (c) above (a, d) above b: c beats 3, a and d beat b; a and d are tied
    count = write_pairs(path, [ranked(content, order=((2,), (0, 3), (1,)), line=1)], say=said.append)
    assert count == 5
    back = read_rankings(path, say=silent)
    assert [tuple(answer.text for answer in pair.answers) for pair in back] == [
        ("c", "a"),
        ("c", "d"),
        ("c", "b"),
        ("a", "b"),
        ("d", "b"),
    ]
    assert all(pair.prompt.content == content for pair in back)
    assert "1 pair of answers that are tied or in no order; 1 line" in said[0]


@pytest.mark.parametrize("ending", ENDINGS)
def test_others_read_the_pairs(tmp_path: Path, ending: str) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / f"pairs.{ending}"
    write_pairs(path, [ranked(CHAT, order=((1,), (0,), (2,), (3,)))], say=silent)
    kind = "json" if ending == "jsonl" else ending
    rows = datasets.load_dataset(kind, data_files=str(path), cache_dir=str(tmp_path / "cache"))["train"]
    assert rows.column_names == ["prompt", "chosen", "rejected"]
    assert rows[0] == {
        "prompt": list(CHAT),
        "chosen": [{"role": "assistant", "content": "b"}],
        "rejected": [{"role": "assistant", "content": "a"}],
    }


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Write them into two files"):
        write_pairs(tmp_path / "p.jsonl", [ranked(order=((0,), (1,))), ranked(CHAT, order=((0,), (1,)))])
    with pytest.raises(DataError, match="no ranking tells two answers apart"):
        write_pairs(tmp_path / "p.jsonl", [ranked(order=((0, 1, 2, 3),))])
    for write in (write_rankings, write_pairs):
        with pytest.raises(DataError, match="written as '.jsonl', '.parquet'"):
            write(tmp_path / "p.csv", [ranked(order=((0,), (1,)))])
    columns = Prompt(id="p", content="?", columns={"set": {1}})
    with pytest.raises(DataError, match="column 'set' holds a value of type set"):
        write_rankings(tmp_path / "p.jsonl", [ranked(order=((0,),), prompt=columns)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [lambda p: ranked(p, order=((1,), (0,)))])
def test_long_answers_emoji_and_right_to_left_text(tmp_path: Path, make: Callable[[str], Ranking]) -> None:
    some = [make("שלום 👩‍👩‍👧 " + "x" * 10_000 + "\u2028\u0085")]
    for ending in ENDINGS:
        write_rankings(tmp_path / f"r.{ending}", some)
        assert read_rankings(tmp_path / f"r.{ending}", say=silent) == some


def test_dates_travel_as_text(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    when = pyarrow.array([1_700_000_000], pyarrow.timestamp("s"))
    table = pyarrow.table({"prompt": ["?"], "chosen": ["a"], "rejected": ["b"], "when": when})
    parquet.write_table(table, tmp_path / "dated.parquet")
    [ranking] = read_rankings(tmp_path / "dated.parquet", say=silent)
    assert ranking.prompt.columns == {"when": "2023-11-14T22:13:20"}
    write_rankings(tmp_path / "again.jsonl", [ranking])


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lines(tmp_path / "r.jsonl", pair(), pair(rejected="Hello!"))

    def refuse(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ventaja.disk.os.replace", refuse)
    with pytest.raises(
        DataError, match=r"1 of 2 rows cannot be used \(1 × chosen and rejected are the same\)"
    ):
        read_rankings(path, say=silent)
