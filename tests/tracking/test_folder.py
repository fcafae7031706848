"""The run folder survives what happens to run folders: kills, full disks, a second run in one place."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from enum import Enum
from pathlib import Path

import numpy
import pytest
import torch

from ventaja import yaml
from ventaja.errors import ConfigError, RunError
from ventaja.records import Completion, Group, Prompt, StopReason, Trajectory, write_groups
from ventaja.tracking import Run, RunFolder


class Kind(Enum):
    K3 = "k3"


CONFIG = {
    "model": "tiny",
    "optimiser": {"learning_rate": 1e-6, "betas": (0.9, 0.95)},
    "kl": Kind.K3,
    "to": Path("a"),
}


def begin(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", CONFIG, command="ventaja rl run.yaml")


def group(text: str = "4") -> Group:
    answer = Completion(token_ids=(1,), logprobs=(-0.5,), text=text, stop=StopReason.EOS, weight_version=0)
    return Group(
        prompt=Prompt(id="1", content="2 + 2?"), prompt_ids=(7,), trajectories=(Trajectory.of(answer),)
    )


def test_create_makes_the_folder(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    assert sorted(entry.name for entry in folder.path.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "metrics.jsonl",
        "rollouts",
    ]
    text = folder.config_path.read_text()
    assert text.startswith("# command: ventaja rl run.yaml\n")
    expected = {
        "model": "tiny",
        "optimiser": {"learning_rate": 1e-6, "betas": [0.9, 0.95]},
        "kl": "k3",
        "to": "a",
    }
    assert yaml.read(text).value == expected == folder.config()
    assert folder.command() == "ventaja rl run.yaml"


def test_a_setting_that_yaml_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.inner\[1\]: a object"):
        RunFolder.create(tmp_path / "run", {"inner": [1, object()]}, command="")
    assert not (tmp_path / "run").exists()


def test_a_second_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    folder.append_metrics(1, {"reward": 0.5})
    with pytest.raises(RunError, match=r"holds a run already.*--run\.folder other.*--run\.resume true"):
        begin(tmp_path)
    assert folder.metrics() == [{"round": 1, "reward": 0.5}]


@pytest.mark.parametrize("name", ["notes.txt", "config.yaml"])
def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("try: a higher clip")
    for attempt in (lambda: begin(tmp_path), lambda: RunFolder(tmp_path / "run").locked().__enter__()):
        with pytest.raises(RunError, match=rf"not empty and holds no run \({name}\).*--run.folder runs/new$"):
            attempt()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]
    (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / ".DS_Store").write_text("")
    assert begin(tmp_path).config()["model"] == "tiny"


def test_a_run_that_wrote_nothing_may_be_begun_anew(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    (folder.checkpoints_path / ".000001").mkdir()  # killed while it wrote its first checkpoint
    assert folder.is_unused
    assert RunFolder.create(folder.path, {"model": "other"}, command="").config() == {"model": "other"}
    folder.checkpoint_path(1).mkdir()
    assert not folder.is_unused
    with pytest.raises(RunError, match="holds a run already"):
        begin(tmp_path)


def test_a_checkpoint_without_a_config_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints" / "000010").mkdir(parents=True)
    with pytest.raises(RunError, match="holds a run already"):
        begin(tmp_path)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match=r"cannot be written|holds a run"):
        begin(tmp_path)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("/proc", r"^/proc: this folder is not empty and holds no run"),
        ("/proc/run", r"^/proc/run: cannot be written: .*choose another place with --run\.folder\."),
        ("/sys", r"^/sys: this folder is not empty and holds no run"),
        ("file", r"file: this is a file, and a run needs a folder\. Choose another with --run\.folder\."),
        ("file/run", r"run: cannot be written: .*choose another place with --run\.folder\."),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and /sys")
def test_places_where_there_can_be_no_run(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=message), RunFolder(tmp_path / place).locked():
        pass


# ---------------------------------------------------------------------- the lock

HOLDER = """
import sys
from ventaja.tracking import RunFolder
with RunFolder(sys.argv[1]).locked(command="ventaja rl run.yaml"):
    print("locked", flush=True)
    sys.stdin.readline()
"""


def test_a_second_process_is_told_who_writes(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"locked\n"
        with pytest.raises(RunError) as error, folder.locked():
            pass
        message = str(error.value)
        assert f"process {child.pid} on {socket.gethostname()} (ventaja rl run.yaml), begun 20" in message
        assert ", is writing to this folder" in message
        # Readers need no lock.
        assert Run(folder.path).config["model"] == "tiny"
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
    with folder.locked():  # a dead process holds nothing, although what it wrote about itself is still there
        folder.append_metrics(1, {})
        folder.rewind(0)
    assert not (folder.path / ".lock.json").exists()


def test_a_lock_leaves_nothing_where_nothing_was_begun(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "runs" / "a").locked():
        assert (tmp_path / "runs" / "a").is_dir()
        with (
            pytest.raises(RunError, match="is writing to this folder"),
            RunFolder(tmp_path / "runs" / "a").locked(),
        ):
            pass
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "runs" / "a").locked():
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with RunFolder(tmp_path / "run").locked():
        begin(tmp_path)
    assert (tmp_path / "run" / "config.yaml").exists()


# ---------------------------------------------------------------------- reading


def test_opening_nothing_names_the_newest_run_beside_it(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(RunError, match=r"there is no such folder\. The newest run beside it is .*run"):
        RunFolder.open(tmp_path / "rnu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"has no config\.yaml") as error:
        RunFolder.open(tmp_path / "empty")
    assert str(error.value).endswith(
        "Give the folder that --run.folder named."
    )  # whoever reads resumes nothing


def test_metrics_are_strict_json(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    folder.append_metrics(
        1,
        {
            "round": 99,
            "reward": math.nan,
            "loss": -math.inf,
            "kl": torch.tensor(0.5),
            "entropy": numpy.float32(0.25),
            "samples": numpy.int64(8),
            "text": "día\n",
            "nothing": None,
        },
    )
    lines = folder.metrics_path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(lines[0], parse_constant=refuse) == {
        "round": 1,
        "reward": None,
        "loss": None,
        "kl": 0.5,
        "entropy": 0.25,
        "samples": 8,
        "text": "día\n",
        "nothing": None,
    }
    with pytest.raises(TypeError, match="'histogram' is a list"):
        folder.append_metrics(2, {"histogram": [1, 2]})
    assert len(folder.metrics()) == 1


@pytest.mark.parametrize(
    "half", [b'{"round": 3, "rew', b"{", b'{"round": 3, "text": "d\xc3', b'{"round": 3} x']
)
def test_half_a_last_line_is_skipped_and_then_replaced(tmp_path: Path, half: bytes) -> None:
    folder = begin(tmp_path)
    folder.append_metrics(1, {"reward": 1.0})
    folder.append_metrics(2, {"reward": 2.0, "long": "x" * 10_000})
    with folder.metrics_path.open("ab") as file:
        file.write(half)
    assert [line["round"] for line in folder.metrics()] == [1, 2]
    folder.append_metrics(3, {"reward": 3.0})
    assert [line["round"] for line in folder.metrics()] == [1, 2, 3]
    assert folder.metrics_path.read_bytes().count(b"\n") == 3


def test_half_an_only_line(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    folder.metrics_path.write_bytes(b'{"rou')
    assert folder.metrics() == []
    folder.append_metrics(1, {})
    assert folder.metrics() == [{"round": 1}]


def test_a_whole_last_line_without_its_newline_counts(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    folder.metrics_path.write_text('{"round": 1}')
    assert folder.metrics() == [{"round": 1}]
    folder.append_metrics(2, {})
    assert folder.metrics() == [{"round": 1}, {"round": 2}]


def test_a_bad_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    folder.metrics_path.write_text('{"round": 1}\nhello\n{"round": 3}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl:2: not metrics"):
        folder.metrics()


def test_rewind_drops_what_comes_after(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    for number in range(1, 6):
        folder.append_metrics(number, {"reward": float(number)})
        write_groups(folder.rollout_path(number), [group()])
    folder.checkpoint_path(4).mkdir()
    (folder.rollouts_path / ".round-000006.parquet.1.tmp").write_text("half")
    with folder.metrics_path.open("ab") as file:
        file.write(b'{"round": 6, ')
    for _ in range(2):  # Doing it twice is doing it once.
        folder.rewind(3)
        assert [line["round"] for line in folder.metrics()] == [1, 2, 3]
        assert folder.rollout_rounds() == [1, 2, 3]
        assert len(list(folder.rollouts_path.iterdir())) == 3
        assert list(folder.checkpoints()) == [4]
    folder.append_metrics(4, {"reward": 40.0})
    assert [line["reward"] for line in folder.metrics()] == [1.0, 2.0, 3.0, 40.0]


def test_a_full_disk_leaves_the_earlier_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begin(tmp_path)
    folder.append_metrics(1, {"reward": 1.0})
    before = folder.metrics_path.read_bytes()
    write, calls = os.write, []

    def full(descriptor: int, data: bytes) -> int:
        calls.append(data)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:5])  # The disk takes a few bytes, and then no more.

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(RunError, match=r"metrics\.jsonl: cannot be written: No space left on device"):
            folder.append_metrics(2, {"reward": 2.0})
    assert folder.metrics_path.read_bytes() == before
    folder.append_metrics(2, {"reward": 2.0})
    assert [line["round"] for line in folder.metrics()] == [1, 2]

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(RunError, match="No space left"):
        folder.rewind(1)
    assert [line["round"] for line in folder.metrics()] == [1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_while_writing(tmp_path: Path) -> None:
    script = f"""
from itertools import count
from ventaja.tracking import RunFolder
folder = RunFolder.create({str(tmp_path / "run")!r}, {{}}, command="")
for number in count(1):
    folder.append_metrics(number, {{"text": "x" * 5000}})
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    path = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size > 50_000):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    folder = RunFolder.open(tmp_path / "run")
    rounds = [line["round"] for line in folder.metrics()]
    assert rounds == list(range(1, len(rounds) + 1))
    folder.append_metrics(len(rounds) + 1, {})
    assert len(folder.metrics()) == len(rounds) + 1


def test_a_run_reads_it_all(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    folder.append_metrics(1, {"reward": 0.25})
    run = Run(folder.path)
    assert run.column("reward") == [0.25]
    assert repr(run) == f"Run('{folder.path}': 1 round, reward 0.25 → 0.25, 0 checkpoints)"
    with pytest.raises(RunError, match="no checkpoint yet"):
        _ = run.last_checkpoint

    # The run goes on while it is open.
    folder.append_metrics(2, {"reward": math.nan, "eval/accuracy_greedy": 0.5, "note": "x"})
    folder.append_metrics(3, {"reward": 1})
    rewards = run.column("reward")
    assert rewards[0] == 0.25
    assert math.isnan(rewards[1])
    assert rewards[2] == 1.0
    assert math.isnan(run.column("eval/accuracy_greedy")[0])
    assert run.metrics[2] == {"round": 3, "reward": 1}
    assert run.config["optimiser"]["learning_rate"] == 1e-6
    with pytest.raises(RunError, match=r"no round has the metric 'rewrd'\. Did you mean 'reward'"):
        run.column("rewrd")

    write_groups(folder.rollout_path(3), [group("x")], token_columns={"advantage": [[0.5]]})
    assert run.rollouts(3) == [group("x")]
    assert run.rollout_table(3)["advantage"].to_pylist() == [[0.5]]
    with pytest.raises(RunError, match=r"no rollouts of round 7\. Kept: round 3\."):
        run.rollouts(7)

    for name in ("000010", "000002", ".000011.tmp", "scratch"):
        (folder.checkpoints_path / name).mkdir()
    assert [path.name for path in run.checkpoints] == ["000002", "000010"]
    assert run.last_checkpoint == folder.checkpoint_path(10)
    assert repr(run).endswith("3 rounds, reward 0.25 → 1, 2 checkpoints)")


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        Run(tmp_path / "none")


def test_a_config_that_was_cut_off(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    folder.config_path.write_text("# command: x\n")
    with pytest.raises(RunError, match="holds no settings"):
        _ = Run(folder.path).config


def test_a_config_as_earlier_versions_wrote_it_is_read(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    folder.config_path.write_text(
        "# command: ventaja rl run.yaml\nmodel:\n  name: 'no'\n  lora: null\noptimiser:\n  learning_rate: 1.0e-05\n"
        "  betas:\n  - 0.9\n  - 0.999\nsampling:\n  stop:\n  - \"\\n\"\n  - '1:30'\n  - '010'\n"
    )
    assert folder.config() == {
        "model": {"name": "no", "lora": None},
        "optimiser": {"learning_rate": 1e-5, "betas": [0.9, 0.999]},
        "sampling": {"stop": ["\n", "1:30", "010"]},
    }


def test_a_config_that_is_no_yaml_names_its_line(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    folder.config_path.write_text("model: x\nrun: [1\n")
    with pytest.raises(RunError, match=r"config\.yaml:3: this is not valid YAML: expected ',' or '\]'"):
        folder.config()
