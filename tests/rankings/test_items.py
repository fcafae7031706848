"""Files of answers become items; what cannot be ranked is set aside with its place and why."""

import json

import pytest

from ventaja.errors import DataError
from ventaja.rankings import read_items
from ventaja.records import Completion, Group, Prompt, StopReason, Trajectory, write_groups


def answer(text, ids=(5, 6), version=3):
    completion = Completion(
        token_ids=ids, logprobs=(-1.0,) * len(ids), text=text, stop=StopReason.EOS, weight_version=version
    )
    return Trajectory.of(completion)


def group(name, *texts):
    return Group(
        prompt=Prompt(id=name, content="hola", columns={"k": [1]}),
        prompt_ids=(1,),
        trajectories=tuple(answer(text) for text in texts),
    )


def test_groups_keep_token_ids_and_source(tmp_path):
    path = tmp_path / "round-1.parquet"
    write_groups(
        path, [group("a", "x", "y"), group("b", "z", "w")], columns={"source": ["m1", "m2", "m1", None]}
    )
    items, aside = read_items(path)
    assert aside == []
    assert [[(a.text, a.source, a.token_ids) for a in one.answers] for one in items] == [
        [("x", "m1", (5, 6)), ("y", "m2", (5, 6))],
        [("z", "m1", (5, 6)), ("w", "", (5, 6))],
    ]
    assert items[0].prompt == Prompt(id="a", content="hola", columns={"k": [1]})


def test_a_runs_rollouts_say_their_round_and_weights(tmp_path):
    (tmp_path / "rollouts").mkdir()
    write_groups(tmp_path / "rollouts" / "00001.parquet", [group("a", "x", "y"), group("b", "same", "same")])
    items, aside = read_items(tmp_path)
    assert [a.source for a in items[0].answers] == ["00001, weights 3"] * 2
    assert [row.why for row in aside] == ["all of its answers are the same"]
    with pytest.raises(DataError, match="no run's folder"):
        read_items(tmp_path / "rollouts")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "the line is not JSON"),
        ("[]", "not an object with 'prompt' and 'answers'"),
        ('{"prompt": "a"}', "no 'answers' in it; it has 'prompt'"),
        (
            '{"prompt": 3, "answers": ["a", "b"]}',
            "'prompt' is a number (3); it must be text or a list of messages",
        ),
        (
            '{"prompt": [{"role": "cat", "content": "a"}], "answers": ["a", "b"]}',
            "prompt[0] has the role 'cat'",
        ),
        ('{"prompt": "a", "answers": ["b"]}', "nothing to compare in 1 answer"),
        ('{"prompt": "a", "answers": []}', "nothing to compare in 0 answers"),
        ('{"prompt": "a", "answers": ["b", "b"]}', "all of its answers are the same"),
        ('{"prompt": "a", "answers": ["b", {"txt": "c"}]}', "answer 1 is neither text nor"),
        ('{"prompt": "a", "answers": ["b", {"text": "c", "model": "m"}]}', "answer 1 has 'model'"),
        ('{"prompt": "a", "answers": ["b", {"text": "c", "token_ids": "x"}]}', "'token_ids' of answer 1"),
        ('{"prompt": "a", "answers": ["b", "\\ud800"]}', "half of a surrogate pair"),
        ('{"prompt": "\\ud800", "answers": ["b", "c"]}', "half of a surrogate pair"),
    ],
)
def test_what_cannot_be_ranked(tmp_path, line, why):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "fine", "answers": ["a", "b"]}\n' + line + "\n")
    items, [row] = read_items(path)
    assert [one.prompt.id for one in items] == ["a.jsonl:1"]
    assert row.where == f"{path}:2"
    assert why in row.why


def test_empty_and_missing_files(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(DataError, match="the file is empty"):
        read_items(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read_items(tmp_path / "b.jsonl")


def test_any_text_comes_through(tmp_path):
    texts = ["مرحبا 🙂👩‍👩‍👧", "x" * 10_000, "a\x00b\u2028c"]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "p", "answers": texts, "id": "7", "topic": "t"}), encoding="utf-8")
    [one], [] = read_items(path)
    assert [a.text for a in one.answers] == texts
    assert (one.prompt.id, one.prompt.columns) == ("7", {"topic": "t"})
