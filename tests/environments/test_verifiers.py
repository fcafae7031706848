"""The built-in rewards, for real."""

import ast

import pytest

from ventaja.environments import _worker as worker
from ventaja.environments import default_rewards, judge, load_prompts, load_reward
from ventaja.environments.generated import _plain
from ventaja.errors import ConfigError


@pytest.fixture(autouse=True, scope="module")
def _no_process_left():
    yield
    worker.close_workers()


def scores(groups, name, **options):
    groups = judge(groups, [load_reward(name, options=options)], timeout=60.0)
    return [judgement.components[name] for each in groups for judgement in each.judgements]


def test_exact_match(group):
    texts = group(" Four\n", "four", "five", answer="four")
    assert scores([texts], "exact_match") == [0.0, 1.0, 0.0]
    assert scores([texts], "exact_match", ignore_case=True) == [1.0, 1.0, 0.0]
    assert scores([group(" 4", "4", answer=4)], "exact_match", strip=False) == [0.0, 1.0]
    assert scores([group("4", answer=None)], "exact_match") == [None]
    chat = group("4", content=({"role": "user", "content": "2+2"},), gold="4")
    assert scores([chat], "exact_match", column="gold") == [1.0]


def test_exact_match_without_its_column(group):
    with pytest.raises(
        ConfigError, match="'exact_match' requires 'answer', which the prompts do not have"
    ) as error:
        scores([group("4", answers="4")], "exact_match")
    assert "Did you mean 'answers'?" in str(error.value)


def test_regex_asks_whether_it_is_found(group):
    texts = group("<think>2</think>4", "4")
    assert scores([texts], "regex", pattern="(?s)^<think>.*</think>") == [1.0, 0.0]


def test_regex_compares_the_last_capture(group):
    texts = group("#### 3\n#### 4", "#### 4\n#### 3", "4", answer=4)
    pattern = r"#### (?P<final>-?\d+)"
    assert scores([texts], "regex", pattern=pattern, column="answer") == [1.0, 0.0, 0.0]
    assert scores([texts], "regex", pattern=pattern, group="final", column="answer") == [1.0, 0.0, 0.0]
    assert scores([texts], "regex", pattern=r"\d", column="answer") == [1.0, 0.0, 1.0]  # the whole match


def test_math_verify_and_the_sum_that_never_ends(group):
    texts = group(r"So \boxed{\frac12}.", "The answer is 0.5", "$50/100$", "1/3", "no idea", answer="0.5")
    points = group(r"\boxed{(1,2)}", r"\boxed{(2,1)}", answer="(1,2)")
    endless = group(r"\boxed{9^{9^9}}", "7", answer="7")
    nothing = group("7", answer=None)
    groups = [texts, points, endless, nothing]
    reward = load_reward("math_verify", options={"timeout": 1.0})
    judged = judge(groups, [reward], timeout=60.0)
    first, second, third, fourth = (
        [judgement.components["math_verify"] for judgement in each.judgements] for each in judged
    )
    assert first == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert second == [1.0, 0.0]
    assert third == [None, 1.0]
    assert fourth == [None]
    (fault,) = judged[2].judgements[0].faults
    assert fault.error == "TimeoutError: no verdict within 1 s; its process was stopped"


def test_an_expected_answer_that_is_no_mathematics(group):
    (judgement,) = judge([group("7", answer="")], [load_reward("math_verify")], timeout=60.0)[0].judgements
    assert judgement.faults[0].error == "ValueError: the expected answer '' cannot be read as mathematics"


def test_reasoning_gym_scores_its_own_task(group):
    (prompt,) = load_prompts("reasoning_gym:chain_sum", size=1, seed=1)
    assert prompt.columns["answer"] == "-4"  # 4 - 1 - 7
    texts = group(
        "-4", " -4\n", "x -4", "5", "", "<a>3</a><a> -4 </a>", content=prompt.content, **prompt.columns
    )
    # chain_sum gives an answer that only contains the right one its share: 2 of 4, 2 of 19 characters
    assert scores([texts], "reasoning_gym") == [1.0, 1.0, 0.5, 0.0, 0.0, 2 / 19]
    assert scores([texts], "reasoning_gym", strict=True) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert scores([texts], "reasoning_gym", tag="a") == [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def test_reasoning_gym_leaves_other_prompts_to_other_rewards(group):
    (prompt,) = load_prompts("reasoning_gym:chain_sum", size=1, seed=1)
    assert scores([group("-4", **prompt.columns), group("4", answer="4")], "reasoning_gym") == [1.0, None]


def test_a_composite_of_tasks(group):
    parts = [{"name": "chain_sum", "weight": 1.0}, {"name": "leg_counting", "config": {"max_animals": 4}}]
    prompts = load_prompts("reasoning_gym:composite", options={"datasets": parts}, size=4)
    assert {prompt.columns["metadata"]["source_dataset"] for prompt in prompts} == {
        "chain_sum",
        "leg_counting",
    }
    groups = [group(prompt.columns["answer"], **prompt.columns) for prompt in prompts]
    assert scores(groups, "reasoning_gym") == [1.0] * 4


def test_default_rewards():
    assert [reward.name for reward in default_rewards("reasoning_gym:chain_sum")] == ["reasoning_gym"]
    with pytest.raises(
        ConfigError, match=r"the prompts of 'a\.jsonl' bring no reward of their own\. Name one"
    ):
        default_rewards("a.jsonl")


def test_entries_reach_the_process_unchanged():
    import numpy as np

    entry = {"a": (1, {2}), 3: [np.str_("x"), np.float64(0.5), True, None]}
    plain = _plain(entry)
    assert plain == entry
    assert ast.literal_eval(repr(plain)) == plain


def test_a_process_that_died_is_replaced(group):
    assert scores([group("7", answer="7")], "math_verify") == [1.0]
    for child in worker._idle["math_verify"]:
        child._process.kill()
        child._process.wait()
    assert scores([group("7", answer="7")], "math_verify") == [1.0]


def test_a_verifier_whose_package_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package math-verify.*pip install 'ventaja\[tasks\]'"):
        load_reward("math_verify")
