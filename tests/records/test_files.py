"""Groups written to Parquet come back the same, to the bit; and a failed write costs nothing."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ventaja.errors import DataError, RunError
from ventaja.records import (
    Completion,
    Fault,
    Given,
    Group,
    Judgement,
    Message,
    Prompt,
    StopReason,
    Trajectory,
    read_groups,
    read_rollouts,
    write_groups,
)

text = st.text(st.characters(codec="utf-8"), max_size=12)
token_ids = st.lists(st.integers(0, 2**31 - 1), max_size=5).map(tuple)
floats = st.floats(allow_nan=True, allow_infinity=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
prompts = st.builds(
    Prompt,
    id=text,
    content=st.text(max_size=12)
    | st.lists(st.builds(Message, role=text, content=st.text(max_size=8)), max_size=3).map(tuple),
    columns=st.dictionaries(st.text(max_size=6), json_values, max_size=3),
)
faults = st.builds(Fault, function=text, error=st.text(max_size=8), detail=st.text(max_size=20))
judgements = st.builds(
    Judgement,
    stream=st.lists(st.tuples(st.integers(0, 2**31 - 1), floats), max_size=3).map(tuple),
    components=st.dictionaries(text, st.none() | floats, max_size=3),
    faults=st.lists(faults, max_size=2).map(tuple),
)


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    ids = draw(token_ids)
    return Completion(
        token_ids=ids,
        logprobs=tuple(draw(st.lists(floats, min_size=len(ids), max_size=len(ids)))),
        text=draw(text),
        stop=draw(st.sampled_from(StopReason)),
        weight_version=draw(st.integers(0, 2**40)),
    )


given_turns = st.builds(Given, token_ids=token_ids, text=text, role=text)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    turns = [draw(completions()), *draw(st.lists(completions() | given_turns, max_size=3))]
    return Trajectory(turns=tuple(draw(st.permutations(turns))), is_truncated=draw(st.booleans()))


@st.composite
def groups(draw: st.DrawFn) -> Group:
    answers = tuple(draw(st.lists(trajectories(), min_size=1, max_size=3)))
    judged = draw(st.booleans())
    return Group(
        prompt=draw(prompts),
        prompt_ids=draw(token_ids),
        trajectories=answers,
        judgements=tuple(draw(judgements) for _ in answers) if judged else (),
    )


def bits(value: Any) -> Any:
    """The value with every float as its eight bytes, so that NaN equals NaN and 0.0 is not -0.0."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, dict):
        return [(key, bits(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return [type(value), *((name, bits(getattr(value, name))) for name in value.__dataclass_fields__)]
    return value


def a_group(*rewards: float, name: str = "train.jsonl:1") -> Group:
    answers = tuple(
        Trajectory.of(
            Completion(
                token_ids=(5, 6, 2),
                logprobs=(-0.1, -0.2, -0.3),
                text=f"answer {index}",
                stop=StopReason.EOS,
                weight_version=3,
            )
        )
        for index in range(len(rewards))
    )
    return Group(
        prompt=Prompt(id=name, content="2 + 2?", columns={"answer": 4}),
        prompt_ids=(1, 4),
        trajectories=answers,
        judgements=tuple(
            Judgement.outcome(reward, length=3, components={"exact": reward}) for reward in rewards
        ),
    )


# The type checker that tests run under draws random items of a list to look at, inside the strategies too.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.lists(groups(), max_size=3))
def test_groups_come_back_to_the_bit(tmp_path: Path, written: list[Group]) -> None:
    write_groups(tmp_path / "round.parquet", written)
    assert bits(read_groups(tmp_path / "round.parquet")) == bits(written)


def test_neighbouring_groups_with_equal_prompts_stay_apart(tmp_path: Path) -> None:
    written = [a_group(1.0, 0.0), a_group(1.0, 0.0)]
    write_groups(tmp_path / "round.parquet", written)
    assert read_groups(tmp_path / "round.parquet") == written


def test_one_row_per_trajectory_with_further_columns(tmp_path: Path) -> None:
    path = tmp_path / "round.parquet"
    write_groups(
        path,
        [a_group(1.0, 0.0), a_group(0.5)],
        token_columns={"advantage": [[0.5, 0.5, 0.5], None, (0.0, -0.0, math.inf)]},
        columns={"length": [3, 3, 3]},
    )
    table = read_rollouts(path)
    assert table.num_rows == 3
    assert table["group_index"].to_pylist() == [0, 0, 1]
    assert table["completion_index"].to_pylist() == [0, 1, 0]
    assert table["reward"].to_pylist() == [1.0, 0.0, 0.5]
    assert table["advantage"].to_pylist() == [[0.5, 0.5, 0.5], None, [0.0, -0.0, math.inf]]
    assert table["length"].to_pylist() == [3, 3, 3]
    assert table["components"].to_pylist()[0] == [("exact", 1.0)]
    assert len(read_groups(path)) == 2


def test_tokens_that_were_given_are_told_apart_in_the_file(tmp_path: Path) -> None:
    said = a_group(1.0).trajectories[0].turns[0]
    told = Given(token_ids=(7, 8), text="4", role="tool")
    episode = Trajectory(turns=(said, told, said), is_truncated=True)
    group = replace(a_group(1.0), trajectories=(episode,))
    write_groups(tmp_path / "round.parquet", [group])
    row = read_rollouts(tmp_path / "round.parquet").to_pylist()[0]
    assert row["token_ids"] == [5, 6, 2, 7, 8, 5, 6, 2]
    assert row["is_chosen"] == [True] * 3 + [False] * 2 + [True] * 3
    assert row["logprobs"] == [-0.1, -0.2, -0.3, None, None, -0.1, -0.2, -0.3]
    assert [(turn["role"], turn["tokens"]) for turn in row["turns"]] == [
        ("assistant", 3),
        ("tool", 2),
        ("assistant", 3),
    ]
    assert read_groups(tmp_path / "round.parquet") == [group]


def test_a_file_from_before_there_were_turns_is_read(tmp_path: Path) -> None:
    path = tmp_path / "round.parquet"
    cut = replace(a_group(0.0).trajectories[0].completions[0], stop=StopReason.LENGTH)
    written = [a_group(1.0), replace(a_group(0.0), trajectories=(Trajectory.of(cut),))]
    write_groups(path, written)
    older = read_rollouts(path).drop_columns(["turns", "is_chosen", "is_truncated"])
    parquet.write_table(older, path)
    assert read_groups(path) == written


def test_a_broken_judgement_has_no_reward_and_keeps_its_fault(tmp_path: Path) -> None:
    # A model can print a lone surrogate into a reward function's error; it must not stop the run.
    fault = Fault(function="exact", error="ValueError: \ud83d", detail="Traceback …")
    group = replace(a_group(1.0), judgements=(Judgement(faults=(fault,)),))
    write_groups(tmp_path / "round.parquet", [group])
    assert read_rollouts(tmp_path / "round.parquet")["reward"].to_pylist() == [None]
    assert read_groups(tmp_path / "round.parquet") == [group]


@pytest.mark.parametrize(
    ("value", "named"),
    [({1, 2}, "set"), ({"inner": [b"x"]}, "bytes"), ({3: "three"}, "key 3"), (Path("a"), "Path")],
)
def test_a_column_that_json_cannot_hold_is_named(tmp_path: Path, value: Any, named: str) -> None:
    group = replace(a_group(1.0), prompt=Prompt(id="train.jsonl:7", content="?", columns={"odd": value}))
    with pytest.raises(DataError, match=rf"train\.jsonl:7: column 'odd' .*{named}"):
        write_groups(tmp_path / "round.parquet", [group])
    assert list(tmp_path.iterdir()) == []


def test_further_columns_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "round.parquet"
    with pytest.raises(ValueError, match="'advantage', row 0: 2 values for 3 tokens"):
        write_groups(path, [a_group(1.0)], token_columns={"advantage": [[1.0, 2.0]]})
    with pytest.raises(ValueError, match="'advantage' has 2 rows for 1 trajectories"):
        write_groups(path, [a_group(1.0)], token_columns={"advantage": [[1.0] * 3] * 2})
    with pytest.raises(ValueError, match="'text' is there already"):
        write_groups(path, [a_group(1.0)], columns={"text": ["x"]})
    with pytest.raises(DataError, match="'thing' cannot be written"):
        write_groups(path, [a_group(1.0)], columns={"thing": [object()]})
    with pytest.raises(ValueError, match="no trajectories"):
        write_groups(path, [a_group()])


def test_files_that_are_not_rollouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_groups(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_groups(tmp_path / "text.parquet")
    parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="'group_index' is missing"):
        read_groups(tmp_path / "other.parquet")


def test_a_full_disk_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "round.parquet"
    write_groups(path, [a_group(1.0)])

    def full(table: Any, where: Path, **_: Any) -> None:
        Path(where).write_bytes(b"PAR1 half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet, "write_table", full)
    with pytest.raises(
        RunError, match=r"round\.parquet: cannot be written: No space left on device.*--run\.folder"
    ):
        write_groups(path, [a_group(0.0)])
    assert read_groups(path) == [a_group(1.0)]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="needs the POSIX limit on file sizes")
def test_a_system_that_really_refuses(tmp_path: Path) -> None:
    # The limit on file sizes fails a write in its middle, as a full disk does.
    script = f"""
import resource, signal
from ventaja.errors import RunError
from ventaja.records import Completion, Group, Prompt, StopReason, Trajectory, read_groups, write_groups
def group(text):
    done = Completion(token_ids=(), logprobs=(), text=text, stop=StopReason.EOS, weight_version=0)
    return Group(prompt=Prompt(id="1", content="?"), prompt_ids=(), trajectories=(Trajectory.of(done),))
path = {str(tmp_path / "round.parquet")!r}
write_groups(path, [group("small")])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
import random
try:
    write_groups(path, [group("".join(chr(random.randrange(32, 50_000)) for _ in range(100_000)))])
except RunError as error:
    print("refused:", error)
print(read_groups(path)[0].trajectories[0].text)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "refused:" in done.stdout
    assert done.stdout.endswith("small\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["round.parquet"]
