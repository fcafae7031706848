"""Judges of steps in a run: from a run file to the tokens that learn from them."""

from __future__ import annotations

import json

import pytest
from tiny_task import assert_same_run, metrics, prompts, rl_values, run_rl, tokenizer

import ventaja
from ventaja.cli import main
from ventaja.environments import Reward

JUDGE = """
def letters(text):
    return [(i, i + 1) for i in range(len(text))]

def is_a(steps):
    return [[float(step == "a") for step in each] for each in steps]

def fragile(steps):
    return [[1.0] * (len(each) + ("z" in each)) for each in steps]
"""


@pytest.fixture
def run_file(model, tmp_path):
    """Writes a run file with these reward functions, and gives its path and the run's folder."""
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": p.content}) for p in prompts()))
    (tmp_path / "judge.py").write_text(JUDGE)

    def write(reward, name="run", **groups):
        values = rl_values(tmp_path / name, model, data={"source": str(tmp_path / "prompts.jsonl")}, **groups)
        text = json.dumps(values | {"reward": reward}).replace("judge.py", str(tmp_path / "judge.py"))
        (tmp_path / f"{name}.yaml").write_text(text)
        return str(tmp_path / f"{name}.yaml"), tmp_path / name

    return write


def test_from_a_run_file(run_file):
    path, folder = run_file({"functions": [{"function": "judge.py:is_a", "steps": "judge.py:letters"}]})
    assert main(["rl", path]) == 0
    words = tokenizer()
    for round in range(1, 4):
        for group in ventaja.Run(folder).rollouts(round):
            for trajectory, judgement in group.judged():
                text = [
                    word if len(word) == 1 else ""
                    for word in words.convert_ids_to_tokens(trajectory.token_ids)
                ]
                expected = tuple((t, float(c == "a")) for t, c in enumerate(text) if c)
                assert judgement.stream == (expected or ((len(text) - 1, 0.0),))
                assert judgement.components == {"is_a": float(text.count("a"))}
    assert metrics(folder)[0]["rewards/is_a/mean"] == metrics(folder)[0]["reward"]


def test_broken_samples_are_counted_and_the_run_goes_on_within_its_limit(run_file, capsys):
    functions = [{"function": "judge.py:fragile", "steps": "judge.py:letters"}]
    path, folder = run_file({"functions": functions, "max_broken_fraction": 1.0})
    assert main(["rl", path]) == 0
    assert any(line["broken_fraction"] > 0 for line in metrics(folder))
    path, folder = run_file({"functions": functions, "max_broken_fraction": 0.0}, name="strict")
    assert main(["rl", path]) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "of the judgements are broken, and 0% may be" in shown
    assert "values for the" in shown
    assert "steps = [" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ({"function": "judge.py:is_a", "steps": "lines"}, "there are no steps 'lines'. Did you mean 'line'?"),
        ({"function": "judge.py:is_a", "steps": "judge.py:letter"}, "Did you mean 'letters'?"),
        ({"function": "judge.py:is_a", "steps": {"tags": "a"}}, "Where it is a mapping it names a tag"),
        ({"function": "judge.py:is_a"}, "If it judges an answer's steps, say where they are cut"),
        ({"function": "regex", "options": {"pattern": "a"}, "steps": "line"}, "takes no parameter 'steps'"),
        ({"function": "judge.py:is_a", "steps": 3}, "steps"),
    ],
)
def test_mistakes_in_the_run_file(run_file, capsys, function, message):
    path, folder = run_file({"functions": [function]})
    assert main(["rl", path]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not folder.exists()


@pytest.mark.parametrize(
    "parts",
    [
        {"name": "grpo_process"},
        {"name": "grpo_process", "discount": 0.5, "discount_per": "step"},
        {"name": "dapo", "credit": "process", "group_size": 4},
        {"name": "ppo", "discount": 0.9},
    ],
    ids=lambda parts: "-".join(map(str, parts.values())),
)
def test_a_tiny_model_learns_from_its_steps(model, tmp_path, parts):
    """Each letter is a step: right if it is an a. The reward is the share of right ones."""

    def share(steps):
        return [[float(letter == "a") / 4 for letter in each] for each in steps]

    rewards = learned(tmp_path, model, share, parts)
    assert rewards[0] < 0.15
    assert sum(rewards[-3:]) / 3 > 0.5


def test_a_tiny_model_learns_from_its_worst_steps(model, tmp_path):
    """Each letter is worth the more the earlier it is in the alphabet: a worst one tells something of any answer."""

    def early(steps):
        return [[max(0.0, 1 - abs(ord(s) - ord("a")) / 25) / 4 for s in each] for each in steps]

    rewards = learned(tmp_path, model, early, {"name": "grpo", "credit": "process_min"})
    assert rewards[0] < 0.5
    assert sum(rewards[-3:]) / 3 > 0.65


def learned(folder, model, judge, algorithm):
    """The reward of each of twelve rounds in which every letter is a step."""
    run_rl(
        folder / "run", model, judge=judge, steps=list_letters, algorithm=algorithm,
        run={"rounds": 12, "completions_per_round": 64},
    )  # fmt: skip
    return [line["reward"] for line in metrics(folder / "run")]


def test_a_run_with_credit_by_step_is_gone_on_with(model, tmp_path):
    settings = {
        "judge": lambda steps: [[float(s == "a") for s in each] for each in steps],
        "steps": list_letters,
    }
    parts = {"name": "dapo", "credit": "process", "group_size": 4, "discount": 0.5, "discount_per": "step"}
    run_rl(tmp_path / "whole", model, algorithm=parts, **settings)
    run_rl(tmp_path / "stopped", model, algorithm=parts, run={"rounds": 2}, **settings)
    run_rl(tmp_path / "stopped", model, algorithm=parts, run={"resume": True}, **settings)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def list_letters(text):
    return [(i, i + 1) for i in range(len(text))]


def test_in_python(model, tmp_path):
    def is_a(steps):
        return [[float(step == "a") for step in each] for each in steps]

    def letters(text):
        return [(i, i + 1) for i in range(len(text))]

    runs = []
    for name, reward in {
        "mapping": {"function": is_a, "steps": letters},
        "reward": Reward(is_a, "is_a", steps=letters),
    }.items():
        run = ventaja.rl(
            model={"name": str(model), "device": "cpu", "precision": "float32"}, folder=tmp_path / name, rounds=1,
            prompts=[p.content for p in prompts()], reward=reward, algorithm={"name": "grpo", "group_size": 4},
            sampling={"max_tokens": 4}, run={"completions_per_round": 16, "trackers": []},
        )  # fmt: skip
        [function] = run.config["reward"]["functions"]
        assert function["steps"] == "letters (given in Python)"
        runs.append(run.rollouts(1))
    assert runs[0] == runs[1]
    assert any(len(j.stream) > 1 for group in runs[0] for j in group.judgements)
