"""Prompts and examples from real files, and the help that every unusable row gets."""

import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ventaja.environments import load_examples, load_prompts
from ventaja.errors import ConfigError, DataError

USER = {"role": "user", "content": "2+2?"}
BOT = {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture
def write(tmp_path):
    """Writes rows as JSON lines and gives the path as text."""

    def write(*rows, name="train.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


def fails(load, source, **arguments):
    with pytest.raises((DataError, ConfigError)) as error:
        load(source, **arguments)
    return str(error.value)


# ---------------------------------------------------------------------- prompts


def test_text_chat_and_columns(write):
    source = write({"prompt": "2+2=", "answer": "4", "level": 1}, {"prompt": [SYSTEM, USER]})
    first, second = load_prompts(source)
    assert (first.id, first.content, first.columns) == ("train.jsonl:1", "2+2=", {"answer": "4", "level": 1})
    assert (second.id, second.content, second.columns) == ("train.jsonl:2", (SYSTEM, USER), {})


def test_the_four_kinds_of_files_give_the_same_prompts(tmp_path):
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": 'b, "c"\nd', "answer": "007"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "t.json").write_text(json.dumps(rows))
    (tmp_path / "t.csv").write_bytes(b'\xef\xbb\xbfprompt,answer\r\na,1\r\n"b, ""c""\nd",007\r\n')
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    found = {path.suffix: load_prompts(str(path)) for path in tmp_path.iterdir()}
    for prompts in found.values():
        assert [(prompt.content, prompt.columns["answer"]) for prompt in prompts] == [
            ("a", "1"),
            ('b, "c"\nd', "007"),
        ]
    assert [prompt.id for prompt in found[".csv"]] == ["t.csv:2", "t.csv:3"]  # line 1 is the header
    assert [prompt.id for prompt in found[".parquet"]] == ["t.parquet:1", "t.parquet:2"]


def test_lines_are_counted_with_the_empty_ones(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"prompt": "a"}\n\n{"prompt": "b\u2028c"}\n')
    assert [prompt.id for prompt in load_prompts(str(path))] == ["t.jsonl:1", "t.jsonl:3"]


def test_messages_are_asked_up_to_the_last_assistant_turn(write):
    more = {"role": "user", "content": "And 3+3?"}
    source = write(
        {"messages": [USER, BOT, more, BOT]}, {"messages": [USER, BOT, more]}, {"messages": [USER]}
    )
    assert [prompt.content for prompt in load_prompts(source)] == [
        (USER, BOT, more),
        (USER, BOT, more),
        (USER,),
    ]


def test_a_message_keeps_its_role_and_content_only(write):
    message = USER | {"name": None, "weight": 1, "tool_calls": None}
    assert load_prompts(write({"prompt": [message]}))[0].content == (USER,)


def test_text_parts_of_a_message_are_joined(write):
    parts = [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?", "image": None}]
    source = write({"messages": [{"role": "user", "content": parts}, BOT]})
    assert load_prompts(source)[0].content == (USER,)
    assert load_examples(source)[0].prompt == (USER,)


def test_no_tools_are_no_tools(write):
    assert load_prompts(write({"prompt": "a", "tools": None}, {"prompt": "b", "tools": []}))[1].content == "b"


def test_system_prompt_and_size(write):
    source = write({"prompt": "2+2?"}, {"prompt": [USER]}, {"prompt": "never read, as " * 3})
    assert [p.content for p in load_prompts(source, size=2, system_prompt="Be brief.")] == [
        (SYSTEM, USER)
    ] * 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"promt": "x", "answer": "4"},
            "the row has no 'prompt' and no 'messages'; it has 'promt', 'answer'. "
            "Rename 'promt' to 'prompt'?",
        ),
        ({"id": 3, "question": "x"}, "it has 'id', 'question'. Rename 'question' to 'prompt'?"),
        ({"conversations": []}, "Rename 'conversations' to 'messages'?"),
        ({"a": 1}, "it has 'a'. Add a column 'prompt'."),
        ({"prompt": None, "a": 1}, "the row has no 'prompt' (it is null) and no 'messages'; it has 'a'."),
        ({"prompt": " "}, "the prompt is empty. Fill it, or drop the row."),
        ({"prompt": []}, "'prompt' is an empty list."),
        ({"prompt": 5}, "'prompt' is a number (5); it must be text or a list of messages"),
        ({"messages": "hi"}, "'messages' is text ('hi'); it must be a list of messages"),
        ({"prompt": ["hi"]}, "prompt[0] is text; a message has 'role' and 'content'."),
        (
            {"prompt": [{"from": "human", "value": "hi"}]},
            "prompt[0] has 'from', 'value'; a message has 'role'",
        ),
        (
            {"prompt": [SYSTEM, {"role": "usr", "content": "x"}]},
            "prompt[1] has the role 'usr'. Did you mean 'user'? Roles are 'system', 'developer', 'user', "
            "'assistant', 'tool'.",
        ),
        ({"prompt": [{"role": "user", "content": None}]}, "prompt[0]: 'content' is null; it must be text."),
        ({"prompt": [USER | {"tool_calls": [{}]}]}, "prompt[0] has 'tool_calls', which are not supported."),
        ({"prompt": [USER | {"content": []}]}, "prompt[0]: 'content' is an empty list."),
        ({"prompt": [USER | {"content": ["hi"]}]}, "prompt[0]: content[0] is text; a part of a message is {"),
        (
            {"prompt": [USER | {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "prompt[0]: content[0] is of type 'image_url'; models here read text alone.",
        ),
        (
            {"prompt": [USER | {"content": [{"type": "text"}]}]},
            "prompt[0]: content[0]: 'text' is null; it must be",
        ),
        ({"prompt": "x", "tools": [{"name": "search"}]}, "tools are not given to the chat template yet"),
        ({"prompt": [USER, BOT]}, "the prompt ends with an assistant turn"),
        ({"messages": [BOT]}, "'messages' starts with its only assistant turn, so there is nothing to ask."),
        (
            {"prompt": "x", "completions": 1},
            "the column 'completions' has a name that reward functions need.",
        ),
        ([1], "the row is a list, not an object with columns."),
    ],
)
def test_rows_that_cannot_be_asked(write, row, message):
    source = write({"prompt": "fine"}, row)
    text = fails(load_prompts, source)
    assert text.startswith(f"{source}:2: ")
    assert message in text


def test_two_system_messages(write):
    text = fails(load_prompts, write({"prompt": [SYSTEM, USER]}), system_prompt="Be kind.")
    assert "the row has a system message, and system_prompt would be a second one." in text


# ---------------------------------------------------------------------- examples


def test_examples_of_every_form(write):
    source = write(
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": [USER], "completion": "4"},
        {"prompt": "2+2?", "completion": [BOT]},
        {"messages": [SYSTEM, USER, BOT, USER, BOT, USER]},
        {"prompt": "not used, for there is no completion", "messages": [USER, BOT]},
    )
    examples = load_examples(source)
    assert [example.id for example in examples] == [f"train.jsonl:{line}" for line in range(1, 6)]
    assert [(example.prompt, example.completion) for example in examples] == [
        ("2+2?", "4"),
        ((USER,), (BOT,)),
        ((USER,), (BOT,)),
        ((SYSTEM, USER), (BOT, USER, BOT)),
        ((USER,), (BOT,)),
    ]
    assert [example.is_chat for example in examples] == [False, True, True, True, True]


def test_a_system_prompt_makes_a_chat_of_an_example(write):
    (example,) = load_examples(write({"prompt": "2+2?", "completion": "4"}), system_prompt="Be brief.")
    assert (example.prompt, example.completion) == ((SYSTEM, USER), (BOT,))


def test_text_alone_is_learned_as_a_whole(write):
    source = write({"text": "Once upon a time."}, {"text": "not used", "prompt": "2+2?", "completion": "4"})
    assert [(e.prompt, e.completion) for e in load_examples(source)] == [
        ("", "Once upon a time."),
        ("2+2?", "4"),
    ]
    assert "a system_prompt would have no effect" in fails(load_examples, source, system_prompt="Be brief.")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": " "}, "'text' is empty; it must be text to learn."),
        ({"text": 3}, "'text' is a number; it must be text to learn."),
        ({"messages": [USER, BOT], "tools": [{}]}, "tools are not given to the chat template yet"),
        ({"prompt": "x", "completion": ""}, "the completion is empty."),
        (
            {"prompt": "x", "response": "y"},
            "the row has no 'completion' and no 'messages'; it has 'prompt', 'response'. "
            "Rename 'response' to 'completion'?",
        ),
        ({"question": "x", "completion": "y"}, "the row has no 'prompt'"),
        ({"messages": [USER]}, "'messages' has no assistant turn, so there is nothing to learn from."),
        ({"messages": [BOT]}, "'messages' starts with an assistant turn."),
        ({"messages": [USER, BOT | {"content": " "}]}, "an assistant turn is empty"),
        ({"prompt": "x", "completion": [BOT, USER]}, "the completion ends with a turn of 'user'"),
    ],
)
def test_rows_that_cannot_be_learned(write, row, message):
    source = write(row)
    text = fails(load_examples, source)
    assert text.startswith(f"{source}:1: ")
    assert message in text


# ---------------------------------------------------------------------- files


def test_a_missing_file_names_the_nearest(write, tmp_path):
    write({"prompt": "a"})
    text = fails(load_prompts, f"{tmp_path}/trian.jsonl")
    assert text.endswith(f"there is no such file. Did you mean '{tmp_path}/train.jsonl'?")
    assert f"nor the folder {tmp_path}/no." in fails(load_prompts, f"{tmp_path}/no/train.jsonl")


def test_files_that_cannot_be_read(tmp_path):
    def content(name, data):
        (tmp_path / name).write_bytes(data)
        return fails(load_prompts, f"{tmp_path}/{name}").removeprefix(f"{tmp_path}/")

    assert content("a.jsonl", b"\n") == "a.jsonl: it has no rows. Check that it was written completely."
    assert content("a.json", b"") == "a.json: it has no rows. Check that it was written completely."
    assert content("b.jsonl", b'{"prompt": "a"}\n{"prompt": \n') == (
        "b.jsonl:2: the line is not JSON: Expecting value at character 11: '{\"prompt\":'. "
        "Each line must be one complete object."
    )
    assert "b.json:2: it is not JSON: Extra data. If each line is one object" in content(
        "b.json", b"{}\n{}\n"
    )
    assert "it holds an object; a .json file must hold a list" in content("c.json", b"{}")
    assert "d.jsonl:1: the line is not text in UTF-8" in content("d.jsonl", b'{"prompt": "\xff"}')
    assert "it is not a Parquet file" in content("e.parquet", b"PAR")
    assert "f.csv:3: the row has 3 cells, the header 2." in content("f.csv", b"prompt,a\nx,1\nx,y,1\n")
    assert "g.csv:2: the row is not CSV" in content("g.csv", b'prompt,a\n"x"y,1\n')
    assert (
        "the ending '.txt' is not known; files are '.jsonl', '.json', '.parquet', '.csv', '.jsonl.gz'"
        in content("h.txt", b"x")
    )
    assert "files of 4 endings: 'a.json', 'a.jsonl', 'e.parquet', 'f.csv'." in fails(
        load_prompts, str(tmp_path)
    )


def test_sources_that_are_none(write):
    assert "there is no such file." in fails(load_prompts, "no-such-file-here.txt")
    assert fails(load_prompts, "reasoning-gym:chain_sum").startswith(
        "'reasoning-gym:chain_sum' is no source. Did you mean 'reasoning_gym'?"
    )
    assert "'a b' is no source" in fails(load_prompts, "a b")
    assert "a file has no options, but 'split' was given." in fails(
        load_prompts, write({"prompt": "a"}), options={"split": "x"}
    )
    assert "size is 0; give a number of rows above 0" in fails(load_prompts, write({"prompt": "a"}), size=0)


# ---------------------------------------------------------------------- reasoning_gym


def test_reasoning_gym_prompts_and_examples():
    first, second = load_prompts(
        "reasoning_gym:chain_sum", options={"max_terms": 2}, size=2, seed=3, system_prompt="Be brief."
    )
    assert [first.id, second.id] == ["reasoning_gym:chain_sum:0", "reasoning_gym:chain_sum:1"]
    assert first.content[0] == SYSTEM
    assert first.content[1] == {"role": "user", "content": first.columns["question"]}
    assert set(first.columns) == {"answer", "dataset", "dataset_options", "metadata", "question"}
    assert first.columns["dataset"] == "chain_sum"
    assert first.columns["metadata"]["num_terms"] == 2
    again = load_examples("reasoning_gym:chain_sum", options={"max_terms": 2}, size=2, seed=3)
    assert again[0].prompt == (first.content[1],)
    assert again[0].completion == ({"role": "assistant", "content": first.columns["answer"]},)
    other = load_prompts("reasoning_gym:chain_sum", size=1, seed=4)
    assert other[0].content[0]["content"] != first.columns["question"]


def test_reasoning_gym_makes_a_thousand_by_default():
    assert len(load_prompts("reasoning_gym:chain_sum")) == 1000


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chainsum", {}, "reasoning_gym has no data set 'chainsum'. Did you mean 'chain_sum'?"),
        ("chain_sum", {"max_term": 2}, "it has no option 'max_term'. Did you mean 'max_terms'?"),
        ("chain_sum", {"size": 2}, "The number of prompts and the seed are set beside the source."),
        ("chain_sum", {"max_terms": 1}, "it cannot be made with the options {'max_terms': 1}: "),
    ],
)
def test_reasoning_gym_settings_that_cannot_be_meant(name, options, message):
    assert message in fails(load_prompts, f"reasoning_gym:{name}", options=options)


def test_without_the_optional_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    assert "pip install 'ventaja[datasets]'" in fails(load_prompts, "openai/gsm8k")
    assert "pip install 'ventaja[tasks]'" in fails(load_prompts, "reasoning_gym:chain_sum")


# ---------------------------------------------------------------------- datasets


@pytest.mark.filterwarnings("ignore")  # other people's
def test_a_data_set_by_name(write, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    source = write({"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"})
    options = {"data_files": source, "cache_dir": str(tmp_path / "cache")}
    prompts = load_prompts("json", options=options, size=1)
    assert [(prompt.id, prompt.content, prompt.columns) for prompt in prompts] == [
        ("json:train:0", "a", {"answer": "1"})
    ]
    assert "it has the splits 'train'. Name one in the option 'split'." in fails(
        load_prompts, "json", options={**options, "split": None}
    )
    wrong = fails(load_prompts, "json", options={**options, "split": "test"})
    assert wrong.startswith("json: the data set cannot be loaded with the options {'split': 'test'")
