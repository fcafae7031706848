"""The world of one question and one answer."""

from datetime import date
from decimal import Decimal

import pytest

from ventaja.environments import Environment, Reward, SingleTurn, load_reward
from ventaja.errors import ConfigError, DataError


def picky(completions, level):
    if "bad" in completions:
        raise ValueError("cannot read bad")
    return [1.0] * len(completions)


def test_it_judges_and_knows_all_columns(group):
    easy, plain = group("a", level=1), group("b", id="t.jsonl:2")
    world: Environment = SingleTurn(prompts=[easy.prompt, plain.prompt], rewards=[load_reward(picky)])
    # the second prompt has no level, but the data set does
    assert world.judge([plain])[0].judgements[0].reward == 1.0


def test_what_is_wrong_is_said_before_the_first_round(group):
    prompt = group("a", level=1).prompt
    with pytest.raises(DataError, match="there are no prompts to ask"):
        SingleTurn(prompts=[], rewards=[load_reward(picky)])
    with pytest.raises(ConfigError, match="there is no reward function"):
        SingleTurn(prompts=[prompt], rewards=[])
    with pytest.raises(ConfigError, match="'exact_match' requires 'answer', which the prompts do not have"):
        SingleTurn(prompts=[prompt], rewards=[load_reward("exact_match")])
    with pytest.raises(ConfigError, match="the time limit of the rewards is 0"):
        SingleTurn(prompts=[prompt], rewards=[Reward(picky, "picky")], timeout=0.0)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (date(2026, 1, 2), "datetime.date"),
        (Decimal(1), "decimal.Decimal"),
        ({3}, "set"),
        ({1: 2}, "the key 1"),
    ],
)
def test_a_column_that_no_file_can_keep_is_found_at_once(group, value, problem):
    prompt = group("a", id="t.jsonl:7", level=1, when=[value]).prompt
    with pytest.raises(
        DataError, match=rf"t.jsonl:7: column 'when' holds .*{problem}, which JSON cannot keep"
    ):
        SingleTurn(prompts=[prompt], rewards=[load_reward(picky)])
