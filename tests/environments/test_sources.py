"""Many files as one source, packed files, and files with something wrong in them."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ventaja.environments import load_examples, load_prompts
from ventaja.errors import ConfigError, DataError


def lines(*prompts):
    return "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)


@pytest.fixture
def fails(tmp_path, monkeypatch):
    """The message of a source that cannot be read, given as a path below the current folder."""
    monkeypatch.chdir(tmp_path)

    def fails(source, **arguments):
        with pytest.raises((DataError, ConfigError)) as error:
            load_prompts(source, **arguments)
        return str(error.value)

    return fails


def asked(source, **arguments):
    return [(prompt.id, prompt.content) for prompt in load_prompts(str(source), **arguments)]


# ---------------------------------------------------------------------- many files


def test_a_folder_is_its_files_one_after_the_other(tmp_path):
    (tmp_path / "b.jsonl").write_text(lines("3"))
    (tmp_path / "a.jsonl").write_text(lines("1", "2"))
    (tmp_path / "README.md").write_text("no rows")
    (tmp_path / ".hidden.jsonl").write_text(lines("never"))
    assert asked(tmp_path) == [("a.jsonl:1", "1"), ("a.jsonl:2", "2"), ("b.jsonl:1", "3")]
    assert asked(tmp_path, size=2) == asked(tmp_path)[:2]


def test_a_folder_of_parquet(tmp_path):
    for number in (0, 1):
        table = pa.Table.from_pylist([{"prompt": f"p{number}"}])
        pq.write_table(table, tmp_path / f"train-0000{number}.parquet")
    assert asked(tmp_path) == [("train-00000.parquet:1", "p0"), ("train-00001.parquet:1", "p1")]


def test_a_folder_whose_files_are_not_alike_is_not_guessed_at(tmp_path, fails):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text(lines("1"))
    (tmp_path / "data" / "test.jsonl").write_text(lines("2"))
    assert fails("data") == (
        "data: the folder holds files of 2 splits: 'test.jsonl', 'train.jsonl'. Name those that are meant by a glob, "
        "such as 'data/test*.jsonl'."
    )
    (tmp_path / "data" / "test.jsonl").rename(tmp_path / "data" / "train-2.csv")
    assert "files of 2 endings: 'train-2.csv', 'train.jsonl'." in fails("data")
    assert "such as 'data/*.csv'." in fails("data")


def test_a_folder_without_files_says_where_some_are(tmp_path, fails):
    (tmp_path / "data" / "en").mkdir(parents=True)
    assert fails("data").startswith("data: the folder holds no file that ends in '.jsonl', ")
    (tmp_path / "data" / "en" / "a.jsonl").write_text(lines("1"))
    assert "There are some in 'data/en': name one of these folders." in fails("data")


def test_a_glob_is_sorted_and_may_go_deep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data/b/2.jsonl", "data/a/1.jsonl", "data/3.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(lines(name))
    assert asked("data/*.jsonl") == [("3.jsonl:1", "data/3.jsonl")]
    assert [id for id, _ in asked("data/**/*.jsonl")] == ["3.jsonl:1", "a/1.jsonl:1", "b/2.jsonl:1"]
    assert asked(f"{tmp_path}/data/[ab]/*.jsonl")[0] == ("a/1.jsonl:1", "data/a/1.jsonl")


def test_a_glob_that_finds_nothing_or_too_much(tmp_path, fails):
    (tmp_path / "notes.txt").write_text("x")
    assert fails("*.jsonl").startswith(
        f"*.jsonl: no file matches. It is read from the current folder, {tmp_path};"
    )
    assert fails("*.txt").startswith("notes.txt: the ending '.txt' is not known")


def test_a_file_whose_name_has_brackets_is_a_file(tmp_path):
    (tmp_path / "a[1].jsonl").write_text(lines("1"))
    assert asked(tmp_path / "a[1].jsonl") == [("a[1].jsonl:1", "1")]


def test_messages_of_a_folder_name_the_file(tmp_path, fails):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text(lines("1") + '{"promt": "2"}\n')
    assert fails("data").startswith("data/a.jsonl:2: the row has no 'prompt'")


# ---------------------------------------------------------------------- packed files


def test_packed_files_are_as_the_others(tmp_path):
    texts = {
        "a.jsonl": lines("1", "2"),
        "a.json": json.dumps([{"prompt": "1"}, {"prompt": "2"}]),
        "a.csv": "prompt\n1\n2\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        plain, packed = asked(tmp_path / name), asked(tmp_path / f"{name}.gz")
        assert [content for _, content in packed] == [content for _, content in plain] == ["1", "2"]
        assert packed[0][0] == plain[0][0].replace(name, f"{name}.gz")


def test_a_packed_file_that_is_cut_off_or_not_packed(tmp_path, fails):
    whole = gzip.compress(lines(*map(str, range(1000))).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    assert "a.jsonl.gz: it cannot be unpacked: " in fails("a.jsonl.gz")
    (tmp_path / "b.jsonl.gz").write_text(lines("1"))
    assert "leave off .gz if it is not compressed" in fails("b.jsonl.gz")
    (tmp_path / "c.parquet.gz").write_bytes(b"")
    assert "the ending '.parquet.gz' is not known" in fails("c.parquet.gz")


# ---------------------------------------------------------------------- what is wrong in a file


def test_text_that_is_not_utf8_has_a_line(tmp_path, fails):
    bad = b'{"prompt": "fine"}\n\n{"prompt": "\xff"}\n'
    (tmp_path / "a.jsonl").write_bytes(bad)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(bad))
    (tmp_path / "a.json").write_bytes(b'[\n{"prompt": "\xe4"}]')
    (tmp_path / "a.csv").write_bytes(b"prompt\nfine\n\xff\n")
    for name, line in {"a.jsonl": 3, "a.jsonl.gz": 3, "a.json": 2, "a.csv": 3}.items():
        assert fails(name).startswith(f"{name}:{line}: the line is not text in UTF-8 (")


def test_a_key_that_is_there_twice(tmp_path, fails):
    once, twice = '{"prompt": "a"}', '{"prompt": "a", "x": {"k": 1, "k": 2}}'
    (tmp_path / "a.jsonl").write_text(f"{once}\n{twice}\n")
    assert fails("a.jsonl") == "a.jsonl:2: the key 'k' is there twice in one object. Keep one of them."
    (tmp_path / "a.json").write_text(f"[{once},\n {once}, {twice}]")
    assert fails("a.json").startswith("a.json:3: the key 'k' is there twice")
    (tmp_path / "b.jsonl").write_text('{"prompt": "a", "prompt": "b"}\n')
    assert fails("b.jsonl").startswith("b.jsonl:1: the key 'prompt' is there twice")
    (tmp_path / "a.csv").write_text("prompt,prompt\na,b\n")
    assert fails("a.csv").startswith("a.csv:1: the column 'prompt' is there twice.")


# ---------------------------------------------------------------------- folders of save_to_disk


@pytest.mark.filterwarnings("ignore")  # other people's
def test_a_folder_of_save_to_disk(tmp_path, fails):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    train = datasets.Dataset.from_list(
        [{"prompt": "a", "completion": "1"}, {"prompt": "b", "completion": "2"}]
    )
    train.save_to_disk(str(tmp_path / "one"))
    assert asked(tmp_path / "one") == [("one:0", "a"), ("one:1", "b")]
    assert [e.completion for e in load_examples(str(tmp_path / "one"), size=1)] == ["1"]
    datasets.DatasetDict({"train": train, "test": train.select([1])}).save_to_disk(str(tmp_path / "both"))
    assert asked(tmp_path / "both") == [("both:train:0", "a"), ("both:train:1", "b")]
    assert asked(tmp_path / "both", options={"split": "test"}) == [("both:test:0", "b")]
    assert fails("both", options={"split": "dev"}) == (
        "both: it has no split 'dev', but 'train', 'test'. Name one in the option 'split'."
    )
    assert "such a folder has one option, 'split', but 'name' was given." in fails(
        "both", options={"name": "x"}
    )
    assert "it has no splits, so the option 'split' would have no effect" in fails(
        "one", options={"split": "x"}
    )


# ---------------------------------------------------------------------- hubs


@pytest.mark.parametrize("source", ["runs/x", "data/train", "corpus/b"])
def test_a_local_path_that_went_wrong_is_not_looked_for_on_a_hub(tmp_path, fails, source):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text(lines("1"))
    assert fails(source).startswith(f"{source}: there is no such file or folder here. (It is not looked for")


@pytest.mark.parametrize("source", ["./nothere", "nothere/", "/nothere/data", "~/nothere", "a/b/c"])
def test_a_path_that_leads_nowhere(fails, source):
    assert fails(source).startswith(f"{source}: there is no such file or folder here. A source is a file (")
