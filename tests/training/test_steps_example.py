"""The worked example of judges of steps: its judges by hand, its run files, and all of it with a tiny model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny import save_tiny_model
from tiny_task import quiet

from ventaja.training import RlConfig, SftConfig, parse, train_rl

EXAMPLE = Path(__file__).parents[2] / "examples" / "steps"
QUESTION = "State the final answer to the following arithmetic problem: 12 + 7 - 30 + 8 ="


@pytest.fixture
def example(monkeypatch):
    """The modules `judge` and `compare`."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import compare
    import judge

    yield judge, compare
    for name in ("judge", "compare"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("answer", "lines", "right"),
    [
        ("12 + 7 = 19\n19 - 30 = -11\n-11 + 8 = -3", [1, 1, 1], 1),
        ("12 + 7 = 18\n18 - 30 = -12\n-12 + 8 = -4", [0, 1, 1], 0),  # one slip, one line
        ("12 + 7 = 19\n18 - 30 = -12\n-12 + 8 = -4", [1, 0, 1], 0),  # goes on from another number
        ("12 + 7 = 19\n19 + 30 = 49", [1, 0], 0),
        ("12 + 7 = 19\n19 - 30 = -11\n-11 + 8 = -3\n-3 + 0 = -3", [1, 1, 1, 0], 1),
        ("-3", [0], 0),
        ("1 + 1 = -3", [0], 1),
        ("12 + 7=19", [0], 0),
        ("", [], 0),
    ],
)
def test_the_judges_by_hand(example, answer, lines, right):
    judge, _ = example
    steps = [answer.splitlines()]
    assert judge.lines(steps, [QUESTION]) == [[share / 3 for share in lines]]
    assert judge.right([answer], [QUESTION]) == [right]
    assert judge.right([[{"role": "assistant", "content": answer}]], [QUESTION]) == [right]


def test_a_trace_has_full_marks(example):
    judge, _ = example
    trace = judge.trace(QUESTION)
    assert trace == "12 + 7 = 19\n19 - 30 = -11\n-11 + 8 = -3"
    [shares] = judge.lines([trace.splitlines()], [QUESTION])
    assert sum(shares) >= judge.lines.full_marks


def test_the_run_files_are_valid(example, monkeypatch):
    _, compare = example
    monkeypatch.chdir(EXAMPLE.parents[1])
    config = parse(RlConfig, compare.read("rl.yaml"))
    assert config.algorithm.resolve().credit == "process"
    parse(SftConfig, compare.read("sft.yaml"))
    for way, (credit, _) in compare.WAYS.items():
        config = parse(
            RlConfig, compare.learning(compare.read("rl.yaml"), way, Path("sft"), run={"folder": "x"})
        )
        assert config.algorithm.resolve().credit == credit


def test_all_ways_begin_with_the_same_samples(example, tmp_path):
    pytest.importorskip("reasoning_gym")
    _, compare = example
    tiny = {"name": str(save_tiny_model(tmp_path / "model")), "device": "cpu", "precision": "float32"}
    sft = compare.read("sft.yaml") | {"model": tiny}
    sft["run"] |= {"updates": 1, "batch_size": 2}
    start = compare.supervised_start(tmp_path, sft, quiet())
    runs, said = {}, []
    for way in compare.WAYS:
        small = {"folder": str(tmp_path / way), "rounds": 2, "completions_per_round": 16, "trackers": []}
        values = compare.learning(compare.read("rl.yaml"), way, start, run=small)
        values["eval"] |= {"size": 3, "every": 2}
        values["model"] = tiny | {"name": str(start)}
        run = train_rl(parse(RlConfig, values), console=quiet())
        runs[way] = [run]
        said.append([trajectory.text for group in run.rollouts(1) for trajectory in group.trajectories])
        for name in ("lines", "right"):
            assert f"rewards/{name}/mean" in run.metrics[-1]
    assert all(texts == said[0] for texts in said)
    page = compare.results(runs, [0], 60.0)
    for way in compare.WAYS:
        assert f"| {way} | 0 | 0.0% |" in page
