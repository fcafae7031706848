"""How often a model is right, by hand."""

from __future__ import annotations

import json
from io import StringIO
from itertools import combinations

import pytest
import torch
from rich.console import Console
from tiny_task import llama, metrics, prompts, quiet, rl_values, tokenizer

from ventaja.environments import Reward, SingleTurn, load_reward
from ventaja.errors import ConfigError, DataError, RewardError, RunError
from ventaja.models import render_prompt
from ventaja.records import Prompt, read_groups
from ventaja.rollouts import Asking, Interrupted, Sampling, ScriptedEngine
from ventaja.training import EvaluationConfig, RlConfig, evaluate, parse, train_rl
from ventaja.training import evaluation as evaluation_module
from ventaja.training.evaluation import full_marks, measure, pass_at_k
from ventaja.training.joints import make_environment
from ventaja.training.prompts import Rendered


@pytest.mark.parametrize(("samples", "right"), [(4, 0), (4, 1), (4, 3), (4, 4), (6, 2)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(samples, right):
    answers = [True] * right + [False] * (samples - right)
    for k in range(1, samples + 1):
        draws = list(combinations(answers, k))
        assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def measured(
    script,
    judge,
    *,
    count=2,
    samples=4,
    max_tokens=4,
    max_broken=1.0,
    full_marks=None,
    should_stop=lambda: False,
):
    asked = prompts(count)
    words = tokenizer()
    return measure(
        Asking(
            engine=ScriptedEngine(words, script),
            sampling=Sampling(max_tokens=max_tokens),
            vocabulary=len(words),
            tokenizer=words,
            should_stop=should_stop,
        ),
        SingleTurn(prompts=asked, rewards=[Reward(judge, "r")]),
        Rendered(prompts=asked, token_ids=[render_prompt(words, prompt) for prompt in asked]),
        samples=samples,
        seed=0,
        max_broken_fraction=max_broken,
        full_marks=full_marks,
    )


def is_right(completions):
    return [1.0 if text == "a" else 0.5 if text == "b" else 0.0 for text in completions]


def test_accuracies_by_hand():
    # prompt a: right, half, wrong, right;  prompt b: wrong, wrong, half, wrong (the last is cut off)
    said = {"a": ["a", "b", "c", "a"], "b": ["c", "c", "b", "cccccc"]}
    result, groups = measured(lambda prompt, k: said[prompt[4]][k], is_right, full_marks={"r": 1.0})
    assert result.problems == 2
    assert result.accuracy_sampled == pytest.approx((2 / 4 + 0) / 2)  # half marks are not right
    assert result.accuracy_greedy == pytest.approx(1 / 2)  # the first answers
    assert result.mean_reward == pytest.approx((1 + 0.5 + 1 + 0.5) / 8)
    assert result.truncated_fraction == pytest.approx(1 / 8)
    # pass@2 of the first: 1 − C(2,2)/C(4,2) = 5/6
    assert result.pass_at == pytest.approx({1: 1 / 4, 2: 5 / 12, 4: 1 / 2})
    assert [len(group) for group in groups] == [4, 4]


def test_a_real_valued_reward_has_no_accuracy():
    said = {"a": ["a", "b", "c", "a"], "b": ["c", "c", "b", "cccccc"]}
    result, _ = measured(lambda prompt, k: said[prompt[4]][k], is_right)  # a reward of 0.5 is seen
    assert (result.accuracy_sampled, result.accuracy_greedy, result.pass_at) == (None, None, {})
    assert result.mean_reward == pytest.approx((1 + 0.5 + 1 + 0.5) / 8)
    # The same function, where only 0 and 1 are seen: answers are right or wrong.
    result, _ = measured(lambda prompt, k: "ac"[k % 2], is_right)
    assert (result.accuracy_sampled, result.accuracy_greedy) == (0.5, 1.0)


def test_a_verifier_says_what_a_right_answer_gets():
    def graded(completions):
        return [min(len(text), 3) / 2 for text in completions]

    assert full_marks([load_reward("exact_match"), load_reward("reasoning_gym", weight=2.0)]) == {
        "exact_match": 1.0, "reasoning_gym": 1.0,
    }  # fmt: skip
    assert full_marks([load_reward(graded)]) is None
    assert full_marks([load_reward("exact_match"), load_reward(graded)]) is None
    graded.full_marks = 1.5
    marks = full_marks([load_reward(graded, name="r", weight=0.1)])
    assert marks == {"r": 1.5}
    said = {"a": ["aaa", "a", "aaaa", "a"], "b": ["a", "aa", "a", "a"]}
    result, _ = measured(lambda prompt, k: said[prompt[4]][k], graded, full_marks=marks, max_tokens=8)
    # 3 letters or more have full marks: 2 of 4, and none; however little the reward weighs
    assert (result.accuracy_sampled, result.accuracy_greedy) == (0.25, 0.5)


def test_what_is_not_judged_does_not_count_as_wrong():
    def judge(completions):
        return [
            None if text == "z" else value
            for text, value in zip(completions, is_right(completions), strict=True)
        ]

    said = {"a": ["a", "z", "z", "a"], "b": ["c", "z", "z", "z"]}
    result, _ = measured(lambda prompt, k: said[prompt[4]][k], judge)
    assert result.accuracy_sampled == pytest.approx((1 + 0) / 2)
    assert result.pass_at == pytest.approx({1: 1 / 2, 2: 1.0})  # only the first has two valid answers


def test_nothing_could_be_judged():
    with pytest.raises(RewardError, match="none of the answers to the 2 problems could be judged"):
        measured(lambda prompt, k: "a", lambda completions: [None] * len(completions))


def test_too_many_broken_judgements_stop_it():
    def judge(completions):
        return [ValueError("cannot read b") if text == "b" else 1.0 for text in completions]

    def said(prompt, k):
        return "b" if k else "a"

    with pytest.raises(RewardError, match="75% of the judgements are broken, and 70% may be"):
        measured(said, judge, max_broken=0.7)
    result, _ = measured(said, judge, max_broken=0.75)
    assert result.mean_reward == 1.0


def test_it_can_be_stopped():
    with pytest.raises(Interrupted):
        measured(lambda prompt, k: "a", is_right, should_stop=lambda: True)


# ---------------------------------------------------------------------- with a model


@pytest.fixture
def task(tmp_path):
    """A file of problems, and a reward file: the share of the letter a."""
    (tmp_path / "judge.py").write_text(
        "def share(completions):\n    return [min(t.count('a'), 1.0) for t in completions]\n"
    )
    lines = [json.dumps({"prompt": f"say {letter}"}) for letter in "abcdef"]
    (tmp_path / "problems.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def evaluation(task, model, **groups):
    values = {
        "model": {"name": str(model), "device": "cpu", "precision": "float32"},
        "data": str(task / "problems.jsonl"),
        "reward": f"{task / 'judge.py'}:share",
        "sampling": {"max_tokens": 4},
        **groups,
    }
    return evaluate(parse(EvaluationConfig, values))


def test_evaluate_a_model(task, model):
    result = evaluation(task, model, samples=2, output=str(task / "answers.parquet"))
    groups = read_groups(task / "answers.parquet")
    assert result.problems == len(groups) == 6
    right = [sum(j.reward >= 1 for j in group.judgements) for group in groups]
    assert result.accuracy_sampled == pytest.approx(sum(right) / 12)
    again = evaluation(task, model, samples=2)
    assert (again.accuracy_sampled, again.accuracy_greedy) == (
        result.accuracy_sampled,
        result.accuracy_greedy,
    )


def test_progress_of_a_measurement(task, model):
    screen = StringIO()
    values = {
        "model": {"name": str(model), "device": "cpu", "precision": "float32"},
        "data": str(task / "problems.jsonl"),
        "reward": f"{task / 'judge.py'}:share",
        "sampling": {"max_tokens": 100},
        "samples": 2,
    }
    evaluate(parse(EvaluationConfig, values), console=Console(file=screen, width=500))
    lines = screen.getvalue().splitlines()
    assert lines[0] == f"Loading {model} …"
    assert "answers are cut off after 59 tokens" in lines[1]  # prompts of 5 in a context of 64
    assert lines[-1].startswith("answer 18/18  tok/s ")  # two samples and a greedy answer for each of six


def test_an_output_that_cannot_be_written_is_found_before_the_work(task, model, monkeypatch):
    monkeypatch.setattr(evaluation_module, "load_model", None)
    (task / "folder").mkdir()
    with pytest.raises(RunError, match=r"this is a folder. Give a file, such as --output .*answers.parquet"):
        evaluation(task, model, output=str(task / "folder"))
    with pytest.raises(RunError) as error:
        evaluation(task, model, output=str(task / "judge.py" / "answers.parquet"))
    assert "or choose another place with --output." in str(error.value)
    assert "--run.folder" not in str(error.value)


def test_greedy_is_the_likeliest_token(task, model):
    """Accuracy 1 if and only if the reward asks for the argmax of transformers' own logits."""
    with torch.no_grad():
        logits = llama()(torch.tensor([tokenizer()("say a")["input_ids"]])).logits[0, -1]
    likeliest = tokenizer().decode([int(logits.argmax())], skip_special_tokens=True)
    (task / "problems.jsonl").write_text('{"prompt": "say a"}\n')
    for wanted, accuracy in ((likeliest, 1.0), (likeliest + "x", 0.0)):
        (task / "judge.py").write_text(
            f"def share(completions):\n    return [float(t == {wanted!r}) for t in completions]\n"
        )
        assert evaluation(task, model, sampling={"max_tokens": 1}).accuracy_greedy == accuracy


def test_problems_that_were_trained_on_are_left_out(task, model):
    trained = task / "trained.jsonl"
    trained.write_text('{"prompt": "say a"}\n{"prompt": "say b"}\n')
    output = task / "answers.parquet"
    problems = {"source": str(task / "problems.jsonl")}
    evaluation(task, model, data={**problems, "exclude": [{"source": str(trained)}]}, output=str(output))
    assert sorted(group.prompt.content for group in read_groups(output)) == [
        "say c",
        "say d",
        "say e",
        "say f",
    ]
    with pytest.raises(DataError, match="no row is left"):
        evaluation(task, model, data={**problems, "exclude": [problems]})


# ---------------------------------------------------------------------- while training


def trained(task, model, given, *, judge=is_right, **groups):
    config = parse(RlConfig, rl_values(task / "run", model, **groups))
    environment = make_environment(config, prompts=given, rewards=[Reward(judge, "r")])
    return train_rl(config, environment=environment, console=quiet())


def asked_prompts(seen):
    def judge(prompts, completions):
        seen.append(list(prompts))
        return is_right(completions)

    return judge


def test_held_out_problems_share_none_with_training(task, model):
    given = [Prompt(id=f"g:{letter}", content=f"say {letter}") for letter in "efghij"]
    seen = []
    trained(
        task, model, given, judge=asked_prompts(seen),
        eval={"source": str(task / "problems.jsonl"), "every": 2},
    )  # fmt: skip
    assert ["eval/accuracy_greedy" in line for line in metrics(task / "run")] == [False, True, True]
    held_out = {f"say {letter}" for letter in "abcdef"}
    learnt = {f"say {letter}" for letter in "ghij"}  # e and f are asked only to measure
    # round 1, round 2, sampled and greedy, round 3, sampled and greedy
    expected = [learnt, learnt, held_out, held_out, learnt, held_out, held_out]
    assert [set(asked) for asked in seen] == expected


def test_nothing_is_left_to_train_on(task, model):
    given = [Prompt(id=f"g:{letter}", content=f"say {letter}") for letter in "ef"]
    with pytest.raises(ConfigError, match=r"every prompt is also held out"):
        trained(task, model, given, eval={"source": str(task / "problems.jsonl"), "every": 1})
    with pytest.raises(ConfigError, match=r"eval.source: must be set"):
        trained(task, model, given, eval={"every": 1})
    assert not (task / "run").exists()


def test_measuring_does_not_change_what_is_learnt(task, model):
    given = [Prompt(id=f"g:{letter}", content=f"say {letter}") for letter in "ghij"]
    trained(task, model, given, eval={"source": str(task / "problems.jsonl"), "every": 1})
    with_it = [{k: v for k, v in line.items() if not k.startswith("eval/")} for line in metrics(task / "run")]
    (task / "run").rename(task / "measured")
    trained(task, model, given)
    assert metrics(task / "run") == with_it
