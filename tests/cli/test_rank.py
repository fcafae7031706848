"""`ventaja rank` and its forms, but for the page itself."""

import json
import re
import sqlite3
from pathlib import Path

import pytest

from ventaja.cli import main
from ventaja.cli.fields import settings_of
from ventaja.cli.rank import FORMS, RankConfig
from ventaja.rankings import Judged, Order, Plan, Store, next_showing, read_items, read_rankings


def lines(path, *rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


@pytest.fixture
def answers(tmp_path):
    return lines(
        tmp_path / "answers.jsonl",
        {"id": "p", "prompt": "p?", "answers": ["a", "b", {"text": "c", "source": "m"}]},
    )


@pytest.fixture
def db(tmp_path, answers, capsys):
    path = str(tmp_path / "r.db")
    assert main(["rank", "import", path, answers]) == 0
    assert "1 items are new" in capsys.readouterr().out
    return path


@pytest.fixture
def ranked(db):
    with Store(db) as store:
        showing = next_showing(store, store.rater("ana"), Plan())
        store.flag(showing.id, showing.rater, "odd")
        judged = Judged(key="k", seen=0, order=Order(tiers=((2,), (0, 1)), line=1))
        store.judge(showing.id, showing.rater, judged)
    return db


@pytest.mark.parametrize("name", ["rankings.jsonl", "rankings.parquet"])
def test_out_and_in_again(ranked, tmp_path, capsys, name):
    out = tmp_path / name
    assert main(["rank", "export", ranked, str(out)]) == 0
    said = capsys.readouterr().out
    assert f"1 rankings are in {out}; 0 items were skipped." in said
    assert "1 flags" in said
    assert json.loads((tmp_path / "rankings.flags.jsonl").read_text())["comment"] == "odd"
    [ranking] = read_rankings(out)
    assert (ranking.order, ranking.line, ranking.rater) == (((2,), (0, 1)), 1, "ana")
    other = str(tmp_path / "other.db")
    assert main(["rank", "import", other, str(out), "--rankings"]) == 0
    assert "1 rankings are kept." in capsys.readouterr().out
    with Store(other) as store:
        assert store.rankings() == [ranking]
    assert main(["rank", "import", other, str(out), "--rankings"]) == 0
    assert "1 are left out" in capsys.readouterr().out
    assert main(["rank", "import", other, str(out), "--gold"]) == 0
    with Store(other) as store:
        assert store.counts()["gold"] == 1
        assert store.rankings() == []
        assert store.rankings(gold=True) == [ranking]


def test_pairs(ranked, tmp_path, capsys):
    out = tmp_path / "pairs.jsonl"
    assert main(["rank", "export", ranked, str(out), "--pairs"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows == [
        {"prompt": "p?", "chosen": "c", "rejected": "a"},
        {"prompt": "p?", "chosen": "c", "rejected": "b"},
    ]
    assert "2 pairs, from 1 rankings," in capsys.readouterr().out


def test_pairs_come_in_as_rankings(tmp_path, capsys):
    pairs = lines(
        tmp_path / "pairs.jsonl",
        {"prompt": "p", "chosen": "good", "rejected": "bad"},
        {"prompt": "p", "chosen": "x", "rejected": "x"},
    )
    db = str(tmp_path / "r.db")
    assert main(["rank", "import", db, pairs, "--rankings"]) == 0
    assert "pairs.rejected.jsonl" in capsys.readouterr().out
    with Store(db) as store:
        [ranking] = store.rankings()
    assert [answer.text for answer in ranking.answers] == ["good", "bad"]


def test_agreement_backup_and_prioritise(ranked, tmp_path, capsys):
    assert main(["rank", "agreement", ranked]) == 0
    out = capsys.readouterr().out
    assert "Krippendorff's α, ordinal: –" in out
    assert "ana" in out
    assert main(["rank", "backup", ranked, str(tmp_path / "copy.db")]) == 0
    assert "1 rankings of 1 items" in capsys.readouterr().out
    scores = lines(tmp_path / "s.jsonl", {"id": "p", "uncertainty": 2}, {"id": "q", "uncertainty": 1})
    assert main(["rank", "prioritise", ranked, scores]) == 0
    assert capsys.readouterr().out == "1 items have a score now.\n1 prompts are in no item, such as 'q'.\n"


def test_what_cannot_be_ranked_is_set_aside(tmp_path, capsys):
    path = lines(
        tmp_path / "a.jsonl",
        {"prompt": "p", "answers": ["a", "b"]},
        "{",
        {"prompt": "p", "answers": ["\ud800", "b"]},
    )
    assert main(["rank", "import", str(tmp_path / "r.db"), path]) == 0
    out = capsys.readouterr().out
    assert "2 of" in out
    assert "a.jsonl:2: the line is not JSON" in out
    rows = [json.loads(line) for line in (tmp_path / "a.rejected.jsonl").read_text().splitlines()]
    assert [row["where"].rpartition(":")[2] for row in rows] == ["2", "3"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["rank"], 2, "store: must be set"),
        (["rank", "exprt"], 2, "there is no such form. Did you mean 'export'?"),
        (["rank", "{db}", "--raters", "[a, a]"], 2, "'a' is there twice"),
        (
            ["rank", "{db}", "--share.address", "0.0.0.0", "--share.certificate", "c", "--share.key", "k"],
            2,
            "every network",
        ),
        (["rank", "{db}", "--share.address", "10.0.0.1"], 2, "share.certificate: must be set"),
        (["rank", "{tmp}/new.db"], 1, "there is nothing to rank yet"),
        (["rank", "{tmp}/new.db", "--items", "{tmp}/none.jsonl"], 1, "no such file"),
        (["rank", "export", "{db}", "{tmp}/out.csv"], 2, "should end in .jsonl or .parquet"),
        (["rank", "export", "{db}", "{tmp}/out.jsonl"], 1, "nobody has ranked anything yet"),
        (["rank", "export", "{tmp}/none.db", "{tmp}/out.jsonl"], 1, "there is no such file"),
        (["rank", "backup", "{db}", "{db}"], 1, "cannot be that file"),
        (["rank", "prioritise", "{db}", "{tmp}/answers.jsonl"], 1, "no 'id' with an 'uncertainty'"),
    ],
)
def test_what_goes_wrong(db, tmp_path, capsys, arguments, status, says):
    assert main([argument.format(db=db, tmp=tmp_path) for argument in arguments]) == status
    assert says in capsys.readouterr().err


def test_a_newer_store_is_refused_by_the_command(db, capsys):
    with sqlite3.connect(db) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    assert main(["rank", "agreement", db]) == 1
    assert "Update Ventaja" in capsys.readouterr().err


def test_the_page_on_ranking_is_as_it_says(tmp_path, capsys):
    page = (Path(__file__).parents[2] / "docs" / "ranking.md").read_text()
    [example] = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (tmp_path / "answers.jsonl").write_text(example)
    [one], [] = read_items(tmp_path / "answers.jsonl")
    assert (one.prompt.id, len(one.answers)) == ("cat", 2)
    names = {setting.name for setting in settings_of(RankConfig)}
    for line in re.findall(r"^    ventaja rank (.*?)(?:\s+#.*)?$", page, re.MULTILINE):
        form, *_ = line.split()
        flags = re.findall(r"--([\w.]+)", line)
        if form in FORMS:
            with pytest.raises(SystemExit):
                main(["rank", form, "--help"])
            told = capsys.readouterr().out
            assert all(f"--{flag}" in told for flag in flags), line
        else:
            assert form == "rankings.db"
            assert set(flags) <= names, line
    for flag in re.findall(r"`--([\w.]+)", page):
        assert flag in names | {"repeats", "gold"}, flag
