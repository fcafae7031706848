"""From rewards to advantages, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_task import completion, group
from torch.testing import assert_close

from ventaja.records import Fault, Group, Judgement, Prompt, StopReason
from ventaja.training.algorithms import GRPO, PPO, REINFORCE, Algorithm
from ventaja.training.batch import Batch
from ventaja.training.config import RewardConfig
from ventaja.training.credit import (
    RunningMean,
    assign_advantages,
    has_spread,
    judged_batch,
    reward_table,
    takes_part,
)

PENALISED = RewardConfig(truncated="penalise", truncation_penalty=0.75)
FAULT = Fault(function="f", error="ValueError", detail="")
BASE = Algorithm(name="test", group_size=3, token_weight="sequence_sum")


def judged(answers, judgements, stops=None):
    stops = stops or [StopReason.EOS] * len(answers)
    return Group(
        prompt=Prompt(id="p", content="?"),
        prompt_ids=(9,),
        completions=tuple(completion(*ids, stop=stop) for ids, stop in zip(answers, stops, strict=True)),
        judgements=tuple(judgements),
    )


def advantages(groups, running=None, /, **parts):
    algorithm = replace(BASE, **parts)
    batch = Batch.of_groups(groups)
    return assign_advantages(batch, reward_table(groups, batch), algorithm, running or RunningMean())


GROUPS = [
    group((1,), [(5, 6), (5,), (7,)], [1.0, 0.0, 2.0]),
    group((2,), [(5,), (6,), (7,)], [4.0, 4.0, 7.0]),
]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, [1.0, 0.0, 2.0, 4.0, 4.0, 7.0]),
        ({"baseline": "constant", "baseline_value": 0.5}, [0.5, -0.5, 1.5, 3.5, 3.5, 6.5]),
        ({"baseline": "running_mean"}, [-1.0, -2.0, 0.0, 2.0, 2.0, 5.0]),  # less 2
        ({"baseline": "batch_mean"}, [-2.0, -3.0, -1.0, 1.0, 1.0, 4.0]),  # less 18/6
        ({"baseline": "group_mean"}, [0.0, -1.0, 1.0, -1.0, -1.0, 2.0]),  # less 1 and 5
        # less the mean of the other two: 1, 1.5, 0.5 and 5.5, 5.5, 4
        ({"baseline": "leave_one_out"}, [0.0, -1.5, 1.5, -1.5, -1.5, 3.0]),
        # deviations (n − 1) 1 and √3
        (
            {"baseline": "group_mean", "scale": "group_std"},
            [0.0, -1.0, 1.0, -(3**-0.5), -(3**-0.5), 2 * 3**-0.5],
        ),
    ],
    ids=lambda value: str(value.get("scale") or value.get("baseline")) if isinstance(value, dict) else "",
)
def test_each_baseline(parts, expected):
    found = advantages(GROUPS, RunningMean(2.0, 7), **parts)
    assert_close(found[:, 0], torch.tensor(expected), rtol=1e-5, atol=1e-6)
    # every token of an answer has its answer's advantage, and there is nothing beyond its end
    assert_close(found[0, 1], found[0, 0])
    assert found[1:, 1].count_nonzero() == 0


def test_batch_std_is_over_tokens():
    # four tokens with 3, 3, 0, 0: mean 1.5, deviation √(4·2.25/3) = √3
    groups = [group((1,), [(5, 6), (5,), (7,)], [3.0, 0.0, 0.0])]
    found = advantages(groups, scale="batch_std")
    assert_close(found[:, 0], torch.tensor([1.5, -1.5, -1.5]) / 3**0.5, rtol=1e-5, atol=1e-6)


def test_to_go_with_the_kl_in_the_reward():
    # rewards per token: −0.1·KL, and the outcome at the last;  KL = 1, 2, 3 and 4
    groups = [group((1,), [(5, 6, 7), (5,)], [1.0, 2.0])]
    batch = Batch.of_groups(groups)
    kl_ST = torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])
    reward_ST = reward_table(groups, batch) - 0.1 * kl_ST
    plain = replace(BASE, credit="to_go")
    expected = torch.tensor([[0.4, 0.5, 0.7], [1.6, 0.0, 0.0]])  # 1 − .1·6, 1 − .1·5, 1 − .1·3;  2 − .1·4
    assert_close(assign_advantages(batch, reward_ST, plain, RunningMean()), expected)
    # the batch's mean is over the four tokens: 3.2/4
    centred = assign_advantages(batch, reward_ST, replace(plain, baseline="batch_mean"), RunningMean())
    inside = torch.tensor([[True, True, True], [True, False, False]])
    assert_close(centred, (expected - 0.8).where(inside, 0.0))
    whole = assign_advantages(batch, reward_ST, BASE, RunningMean())
    assert_close(whole, torch.tensor([[0.4, 0.4, 0.4], [1.6, 0.0, 0.0]]))


def test_rewards_stand_at_the_tokens_that_earned_them():
    groups = [judged([(1, 2, 3)], [Judgement(stream=((0, 1.0), (2, -0.5)))])]
    batch = Batch.of_groups(groups)
    reward_ST = reward_table(groups, batch)
    assert reward_ST.tolist() == [[1.0, 0.0, -0.5]]
    to_go = replace(REINFORCE, credit="to_go", baseline="none")
    assert assign_advantages(batch, reward_ST, to_go, RunningMean()).tolist() == [[0.5, -0.5, -0.5]]


def test_broken_and_unjudged_answers_take_no_part():
    broken = Judgement(stream=((0, 1000.0),), faults=(FAULT,))
    groups = [
        judged([(1,), (2, 3), (4,), (5,)], [Judgement.outcome(1.0, length=1), broken, Judgement(),
                                            Judgement.outcome(0.0, length=1)]),
        judged([(6,), (7,)], [Judgement(), Judgement.outcome(5.0, length=1)]),
    ]  # fmt: skip
    batch = Batch.of_groups(groups)
    assert batch.answers == [(1,), (5,), (7,)]
    assert batch.group_S.tolist() == [0, 0, 1]
    assert batch.longest == 1
    # the mean of 1 and 0 is a half; the other group has one answer left, and nothing to compare it with
    assert advantages(groups, baseline="group_mean")[:, 0].tolist() == [0.5, -0.5, 0.0]
    assert advantages(groups, baseline="leave_one_out")[:, 0].tolist() == [1.0, -1.0, 0.0]
    assert advantages(groups, baseline="batch_mean")[:, 0].tolist() == [-1.0, -2.0, 3.0]


def test_a_first_group_without_any_valid_answer():
    groups = [
        judged([(1,), (2,)], [Judgement(), Judgement()]),
        judged([(6,), (7,)], [Judgement.outcome(1.0, length=1), Judgement.outcome(3.0, length=1)]),
    ]
    assert advantages(groups, baseline="group_mean")[:, 0].tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("parts", [{}, {"baseline": "group_mean"}, {"baseline": "batch_mean"}])
def test_no_valid_answer_at_all(parts):
    groups = [judged([(1,), (2,)], [Judgement(), Judgement()])]
    assert advantages(groups, **parts).shape == (0, 0)


def test_the_penalty_for_being_cut_off():
    stops = [StopReason.LENGTH, StopReason.EOS]
    judgements = [Judgement.outcome(1.0, length=2), Judgement.outcome(1.0, length=2)]
    groups = [judged([(1, 2), (3, 4)], judgements, stops)]
    batch = Batch.of_groups(groups)
    assert reward_table(groups, batch, PENALISED).tolist() == [[0.0, 0.25], [0.0, 1.0]]


def test_what_is_masked_has_no_advantage_and_no_part_in_those_of_others():
    groups = [group((1,), [(5,), (6,), (7,)], [1.0, 0.0, 3.0])]
    batch = Batch.of_groups(groups)
    batch.is_action_ST[2] = False
    reward_ST = reward_table(groups, batch)
    for parts in ({"baseline": "group_mean"}, {"baseline": "batch_mean"}):
        found = assign_advantages(batch, reward_ST, replace(BASE, **parts), RunningMean())
        assert found[:, 0].tolist() == [0.5, -0.5, 0.0]  # less the mean of 1 and 0
    to_go = replace(BASE, credit="to_go", baseline="batch_mean")
    assert assign_advantages(batch, reward_ST, to_go, RunningMean())[:, 0].tolist() == [0.5, -0.5, 0.0]
    batch.is_action_ST[1] = False
    found = assign_advantages(batch, reward_ST, replace(GRPO, scale="none"), RunningMean())
    assert found[:, 0].tolist() == [0.0, 0.0, 0.0]  # one alone has nothing to be compared with
    # whitening looks only at what takes part: one token alone has no spread
    whitened = assign_advantages(batch, reward_table(groups, batch), PPO, RunningMean())
    assert whitened[:, 0].tolist() == [0.0, 0.0, 0.0]


def test_a_soft_punishment_for_length():
    how = RewardConfig(overlong_buffer=2, overlong_penalty=0.5)
    groups = [group((1,), [(5,), (5, 6, 7), (5, 6, 7, 8)], [1.0, 1.0, 1.0])]
    batch, reward_ST = judged_batch(groups, how, max_tokens=4)
    # of 4 tokens 2 are free; the third costs half of 0.5, the fourth all of it, at the answer's last token
    expected = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0.75, 0], [0, 0, 0, 0.5]])
    assert_close(reward_ST, expected)
    assert takes_part(batch).all()


MASK = RewardConfig(truncated="mask")
PUNISH = RewardConfig(overlong_buffer=1)


@pytest.mark.parametrize(
    ("rewards", "lengths", "cut", "how", "spread"),
    [
        ([1.0, 1.0], [1, 1], [], RewardConfig(), False),
        ([1.0, 0.0], [1, 1], [], RewardConfig(), True),
        ([1.0, 1.0], [1, 2], [1], PENALISED, True),  # alike as judged, not as trained
        ([0.75, 0.0], [2, 1], [0], PENALISED, False),  # 0.75 − 0.75: the other way round
        ([1.0, 0.0], [2, 1], [0], MASK, False),  # one alone takes part
        ([0.0, 1.0, 1.0], [2, 1, 1], [0], MASK, False),
        ([1.0, 1.0], [1, 2], [], PUNISH, True),
        ([None, 1.0], [1, 1], [], RewardConfig(), False),
    ],
)
def test_a_group_has_spread_exactly_if_it_gets_advantages(rewards, lengths, cut, how, spread):
    answers = [tuple(range(5, 5 + n)) for n in lengths]
    judgements = [
        Judgement() if r is None else Judgement.outcome(r, length=n)
        for r, n in zip(rewards, lengths, strict=True)
    ]
    stops = [StopReason.LENGTH if k in cut else StopReason.EOS for k in range(len(answers))]
    one = judged(answers, judgements, stops)
    assert has_spread(one, how, max_tokens=2) is spread
    batch, reward_ST = judged_batch([one], how, max_tokens=2)
    found = assign_advantages(batch, reward_ST, replace(BASE, baseline="group_mean"), RunningMean())
    assert bool(found.any()) is spread


def test_the_running_mean():
    first = RunningMean().update(2.0)
    assert first == RunningMean(2.0, 1)
    second = first.update(4.0)
    assert second == RunningMean(3.0, 2)  # evenly at first
    mean = RunningMean(1.0, 100).update(2.0)
    assert mean.value == pytest.approx(0.9 * 1.0 + 0.1 * 2.0)
    # with ten rounds behind it, 10/11 > 0.9: the memory takes over
    assert RunningMean(0.0, 10).update(1.0).value == pytest.approx(0.1)
    assert RunningMean(0.0, 8).update(1.0).value == pytest.approx(1 / 9)
