"""From rewards to advantages, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_task import completion, group
from torch.testing import assert_close

from ventaja.errors import ConfigError
from ventaja.records import Fault, Given, Group, Judgement, Prompt, StopReason, Trajectory
from ventaja.training.algorithms import GRPO, GRPO_PROCESS, PPO_CLIP, REINFORCE, RLOO, Algorithm, customised
from ventaja.training.batch import Batch
from ventaja.training.config import RewardConfig
from ventaja.training.credit import RunningMean, credit, has_spread
from ventaja.training.truncation import AS_JUDGED, Truncation

PENALISED = RewardConfig(truncated="penalise", truncation_penalty=0.75)
FAULT = Fault(function="f", error="ValueError", detail="")
BASE = Algorithm(name="test", group_size=3, token_weight="sequence_sum")


def judged(answers, judgements, stops=None):
    stops = stops or [StopReason.EOS] * len(answers)
    return Group(
        prompt=Prompt(id="p", content="?"),
        prompt_ids=(9,),
        trajectories=tuple(
            Trajectory.of(completion(*ids, stop=stop)) for ids, stop in zip(answers, stops, strict=True)
        ),
        judgements=tuple(judgements),
    )


def advantages(groups, running=None, /, *, truncation=AS_JUDGED, **parts):
    batch = Batch.of_groups(groups, truncation)
    return credit(batch, replace(BASE, **parts), running=running or RunningMean()).columns["advantage"]


def token_rewards(groups, how=None, *, max_tokens=0):
    truncation = AS_JUDGED if how is None else Truncation(how=how, max_tokens=max_tokens)
    return Batch.of_groups(groups, truncation).columns["token_reward"]


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
    batch = Batch.of_groups([group((1,), [(5, 6, 7), (5,)], [1.0, 2.0])]).with_columns(
        old_logprob=torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]), ref_logprob=torch.zeros(2, 3)
    )
    kl = {"kl": "reward", "kl_estimator": "k1", "kl_coef": 0.1}

    def found(**parts):
        return credit(batch, replace(BASE, **kl, **parts), kl_coef=0.1).columns["advantage"]

    expected = torch.tensor([[0.4, 0.5, 0.7], [1.6, 0.0, 0.0]])  # 1 − .1·6, 1 − .1·5, 1 − .1·3;  2 − .1·4
    assert_close(found(credit="to_go"), expected)
    # the batch's mean is over the four tokens: 3.2/4
    inside = torch.tensor([[True, True, True], [True, False, False]])
    assert_close(found(credit="to_go", baseline="batch_mean"), (expected - 0.8).where(inside, 0.0))
    assert_close(found(), torch.tensor([[0.4, 0.4, 0.4], [1.6, 0.0, 0.0]]))
    credited = credit(batch, replace(BASE, **kl), kl_coef=0.1)
    assert_close(credited.columns["token_reward"], torch.tensor([[-0.1, -0.2, 0.7], [1.6, 0.0, 0.0]]))
    assert batch.columns["token_reward"].tolist() == [[0.0, 0.0, 1.0], [2.0, 0.0, 0.0]]  # as it was


def test_rewards_stand_at_the_tokens_that_earned_them():
    groups = [judged([(1, 2, 3)], [Judgement(stream=((0, 1.0), (2, -0.5)))])]
    assert token_rewards(groups).tolist() == [[1.0, 0.0, -0.5]]
    to_go = replace(REINFORCE, credit="to_go", baseline="none")
    assert credit(Batch.of_groups(groups), to_go).columns["advantage"].tolist() == [[0.5, -0.5, -0.5]]


def episode(*turns):
    """A trajectory of turns: an integer is a token that was chosen, one in a list was given."""
    made = tuple(
        Given(token_ids=tuple(turn), text="", role="tool") if isinstance(turn, list) else completion(*turn)
        for turn in turns
    )
    return Trajectory(turns=made, is_truncated=False)


def test_tokens_that_were_given_have_no_advantage_and_no_part_in_statistics():
    # chosen 5, 6; given 7, 8, 9; chosen 6. The tool's last token earns 0.5, the end 1.
    one = episode((5, 6), [7, 8, 9], (6,))
    two = episode((5,))
    made = Group(
        prompt=Prompt(id="p", content="?"),
        prompt_ids=(1,),
        trajectories=(one, two),
        judgements=(Judgement(stream=((4, 0.5), (5, 1.0))), Judgement(stream=((0, 0.5),))),
    )
    batch = Batch.of_groups([made])
    assert batch.is_action_ST.tolist() == [[True, True, False, False, False, True], [True] + [False] * 5]
    assert batch.columns["sampler_logprob"].tolist() == [[-1, -1, 0, 0, 0, -1], [-1, 0, 0, 0, 0, 0]]
    whole = credit(batch, replace(BASE, baseline="group_mean")).columns["advantage"]
    assert whole.tolist() == [[0.5, 0.5, 0, 0, 0, 0.5], [-0.5, 0, 0, 0, 0, 0]]  # 1.5 and 0.5, less 1
    to_go = credit(batch, replace(BASE, credit="to_go")).columns["advantage"]
    assert to_go.tolist() == [[1.5, 1.5, 0, 0, 0, 1.0], [0.5, 0, 0, 0, 0, 0]]
    # the mean of the four chosen tokens' returns: (1.5 + 1.5 + 1 + 0.5) / 4
    centred = credit(batch, replace(BASE, credit="to_go", baseline="batch_mean")).columns["advantage"]
    assert_close(centred[0], torch.tensor([0.375, 0.375, 0, 0, 0, -0.125]))
    [row] = batch.rows([0, 1], max_tokens=100)
    assert row.packed.target_M.tolist() == [5, 6, 6, 5]  # what is predicted
    assert row.time_M.tolist() == [0, 1, 5, 0]
    assert row.packed.token_ids_N.tolist() == [1, 5, 6, 7, 8, 9]  # what is read


def test_broken_and_unjudged_answers_take_no_part():
    broken = Judgement(stream=((0, 1000.0),), faults=(FAULT,))
    groups = [
        judged([(1,), (2, 3), (4,), (5,)], [Judgement.outcome(1.0, length=1), broken, Judgement(),
                                            Judgement.outcome(0.0, length=1)]),
        judged([(6,), (7,)], [Judgement(), Judgement.outcome(5.0, length=1)]),
    ]  # fmt: skip
    batch = Batch.of_groups(groups)
    assert [sample.token_ids for sample in batch.samples] == [(1,), (5,), (7,)]
    assert [(sample.group, sample.index) for sample in batch.samples] == [(0, 0), (0, 3), (1, 1)]
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
    assert token_rewards(groups, PENALISED).tolist() == [[0.0, 0.25], [0.0, 1.0]]


def test_what_is_masked_has_no_advantage_and_no_part_in_those_of_others():
    def found(*cut, **parts):
        stops = [StopReason.LENGTH if k in cut else StopReason.EOS for k in range(3)]
        judgements = [Judgement.outcome(r, length=1) for r in (1.0, 0.0, 3.0)]
        groups = [judged([(5,), (6,), (7,)], judgements, stops)]
        truncation = Truncation(how=MASK, max_tokens=1)
        if "algorithm" in parts:
            return (
                credit(Batch.of_groups(groups, truncation), parts["algorithm"])
                .columns["advantage"][:, 0]
                .tolist()
            )
        return advantages(groups, truncation=truncation, **parts)[:, 0].tolist()

    for parts in ({"baseline": "group_mean"}, {"baseline": "batch_mean"}):
        assert found(2, **parts) == [0.5, -0.5, 0.0]  # less the mean of 1 and 0
    assert found(2, credit="to_go", baseline="batch_mean") == [0.5, -0.5, 0.0]
    assert found(1, 2, algorithm=replace(GRPO, scale="none")) == [
        0.0,
        0.0,
        0.0,
    ]  # alone, with nothing to compare
    # whitening looks only at what takes part: one token alone has no spread
    whitened = replace(PPO_CLIP, kl="none", kl_coef=0.0)
    assert found(1, 2, algorithm=whitened) == [0.0, 0.0, 0.0]


def test_a_soft_punishment_for_length():
    how = RewardConfig(overlong_buffer=2, overlong_penalty=0.5)
    groups = [group((1,), [(5,), (5, 6, 7), (5, 6, 7, 8)], [1.0, 1.0, 1.0])]
    # of 4 tokens 2 are free; the third costs half of 0.5, the fourth all of it, at the answer's last token
    expected = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0.75, 0], [0, 0, 0, 0.5]])
    assert_close(token_rewards(groups, how, max_tokens=4), expected)
    assert Batch.of_groups(groups, Truncation(how=how, max_tokens=4)).takes_part_S.all()


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
    batch = Batch.of_groups([one], Truncation(how=how, max_tokens=2))
    assert has_spread(batch, BASE) == {0: spread}
    found = credit(batch, replace(BASE, baseline="group_mean")).columns["advantage"]
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


# ---------------------------------------------------------------------- credit by step


def stepped(*answers):
    """A group whose answers are lists with each token's reward, None where there is none."""
    judgements = [
        Judgement(stream=tuple((t, float(r)) for t, r in enumerate(answer) if r is not None))
        for answer in answers
    ]
    return judged([tuple(range(5, 5 + len(answer))) for answer in answers], judgements)


PROCESS = {"credit": "process", "baseline": "group_mean"}
STEPS = stepped([None, 1, 0], [None, None, 0, 3])
"""Two answers with the step rewards 1, 0 and 0, 3: their mean is 1, the squares of what is left 0, 1, 1, 4."""


def test_process_rewards_by_hand():
    # centred: 0, −1 and −1, 2.  From each token on: 0 − 1, 0 − 1, −1;  −1 + 2, −1 + 2, −1 + 2, 2
    expected = torch.tensor([[-1.0, -1.0, -1.0, 0.0], [1.0, 1.0, 1.0, 2.0]])
    assert_close(advantages([STEPS], **PROCESS), expected)
    deviation = (6 / 3) ** 0.5  # of four, less one
    assert_close(
        advantages([STEPS], **PROCESS, scale="group_std"), expected / deviation, rtol=1e-5, atol=1e-6
    )
    assert_close(advantages([STEPS], credit="process"), advantages([STEPS], credit="to_go"))


def test_process_rewards_with_a_discount_by_hand():
    # centred 0 at 1 and −1 at 2; −1 at 2 and 2 at 3; γ = 1/2.  Per step a token's own step is not discounted:
    per_step = torch.tensor([[-0.5, -0.5, -1.0, 0.0], [0.0, 0.0, 0.0, 2.0]])  # −1/2, −1;  −1 + 2/2, 2
    assert_close(advantages([STEPS], **PROCESS, discount=0.5, discount_per="step"), per_step)
    # per token: 0/2 − 1/4, 0 − 1/2, −1;  −1/4 + 2/8, −1/2 + 2/4, −1 + 2/2, 2
    per_token = torch.tensor([[-0.25, -0.5, -1.0, 0.0], [0.0, 0.0, 0.0, 2.0]])
    assert_close(advantages([STEPS], **PROCESS, discount=0.5), per_token)
    to_go = advantages([STEPS], credit="to_go", discount=0.5)
    assert_close(to_go, torch.tensor([[0.5, 1.0, 0.0, 0.0], [0.375, 0.75, 1.5, 3.0]]))  # 3/8, 3/4, 3/2, 3


def test_the_least_of_process_rewards_by_hand():
    # centred: 0, −1 and −1, 2.  The least from each token on, and nothing after the last step
    expected = torch.tensor([[-1.0, -1.0, -1.0, 0.0], [-1.0, -1.0, -1.0, 2.0]])
    least = {**PROCESS, "credit": "process_min"}
    assert_close(advantages([STEPS], **least), expected)
    assert_close(advantages([STEPS], **least, scale="group_std"), expected / 2**0.5, rtol=1e-5, atol=1e-6)
    found = advantages([stepped([1, None, -1, 1, None], [None, 2, 3])], credit="process_min")
    assert found.tolist() == [[-1, -1, -1, 1, 0], [2, 2, 3, 0, 0]]


def test_with_one_reward_at_the_end_credit_by_step_is_that_of_the_outcome():
    for algorithm in (GRPO, replace(GRPO, scale="none")):
        plain = credit(Batch.of_groups(GROUPS), algorithm).columns["advantage"]
        for name in ("process", "process_min"):
            found = credit(Batch.of_groups(GROUPS), replace(algorithm, credit=name)).columns["advantage"]
            assert torch.equal(found, plain)


@pytest.mark.parametrize("name", ["process", "process_min"])
def test_what_changes_nothing(name):
    """A constant for every step and, with the deviation divided out, a factor; answers in another order; other groups."""
    algorithm = replace(GRPO, credit=name)
    answers = [[None, 1, 0], [2, None, 0, 3], [1, 1], [-2, None, 0.5]]
    usual = credit(Batch.of_groups([stepped(*answers)]), algorithm).columns["advantage"]
    changed = [[None if r is None else 3 * r + 7 for r in answer] for answer in answers]
    found = credit(Batch.of_groups([stepped(*changed)]), algorithm).columns["advantage"]
    assert_close(found, usual, rtol=1e-5, atol=1e-5)
    other = stepped([5, None, 9], [None, 100])
    found = credit(Batch.of_groups([other, stepped(*answers[::-1]), other]), algorithm).columns["advantage"]
    assert_close(found[2:6].flip(0), usual)
    assert usual.any()


@pytest.mark.parametrize("name", ["process", "process_min"])
def test_what_is_masked_or_given_has_no_part_in_credit_by_step(name):
    algorithm = replace(GRPO, credit=name)
    answers = [[None, 1, 0], [2, None, 3]]
    usual = credit(Batch.of_groups([stepped(*answers)]), algorithm).columns["advantage"]
    three = stepped(*answers, [None, 50, 90])
    cut = replace(
        three,
        trajectories=(*three.trajectories[:2], replace(three.trajectories[2], is_truncated=True)),
    )
    batch = Batch.of_groups([cut], Truncation(how=MASK, max_tokens=3))
    found = credit(batch, algorithm).columns["advantage"]
    assert_close(found[:2], usual)
    assert not found[2].any()
    assert has_spread(batch, algorithm) == {0: True}
    given = episode((5,), [7, 8], (6, 6))  # two steps: the first ends at a token that was given
    one = Group(
        prompt=Prompt(id="p", content="?"),
        prompt_ids=(1,),
        trajectories=(given, Trajectory.of(completion(5, 6))),
        judgements=(Judgement(stream=((2, 1.0), (4, 0.0))), Judgement(stream=((0, 2.0), (1, 1.0)))),
    )
    found = credit(Batch.of_groups([one]), replace(algorithm, scale="none")).columns["advantage"]
    # the mean of 1, 0, 2, 1 is 1: what is left is 0 and −1, 1 and 0
    expected = {
        "process": [[-1, 0, 0, -1, -1], [1, 0, 0, 0, 0]],
        "process_min": [[-1, 0, 0, -1, -1], [0, 0, 0, 0, 0]],
    }
    assert found.tolist() == expected[name]


def test_a_penalty_counts_where_it_stands_and_none_is_no_step():
    how = RewardConfig(overlong_buffer=2, overlong_penalty=1.0)
    truncation = Truncation(how=how, max_tokens=4)
    batch = Batch.of_groups([stepped([None, 1], [1, None, None, 2])], truncation)
    assert batch.columns["is_rewarded"].tolist() == [[False, True, False, False], [True, False, False, True]]
    assert batch.columns["token_reward"].tolist() == [[0, 1, 0, 0], [1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("answers", "spread"),
    [
        ([[1, 0], [0, 1]], {"sequence": False, "process": True, "process_min": True}),
        ([[1, 1], [1, 1]], {"sequence": False, "process": False, "process_min": False}),
        ([[1, None], [1, 1]], {"sequence": True, "process": False, "process_min": False}),
        ([[1, 0], [2, 0]], {"sequence": True, "process": True, "process_min": True}),
    ],
)
def test_a_group_has_spread_exactly_if_its_steps_get_advantages(answers, spread):
    batch = Batch.of_groups([stepped(*answers)])
    for name, expected in spread.items():
        algorithm = replace(BASE, credit=name, baseline="group_mean")
        assert has_spread(batch, algorithm) == {0: expected}, name
        assert bool(credit(batch, algorithm).columns["advantage"].any()) is expected, name


@pytest.mark.parametrize("name", ["process", "process_min"])
@pytest.mark.parametrize("groups", [[], [judged([(1,), (2,)], [Judgement(), Judgement()])]])
def test_credit_by_step_of_nothing(name, groups):
    found = credit(Batch.of_groups(groups), replace(GRPO, credit=name)).columns["advantage"]
    assert found.shape == (0, 0)


@pytest.mark.parametrize(
    ("base", "parts", "message"),
    [
        (GRPO, {"credit": "process", "kl": "reward", "kl_estimator": "k1"}, "a KL in the reward is at every token: set kl to loss"),
        (RLOO, {"credit": "process", "kl": "none"}, "credit process compares each step with all steps of the group"),
        (REINFORCE, {"credit": "process_min"}, "set baseline to group_mean or none, not running_mean"),
        (GRPO_PROCESS, {"scale": lambda advantage: advantage}, "credit process has a reward per step"),
        (GRPO_PROCESS, {"discount": 0.0}, "discount must be above 0"),
        (GRPO_PROCESS, {"discount": 1.5}, "discount must be above 0 and at most 1"),
        (GRPO, {"discount": 0.9}, "discount would have no effect: with credit sequence"),
        (GRPO, {"credit": "process_min", "discount": 0.9}, "with credit process_min rewards are not discounted"),
        (GRPO_PROCESS, {"discount_per": "step"}, "discount_per would have no effect: discount is 1"),
        (GRPO, {"credit": "proces"}, "credit"),
    ],
)  # fmt: skip
def test_choices_of_credit_that_contradict_each_other(base, parts, message):
    with pytest.raises(ConfigError, match=message):
        customised(base, **parts)
