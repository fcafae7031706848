"""`ventaja sample`: what is written, that a killed process loses a block at most, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_task import llama, model_folder, quiet, run_rl, tokenizer

from ventaja.cli.sampling import sampled_text
from ventaja.errors import ConfigError, RunError
from ventaja.records import read_groups, read_rollouts
from ventaja.tracking import Run
from ventaja.training import SampleConfig, Sampled, parse, sample, sampling

PROMPTS = [{"prompt": f"say {letter}" + "?" * (n % 3 + 1), "n": n} for n, letter in enumerate("abcdefghij")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    return path


def values(model: Path, prompts: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": {"name": str(model), "precision": "float32"},
        "data": str(prompts),
        "sampling": {"max_tokens": 5},
        "output": str(output),
        **more,
    }


def run(given: dict[str, Any]) -> Sampled:
    return sample(parse(SampleConfig, given), console=quiet())


def test_every_prompt_is_answered(model: Path, prompts: Path, tmp_path: Path) -> None:
    output, readable = tmp_path / "answers.parquet", tmp_path / "answers.jsonl"
    written = run(values(model, prompts, output, alike=None, readable=str(readable)))
    groups = read_groups(output)
    assert [group.prompt.id for group in groups] == [f"prompts.jsonl:{n}" for n in range(1, 11)]
    assert [group.prompt.columns["n"] for group in groups] == list(range(10))
    assert (written.prompts, written.answers, written.alike, written.left_out) == (10, 40, 0, ())
    words = tokenizer()
    for group in groups:
        assert words.decode(group.prompt_ids) == group.prompt.content
        for trajectory in group.trajectories:
            assert words.decode(trajectory.token_ids, skip_special_tokens=True) == trajectory.text
            assert 1 <= len(trajectory) <= 5
    # Drawn apart: not everybody says the same.
    assert len({t.text for group in groups for t in group.trajectories}) > 20
    assert set(read_rollouts(output)["source"].to_pylist()) == {f"{model}, temperature 1"}
    rows = [json.loads(line) for line in readable.read_text().splitlines()]
    assert [[a["text"] for a in row["answers"]] for row in rows] == [
        [t.text for t in group.trajectories] for group in groups
    ]
    assert list(tmp_path.glob("*.partial")) == []


def test_candidates_take_turns(model: Path, prompts: Path, tmp_path: Path) -> None:
    other = model_folder(tmp_path / "other", seed=1)
    candidates = [{"temperature": 0.0}, {"model": str(other)}, {"temperature": 3.0}]
    output = tmp_path / "answers.parquet"
    run(values(model, prompts, output, alike=None, candidates=candidates, answers=3))
    table = read_rollouts(output)
    named = [f"{model}, temperature 0", f"{other}, temperature 1", f"{model}, temperature 3"]
    assert table["source"].to_pylist() == named * 10
    # What the second said is likely under its own weights: its log-probs are those that it gives its tokens.
    group = read_groups(output)[0]
    answer = group.trajectories[1]
    ids = torch.tensor([[*group.prompt_ids, *answer.token_ids]])
    with torch.no_grad():
        logprobs = llama(seed=1)(input_ids=ids).logits[0].float().log_softmax(-1)
    first = len(group.prompt_ids) - 1
    scored = [logprobs[first + t, token].item() for t, token in enumerate(answer.token_ids)]
    assert scored == pytest.approx(list(answer.logprobs), abs=1e-4)


def test_shares_are_even(model: Path, prompts: Path, tmp_path: Path) -> None:
    candidates = [{"temperature": 0.5}, {"temperature": 1.0}, {"temperature": 1.5}]
    config = parse(
        SampleConfig, values(model, prompts, tmp_path / "a.parquet", candidates=candidates, answers=8)
    )
    assert config.shares == (3, 3, 2)
    assert parse(SampleConfig, values(model, prompts, tmp_path / "a.parquet")).shares == (4,)


def test_near_duplicates_are_dropped_and_said(model: Path, prompts: Path, tmp_path: Path) -> None:
    everything = tmp_path / "all.parquet"
    run(values(model, prompts, everything, alike=None, answers=6, sampling={"max_tokens": 1}))
    output = tmp_path / "distinct.parquet"
    written = run(values(model, prompts, output, answers=6, sampling={"max_tokens": 1}))
    # One token each: by hand, what stays is what differs
    expected = []
    for group in read_groups(everything):
        texts = list(dict.fromkeys(t.text.strip() for t in group.trajectories))
        if len(texts) > 1:
            expected.append(len(texts))
    assert [len(group) for group in read_groups(output)] == expected
    assert written.answers == sum(expected)
    assert written.alike + written.answers + len(written.left_out) == 60
    assert written.alike > 0


def test_only_one_thing_to_say(model: Path, prompts: Path, tmp_path: Path) -> None:
    alone = {"sampling": {"max_tokens": 3, "top_k": 1}}
    with pytest.raises(RunError, match="none of the 10 prompts has two distinct answers"):
        run(values(model, prompts, tmp_path / "a.parquet", **alone))


def test_what_is_printed() -> None:
    text = sampled_text(
        Sampled(path=Path("a b.parquet"), prompts=2, answers=7, alike=1, left_out=("x", "y"), seconds=3.0)
    )
    assert text.splitlines() == [
        "a b.parquet: 2 prompts with 7 answers, in 3.0 seconds.",
        "Dropped: 1 answer too much like another one to the same prompt.",
        "Left out: 2 prompts without two distinct answers: x, y.",
        "To rank them: ventaja rank 'a b.parquet'",
    ]


def test_what_was_stopped_goes_on_to_the_same_file(
    model: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "BLOCK", 6)  # 3 prompts a block, and two candidates
    candidates = [{"temperature": 0.7}, {"temperature": 1.3}]
    whole, stopped = tmp_path / "whole.parquet", tmp_path / "stopped.parquet"
    run(values(model, prompts, whole, candidates=candidates))
    written, asked = sampling.Partial.write, []

    def stop_at(count: int) -> None:
        def write(self: Any, *arguments: Any) -> None:
            if len(asked) == count:
                raise KeyboardInterrupt
            asked.append(arguments[:2])
            written(self, *arguments)

        monkeypatch.setattr(sampling.Partial, "write", write)

    for count in (0, 2, 5):  # before the first block, in the first candidate, in the second
        stop_at(count)
        with pytest.raises(KeyboardInterrupt):
            run(values(model, prompts, stopped, candidates=candidates))
        assert not stopped.exists()
    with pytest.raises(RunError, match="begun with other settings: seed was 0 and is 1. Go on with its own"):
        run(values(model, prompts, stopped, candidates=candidates, seed=1))
    stop_at(100)
    run(values(model, prompts, stopped, candidates=candidates))
    assert sorted(asked) == [(c, b) for c in range(2) for b in range(4)]  # none was sampled twice
    assert read_rollouts(stopped).equals(read_rollouts(whole))
    assert list(tmp_path.glob("*.partial")) == []


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_file(model: Path, prompts: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.parquet", tmp_path / "killed.parquet"
    script = (
        "import json, sys, time\n"
        "from ventaja.training import SampleConfig, parse, sample, sampling\n"
        "sampling.BLOCK = 4\n"
        "write = sampling.Partial.write\n"
        "def slowly(self, *arguments):\n"
        "    write(self, *arguments); time.sleep(0.3)\n"
        "sampling.Partial.write = slowly\n"
        "sample(parse(SampleConfig, json.loads(sys.argv[1])))\n"
    )

    def begin(output: Path) -> subprocess.Popen[bytes]:
        given = json.dumps(values(model, prompts, output, answers=2))
        return subprocess.Popen([sys.executable, "-c", script, given], stderr=subprocess.DEVNULL)

    assert begin(whole).wait(250) == 0
    folder = killed.with_name("killed.parquet.partial")
    for blocks in (1, 3):
        process = begin(killed)
        while len(list(folder.glob("candidate-*.parquet"))) < blocks:
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not killed.exists()
    assert begin(killed).wait(250) == 0
    assert read_rollouts(killed).equals(read_rollouts(whole))
    assert not folder.exists()


def test_a_runs_answers(model: Path, tmp_path: Path) -> None:
    run_rl(tmp_path / "run", model, run={"rounds": 2})
    output = tmp_path / "answers.parquet"
    taken = run({"from_run": str(tmp_path / "run"), "output": str(output), "answers": 2, "alike": None})
    groups, sources = read_groups(output), read_rollouts(output)["source"].to_pylist()
    assert taken.prompts == len(groups)
    assert set(sources) == {"run, round 2"}
    said: dict[str, set[Any]] = {}
    for group in Run(tmp_path / "run").rollouts(2):
        said.setdefault(group.prompt.id, set()).update(
            zip((t.token_ids for t in group.trajectories), (j.reward for j in group.judgements), strict=True)
        )
    assert {group.prompt.id for group in groups} == set(said)
    for group in groups:
        assert len(group) == 2
        for trajectory, judgement in group.judged():
            assert (trajectory.token_ids, judgement.reward) in said[group.prompt.id]

    both = tmp_path / "both.parquet"
    run(
        {
            "from_run": str(tmp_path / "run"),
            "rounds": [1, 2],
            "output": str(both),
            "answers": 99,
            "alike": None,
        }
    )
    assert set(read_rollouts(both)["source"].to_pylist()) == {"run, round 1", "run, round 2"}
    ids = [group.prompt.id for group in read_groups(both)]
    assert len(ids) == len(set(ids))  # each prompt once, with what both rounds said
    with pytest.raises(ConfigError, match="has no rollouts of round 7; it has those of 1 to 2"):
        run({"from_run": str(tmp_path / "run"), "rounds": [7], "output": str(tmp_path / "no.parquet")})


def test_another_chat_template(tmp_path: Path) -> None:
    models = []
    for name, template in (
        ("one", "{{ messages[0]['content'] }}:"),
        ("other", "{{ messages[0]['content'] }}."),
    ):
        words = tokenizer()
        words.chat_template = template
        models.append(str(model_folder(tmp_path / name)))
        words.save_pretrained(models[-1])
    chats = tmp_path / "chats.jsonl"
    chats.write_text(json.dumps({"prompt": [{"role": "user", "content": "say a"}]}))
    given = values(Path(models[0]), chats, tmp_path / "a.parquet", candidates=models, answers=2)
    with pytest.raises(ConfigError, match="other reads the prompts as other tokens than .*one"):
        run(given)


def test_what_is_there_is_not_written_over(model: Path, prompts: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.parquet"
    output.write_text("mine")
    with pytest.raises(RunError, match="this is there already. Choose another file with --output"):
        run(values(model, prompts, output))
    with pytest.raises(RunError, match="this is there already. Choose another file with --readable"):
        run(values(model, prompts, tmp_path / "b.parquet", readable=str(prompts)))
    assert output.read_text() == "mine"


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "an ending": ({"output": "a.jsonl"}, "output: must be called .parquet"),
    "another ending": ({"readable": "a.txt"}, "readable: must be called .jsonl"),
    "one answer": ({"answers": 1}, "answers"),
    "too many candidates": ({"answers": 2, "candidates": ["a", "b", "c"]}, "some would say nothing"),
    "greedy": ({"sampling": {"temperature": 0}}, "temperature 0 makes all 4 answers"),
    "twice": ({"candidates": ["m", {}]}, "two of them are the same"),
    "no effect": (
        {"sampling": {"temperature": 0.5}, "candidates": [{"temperature": 1}, {"temperature": 2}]},
        "sampling.temperature would have no effect",
    ),
    "rounds": ({"rounds": [1]}, "rounds would have no effect"),
    "from_run": ({"from_run": "runs/x"}, "model would have no effect"),
    "no model": ({"model": None}, "model.name: must be set"),
    "adapters": ({"model": {"name": "m", "lora": True}}, "model.lora would have no effect"),
    "weights": ({"data": [{"source": "a.jsonl", "weight": 2}]}, "a weight would have no effect"),
}


@pytest.mark.parametrize(("more", "what"), MISTAKES.values(), ids=MISTAKES)
def test_settings_that_make_no_sense(more: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        parse(SampleConfig, {"model": "m", "data": "d.jsonl", "output": "a.parquet", **more})
