"""A part of an algorithm handed in as a function: the template for testing one, and what becomes of broken ones.

The first section is what a new part should have: its formula by hand, its bias by enumeration, and a tiny model that
learns with it.
"""

from __future__ import annotations

import functools
import inspect
import json
from dataclasses import fields, replace
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from tiny_task import assert_same_run, completion, group, metrics, names, run_rl
from torch.testing import assert_close

import ventaja
from ventaja import functional as F
from ventaja import yaml
from ventaja.cli import main
from ventaja.cli.algorithms import algorithms_markdown
from ventaja.errors import ConfigError, RunError
from ventaja.lab import TabularPolicy, algorithm_bias
from ventaja.models import TokenScores
from ventaja.records import Group, Judgement, Prompt, Trajectory
from ventaja.training import RlConfig, parse
from ventaja.training.algorithms import (
    ALGORITHMS,
    CISPO,
    DAPO,
    DR_GRPO,
    GRPO,
    GSPO,
    REINFORCE,
    REMAX,
    RLOO,
    Algorithm,
)
from ventaja.training.batch import Batch
from ventaja.training.config import AlgorithmConfig, algorithm_settings, resolved
from ventaja.training.credit import RunningMean, credit
from ventaja.training.objective import PolicyObjective, kl_in_reward, token_weights
from ventaja.training.parts import KINDS, Own
from ventaja.training.trial import check_parts


def quadratic(log_ratio, advantage, clip_high):
    """−(r·Â − |Â|/(2ε)·(r − 1)²): Simple Policy Optimization (arXiv:2401.16025), a square in place of the clip."""
    ratio = F.importance_ratio(log_ratio)
    return -(ratio * advantage - advantage.abs() / (2 * clip_high) * (ratio - 1).square())


QUADRATIC = replace(GRPO, name="quadratic", surrogate=quadratic, kl="none", kl_coef=0.0, minibatches=2)


# What a part of one's own should have -----------------------------------------------------------------------


def losses(algorithm: Algorithm, ratio: list[float], advantage: list[float]) -> tuple[torch.Tensor, dict]:
    """The loss of each token as training computes it, of one answer whose log π is −1, and what is reported."""
    batch = Batch.of_groups([group((9,), [tuple(range(2, 2 + len(ratio)))], [1.0])])
    logprob = torch.full((1, len(ratio)), -1.0)
    columns = {
        "old_logprob": logprob - torch.tensor([ratio]).log(),
        "sampler_logprob": logprob,
        "ref_logprob": logprob,
        "advantage": torch.tensor([advantage]),
    }
    batch = batch.with_columns(**columns)
    (row,) = batch.rows([0], max_tokens=99)
    return PolicyObjective(algorithm, batch, algorithm.kl_coef)(row, TokenScores(row.pick(logprob), None))


def test_the_formula_by_hand():
    # ε = 0.2. r = 1.5, Â = 2: 3 − 2/0.4·0.25 = 1.75. r = 0.5, Â = −1: −0.5 − 1/0.4·0.25 = −1.125.
    # r = 1: Â itself.
    loss_M, sums = losses(QUADRATIC, [1.5, 0.5, 1.0], [2.0, -1.0, 0.25])
    assert_close(loss_M, torch.tensor([-1.75, 1.125, -0.25]))
    assert not [name for name in sums if name.startswith("clip_ratio")]  # nobody knows what it holds


def test_its_bias_on_fresh_samples_is_that_of_grpo():
    policy = TabularPolicy(vocabulary=2, length=2, seed=0)
    reward_N = torch.tensor([1.0, 0.0, -0.5, 2.0], dtype=torch.float64)
    one_update = {"minibatches": 1, "group_size": 2, "kl": "none", "kl_coef": 0.0}
    biases = [algorithm_bias(replace(a, **one_update), policy, reward_N) for a in (QUADRATIC, GRPO)]
    # at r = 1 the square has no slope
    assert_close(biases[0].expected, biases[1].expected)


def test_a_tiny_model_learns_with_it(model, tmp_path):
    run = {"folder": str(tmp_path / "run"), "rounds": 12, "completions_per_round": 64, "trackers": []}
    run_rl(tmp_path / "run", model, run=run, algorithm=algorithm_settings(replace(QUADRATIC, clip_high=1.0)))
    rewards = [line["reward"] for line in metrics(tmp_path / "run")]
    assert rewards[0] < 0.15
    assert sum(rewards[-3:]) / 3 > 0.5


# One way for named parts and one's own ----------------------------------------------------------------------


def clipped(log_ratio, advantage, *, clip_low, clip_high, dual_clip=None):
    return F.clipped_surrogate_loss(
        log_ratio, advantage, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
    )


def k3(log_ratio):
    return F.kl_k3(log_ratio)


def sequence_mean(is_action):
    return F.sequence_mean(is_action)


def group_mean(reward_PG, is_valid):
    return (reward_PG.where(is_valid, 0).sum(1, keepdim=True) / is_valid.sum(1, keepdim=True)).expand_as(
        reward_PG
    )


WRAPPED = {"surrogate": clipped, "kl_estimator": k3, "token_weight": sequence_mean}
ITSELF = {"surrogate": F.clipped_surrogate_loss, "kl_estimator": F.kl_k3, "token_weight": F.sequence_mean}


@pytest.mark.parametrize("parts", [WRAPPED, ITSELF], ids=["wrapped", "itself"])
def test_the_textbooks_functions_train_to_the_same_bits(parts, model, tmp_path):
    for name, more in (("named", {}), ("own", parts)):
        algorithm = {"name": "grpo", "group_size": 4, "minibatches": 2, "epochs": 2, **more}
        run_rl(tmp_path / name, model, algorithm=algorithm, run={"folder": str(tmp_path / name)})
    for line in metrics(tmp_path / "own") if parts is WRAPPED else ():
        assert not [key for key in line if key.startswith("clip_ratio")]
    if parts is WRAPPED:
        strip_clip(tmp_path / "named" / "metrics.jsonl")
        for run in ("named", "own"):
            (checkpoint,) = (tmp_path / run / "checkpoints").iterdir()
            state = checkpoint / "training" / "state.json"
            state.write_text("{}")
    assert_same_run(tmp_path / "named", tmp_path / "own")


def strip_clip(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert any("clip_ratio/low" in line for line in lines)
    kept = [{k: v for k, v in line.items() if not k.startswith("clip_ratio")} for line in lines]
    path.write_text("\n".join(json.dumps(line) for line in kept))


def test_the_textbooks_function_is_the_named_part():
    for kind, name, function in (
        ("surrogate", "clipped", F.clipped_surrogate_loss),
        ("ratio", "sequence", F.sequence_log_ratio),
        ("baseline", "leave_one_out", F.leave_one_out),
        ("kl_estimator", "k3_weighted", F.kl_k3_weighted),
        ("token_weight", "fixed_length", F.fixed_length),
    ):
        algorithm = replace(GRPO, scale="none", **{kind: function})
        assert getattr(algorithm, kind) == name
        assert not isinstance(getattr(algorithm, kind), Own)
    # these two are one name's, with and without a ratio: as functions they mean what they say
    plain = replace(GRPO, surrogate=F.policy_gradient_loss, minibatches=2, kl="none", kl_coef=0.0)
    assert_close(losses(plain, [2.0, 0.5], [1.0, 3.0])[0], torch.tensor([1.0, 3.0]))  # −Â·log π, log π = −1
    ratio = replace(plain, surrogate=F.surrogate_loss)
    assert_close(losses(ratio, [2.0, 0.5], [1.0, 3.0])[0], torch.tensor([-2.0, -1.5]))
    assert_close(losses(replace(plain, surrogate="policy_gradient"), [2.0], [1.0])[0], torch.tensor([-2.0]))


def judged(rewards: list[list[float]], *, cut: tuple[int, ...] = ()) -> Batch:
    """Groups of answers of one token; of the first prompt's, those in `cut` are masked."""
    groups = [
        Group(
            prompt=Prompt(id=str(p), content="?"),
            prompt_ids=(p + 2,),
            trajectories=tuple(Trajectory.of(completion(5)) for _ in row),
            judgements=tuple(Judgement.outcome(r, length=1) for r in row),
        )
        for p, row in enumerate(rewards)
    ]
    batch = Batch.of_groups(groups)
    is_action_ST = batch.is_action_ST.clone()
    is_action_ST[list(cut)] = False
    return replace(batch, is_action_ST=is_action_ST)


def test_a_baseline_and_a_scale_by_hand():
    def lowest(reward_PG, is_valid):
        return reward_PG.where(is_valid, torch.inf).amin(1, keepdim=True).expand_as(reward_PG)

    def by_largest(advantage_PG, is_valid):
        largest = advantage_PG.abs().where(is_valid, 0).amax(1, keepdim=True)
        return advantage_PG / largest.clamp(min=1.0)

    batch = judged([[1.0, 4.0, 3.0], [0.5, 0.5, 1.0]], cut=(1,))  # the 4 takes no part
    algorithm = replace(GRPO, group_size=3, baseline=lowest, scale=by_largest)
    check_parts(algorithm)
    found = credit(batch, algorithm).columns["advantage"][:, 0]
    # 1, –, 3 less 1: 0, –, 2, of which the largest is 2. And 0, 0, 0.5: the largest is below 1
    assert_close(found, torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.5]))
    # a scale over a baseline that is one number: 1, 3 and so on less 2
    running = replace(algorithm, baseline="running_mean")
    found = credit(batch, running, running=RunningMean(2.0, 1)).columns["advantage"][:, 0]
    assert_close(found, torch.tensor([-1.0, 0.0, 1.0, -1.0, -1.0, -2 / 3]))


def test_a_baseline_of_ones_own_is_the_named_one():
    batch = judged([[1.0, 4.0, 3.0], [0.5, 0.5, 1.0]])
    for other in (DR_GRPO, replace(DR_GRPO, scale="batch_std")):
        own = replace(other, baseline=group_mean)
        check_parts(own)
        one, two = (credit(batch, a).columns["advantage"] for a in (own, other))
        assert_close(one, two)


def test_a_ratio_by_hand():
    def halved(log_ratio_BT):
        return 0.5 * log_ratio_BT

    def first(log_ratio_BT):
        return log_ratio_BT[:, 0]

    base = replace(DAPO, surrogate="policy_gradient")
    # √4, √(1/4), times Â
    assert_close(losses(replace(base, ratio=halved), [4.0, 0.25], [1.0, 2.0])[0], torch.tensor([-2.0, -1.0]))
    assert_close(losses(replace(base, ratio=first), [4.0, 0.25], [1.0, 2.0])[0], torch.tensor([-4.0, -8.0]))
    # and its gradient is each token's own, Â times the ratio
    check_parts(replace(base, ratio=halved))
    check_parts(replace(base, ratio=first))


def test_a_weight_by_hand():
    def first_tokens(is_action_BT):
        return (is_action_BT.cumsum(1) == 1) / is_action_BT.any(1).sum()

    weight = token_weights(
        replace(GRPO, token_weight=first_tokens),
        torch.tensor([[True, True, False], [True, False, False]]),
        max_tokens=3,
    )
    assert_close(weight, torch.tensor([[0.5, 0.0, 0.0], [0.5, 0.0, 0.0]]))
    # what is no action has no weight, whatever a function says of it
    everywhere = replace(GRPO, token_weight=lambda is_action, length: torch.full(is_action.shape, 1 / length))
    weight = token_weights(everywhere, torch.tensor([[True, False]]), max_tokens=4)
    assert_close(weight, torch.tensor([[0.25, 0.0]]))


def test_a_kl_by_hand():
    def absolute(log_ratio):
        return log_ratio.abs()

    algorithm = replace(RLOO, kl_estimator=absolute)
    check_parts(algorithm)
    found = kl_in_reward(algorithm, torch.tensor([[0.5, -0.25]]))
    assert_close(found, torch.tensor([[0.5, 0.25]]))
    in_loss = replace(GRPO, kl_estimator=lambda log_ratio, old_log_ratio: log_ratio.square() + old_log_ratio)
    # r = 2, clipped at 1.2; log π = log π_ref, and β = 0.04 times 0² + log 2
    assert_close(
        losses(in_loss, [2.0], [1.0])[0], torch.tensor([-1.2 + 0.04 * float(torch.tensor(2.0).log())])
    )


def test_arguments_by_name():
    def given(algorithm):
        seen = {}

        def surrogate(**everything):
            seen.update(everything)
            return -everything["logprob"]

        losses(replace(algorithm, surrogate=surrogate), [2.0, 1.0], [1.0, 0.0])
        return seen

    off_policy = given(replace(DAPO, clip_high=0.3))
    assert off_policy.keys() == KINDS["surrogate"].given.keys()
    assert_close(off_policy["log_ratio"], torch.tensor([2.0, 1.0]).log())
    assert_close(off_policy["old_logprob"], -1 - torch.tensor([2.0, 1.0]).log())
    assert off_policy["advantage"].tolist() == [1.0, 0.0]
    assert off_policy["is_action"].tolist() == [True, True]
    assert (off_policy["clip_low"], off_policy["clip_high"], off_policy["dual_clip"]) == (0.2, 0.3, None)

    def suffixed(logprob_M, advantage_M, slope=3.0):
        return -slope * advantage_M * logprob_M

    bound = functools.partial(suffixed, slope=2.0)
    for function, loss in ((suffixed, 3.0), (bound, 2.0)):
        assert losses(replace(DAPO, surrogate=function), [1.0], [1.0])[0].tolist() == [loss]
    assert replace(DAPO, surrogate=functools.partial(clipped, clip_low=0.1)).surrogate.wants.keys() == {
        "log_ratio", "advantage", "clip_high", "dual_clip",
    }  # fmt: skip


# What the loop knows of it ----------------------------------------------------------------------------------


def test_nothing_is_left_out_and_nothing_is_said_that_is_not_known():
    assert not DAPO.trains_every_token
    assert QUADRATIC.trains_every_token  # it may act where the advantage is 0
    assert QUADRATIC.uses_clip
    assert not QUADRATIC.reports_clip
    assert not replace(QUADRATIC, surrogate=lambda logprob: -logprob).uses_clip
    assert replace(DAPO, ratio=lambda log_ratio: log_ratio).reports_clip
    for kind in KINDS:
        own = replace(GRPO, **{kind: OWN[kind]}, **({"scale": "none"} if kind == "baseline" else {}))
        assert not own.first_loss_is_zero, kind


OWN = {
    "surrogate": quadratic,
    "ratio": lambda log_ratio: 0.9 * log_ratio,
    "token_weight": sequence_mean,
    "kl_estimator": k3,
    "baseline": group_mean,
    "scale": lambda advantage: 2 * advantage,
}


def test_a_choice_without_effect_or_in_contradiction():
    config = {"name": "grpo", "surrogate": quadratic}
    assert AlgorithmConfig(**config, clip_high=0.3).resolve().clip_high == 0.3  # with one update too
    with pytest.raises(
        ConfigError, match="algorithm.clip_low would have no effect: surrogate .*quadratic does not ask for"
    ):
        AlgorithmConfig(**config, clip_low=0.1).resolve()
    with pytest.raises(ConfigError, match="would have no effect: kl is none"):
        AlgorithmConfig(name="dapo", kl_estimator=k3).resolve()
    for part in ("baseline", "scale"):
        with pytest.raises(ConfigError, match=f"a {part} of one's own looks at one return per answer"):
            AlgorithmConfig(name="ppo_clip", **{part: OWN[part]}).resolve()
    assert AlgorithmConfig(name="ppo_clip", credit="sequence", baseline=group_mean).resolve().compares_groups
    with pytest.raises(ConfigError, match="scale group_std needs baseline group_mean"):
        AlgorithmConfig(name="grpo", baseline=group_mean).resolve()


def test_the_table_of_parts_is_true():
    hints = get_type_hints(Algorithm)
    for kind, place in KINDS.items():
        literal = next(option for option in get_args(hints[kind]) if get_origin(option) is Literal)
        assert get_args(literal) == tuple(place.named)
        for part in place.named.values():
            for function in filter(None, (part.function, part.with_ratio)):
                asked = inspect.signature(getattr(F, function)).parameters
                assert set(part.settings) == {"clip_low", "clip_high", "dual_clip"} & asked.keys()
    assert {f.name for f in fields(Algorithm)} >= KINDS.keys()
    for algorithm in ALGORITHMS.values():
        assert algorithm.uses_clip == algorithm.reports_clip == (algorithm not in (REINFORCE, RLOO, REMAX))
    assert GSPO.part("ratio").per_sequence
    assert CISPO.part("surrogate").clip == "both sides"


def test_the_table_of_algorithms_shows_it():
    algorithm = replace(
        GSPO, name="mine", surrogate=quadratic, token_weight=lambda is_action: is_action / 9.0
    )
    [row] = algorithms_markdown([algorithm]).splitlines()[2:]
    here = __name__
    assert f"| sequence | {here}:quadratic (clip_high 0.0004) | lambda (given in Python) |" in row


# The oracle -------------------------------------------------------------------------------------------------


def by_hand(logprob, advantage):
    return -logprob * advantage


def only_good_news(logprob, advantage):
    return -logprob * advantage.clamp(min=0)


def test_reinforce_by_hand_is_certified_unbiased():
    policy, reward_N = (
        TabularPolicy(seed=0),
        torch.randn(64, generator=torch.Generator().manual_seed(2)).double(),
    )
    assert algorithm_bias(replace(REINFORCE, surrogate=by_hand), policy, reward_N).relative < 1e-7
    small, reward_N = TabularPolicy(vocabulary=2, length=2), torch.tensor([1.0, 0.0, -0.5, 2.0]).double()
    others = replace(RLOO, kl="none", kl_coef=0.0, group_size=3, surrogate=by_hand)
    assert algorithm_bias(others, small, reward_N).relative < 1e-6
    # the group's mean instead of the others': (G − 1)/G of the gradient, by which nobody is misled
    with_itself = algorithm_bias(replace(others, baseline=group_mean), small, reward_N)
    assert with_itself.relative == pytest.approx(1 / 3, abs=1e-6)
    assert with_itself.direction < 1e-6


def test_a_biased_one_has_its_number():
    policy = TabularPolicy(vocabulary=3, length=1)
    with torch.no_grad():
        policy.logits_SV.copy_(torch.tensor([[0.5, 0.25, 0.25]]).log())
    reward_N = torch.tensor([1.0, 0.0, -1.0]).double()
    # p·(r − E r): exact (0.375, −0.0625, −0.3125), since E r = 0.25; without bad news (0.25, −0.125, −0.125)
    bias = algorithm_bias(replace(REINFORCE, surrogate=only_good_news), policy, reward_N)
    assert_close(bias.expected, torch.tensor([[0.25, -0.125, -0.125]]).double(), rtol=0, atol=1e-7)
    # √(0.0546875 / 0.2421875)
    assert bias.relative == pytest.approx(0.4752, abs=1e-4)


def test_the_oracle_asks_for_the_reward_alone():
    with pytest.raises(ConfigError, match="grpo does not follow the reward alone"):
        algorithm_bias(GRPO, TabularPolicy(vocabulary=2, length=1), torch.zeros(2).double())


def test_dr_grpo_by_enumeration():
    policy = TabularPolicy(vocabulary=2, length=2, seed=0)
    reward_N = torch.tensor([1.0, 0.0, -0.5, 2.0], dtype=torch.float64)
    bias = algorithm_bias(replace(DR_GRPO, group_size=2), policy, reward_N)
    # (G − 1)/G, and a token is divided by the longest answer: 1/2 · 1/2
    assert bias.relative == pytest.approx(0.75, abs=1e-6)
    assert bias.direction < 1e-6
    assert (
        algorithm_bias(replace(DR_GRPO, group_size=2, scale="group_std"), policy, reward_N).direction > 0.01
    )


# Run files, and going on ------------------------------------------------------------------------------------

FILE = """\
def mine(logprob, advantage, clip_high):
    return -logprob * advantage * (1 + clip_high)

def other(logprob, advantage, clip_high):
    return -logprob * advantage * clip_high
"""


@pytest.fixture
def at_work(model, tmp_path, monkeypatch):
    """A folder with a run file, a reward and a part of one's own, to be in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "losses.py").write_text(FILE)
    (tmp_path / "rewards.py").write_text(
        "def share_of_a(completions):\n    return [text.count('a') / 4 for text in completions]\n"
    )
    rows = [{"prompt": f"say {letter}"} for letter in "abcdefgh"]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    values = {
        "model": {"name": str(model), "device": "cpu", "precision": "float32"},
        "data": "data.jsonl",
        "reward": "rewards.py:share_of_a",
        "sampling": {"max_tokens": 4},
        "algorithm": {"name": "grpo", "group_size": 4, "surrogate": "losses.py:mine", "clip_high": 0.5},
        "run": {"folder": "run", "rounds": 4, "completions_per_round": 16, "trackers": []},
    }
    (tmp_path / "run.yaml").write_text(yaml.written(values))
    return tmp_path


def test_from_a_run_file_and_on(at_work, capsys):
    assert main(["rl", "run.yaml"]) == 0
    assert main(["rl", "run.yaml", "--run.folder", "half", "--run.rounds", "2"]) == 0
    # config.yaml is a run file again
    assert main(["rl", "half/config.yaml", "--run.resume", "true", "--run.rounds", "4"]) == 0
    assert_same_run(at_work / "run", at_work / "half")
    config = yaml.read((at_work / "half" / "config.yaml").read_text()).value
    assert config["algorithm"] == {
        "name": "grpo",
        "surrogate": "losses.py:mine",
        "clip_high": 0.5,
        "group_size": 4,
    }
    # with another part it would be another run
    resume = ["half/config.yaml", "--run.resume", "true", "--run.rounds", "6"]
    assert main(["rl", *resume, "--algorithm.surrogate", "losses.py:other"]) == 1
    error = capsys.readouterr().err
    assert "algorithm.surrogate (was 'losses.py:mine', is 'losses.py:other')" in error


def test_beside_the_named_ones(at_work, capsys):
    assert main(["algorithms", "run.yaml", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(ALGORITHMS) + 1
    assert lines[-1].startswith(
        "| run.yaml | sequence | group_mean | group_std | token | losses.py:mine (clip_high 0.5) |"
    )


def test_by_a_flag_and_by_a_modules_name(at_work, capsys):
    flags = ["--algorithm.surrogate", "ventaja.functional:surrogate_loss", "--run.rounds", "1"]
    values = yaml.read((at_work / "run.yaml").read_text()).value
    del values["algorithm"]["clip_high"], values["algorithm"]["surrogate"]
    (at_work / "run.yaml").write_text(yaml.written(values))
    assert main(["rl", "run.yaml", *flags]) == 0
    assert len(metrics(at_work / "run")) == 1
    assert main(["rl", "run.yaml", "--algorithm.surrogate", "losses.py:mien"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "ConfigError: --algorithm.surrogate: the function 'losses.py:mien': there is no 'mien' in it. Did you mean "
        "'mine'? It has 'mine', 'other'."
    ]


def in_python(folder, model, **algorithm):
    """What `ventaja.rl` is given."""
    return {
        "model": {"name": str(model), "device": "cpu", "precision": "float32"},
        "prompts": "data.jsonl",
        "reward": "rewards.py:share_of_a",
        "algorithm": replace(GRPO, group_size=4, **algorithm),
        "folder": folder,
        "sampling": {"max_tokens": 4},
    }


def test_from_python_and_on(at_work, model, capsys):
    run = {"completions_per_round": 16, "trackers": []}
    for function, name in (
        (quadratic, f"{__name__}:quadratic"),
        (lambda logprob, advantage, clip_low: -logprob * advantage * clip_low, "lambda (given in Python)"),
    ):
        folder = name.split()[0].rpartition(":")[2]
        given = in_python(folder, model, surrogate=function, clip_high=0.5, minibatches=2)
        ventaja.rl(**given, rounds=2, run=run)
        config = yaml.read((at_work / folder / "config.yaml").read_text()).value
        assert config["algorithm"]["surrogate"] == name
        assert len(ventaja.rl(**given, rounds=3, run={**run, "resume": True}).metrics) == 3
    # nobody but this program has the lambda
    resume = ["--run.resume", "true", "--run.rounds", "4"]
    assert main(["rl", "lambda/config.yaml", *resume]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "ConfigError: algorithm.surrogate: lambda (given in Python): the run was begun by a program"
    )
    assert "Go on from that program, with run={'resume': True}" in error
    assert len(ventaja.Run(at_work / "lambda").metrics) == 3


def test_a_config_with_a_function_is_a_run_file():
    values = {"model": "m", "data": "d.jsonl", "run": {"folder": "f"}}
    for part in (quadratic, lambda logprob: -logprob, F.clipped_surrogate_loss):
        config = parse(RlConfig, {**values, "algorithm": {"name": "grpo", "surrogate": part}})
        written = yaml.read(yaml.written(resolved(config))).value
        assert parse(RlConfig, written) == config
        assert config.algorithm.resolve() == parse(RlConfig, written).algorithm.resolve()


# Broken ones ------------------------------------------------------------------------------------------------


def raises(logprob, advantage):
    return logprob / (len(advantage) - len(logprob))[0]


def asks_too_much(logprob, advantages, temperature):
    return logprob


BROKEN = {
    "surrogate": [
        (lambda logprob: -logprob.mean(), r"gave a tensor of shape \[\], not \[6\]\."),
        (lambda logprob: -logprob.mean(), "how they are averaged is token_weight's part"),
        (lambda logprob: [-x for x in logprob], "gave a list, not a tensor"),
        (lambda logprob: None, "gave a NoneType, not a tensor"),
        (lambda logprob: logprob > 0, "gave bool, not floating-point numbers"),
        (lambda logprob, advantage: logprob / advantage, r"gave -inf at \[1\], where logprob -0.5, advantage 0"),
        (lambda logprob, log_ratio: logprob * log_ratio.log(), r"gave nan at \[3\]|gave inf at \[0\]"),
        (lambda logprob: -logprob.detach(), "gave numbers without a gradient to log π"),
        (lambda logprob: -logprob.detach() + 0 * logprob, "has a gradient of 0 to log π"),
        (
            lambda log_ratio, advantage: -advantage * log_ratio.square().sqrt() - log_ratio,
            "gave finite numbers, but their gradient at log_ratio is not",
        ),
        (
            lambda logprob, advantage: -logprob * (advantage - advantage.mean()),
            "gave a token another number when fewer tokens came with it",
        ),
        (raises, rf"raised TypeError: .*, at {__file__}:\d+: return logprob / \("),
        (asks_too_much, "asks for 'advantages', which a surrogate cannot be given. Did you mean 'advantage'?"),
        (asks_too_much, "It may ask for logprob, old_logprob, log_ratio, advantage, is_action, clip_low"),
        (lambda logprob, /: logprob, "'logprob' is positional-only; arguments go by name"),
        (3, "there is no surrogate 3. There are policy_gradient, clipped, detached_clamp, and a function of your own"),
        ("cliped", "there is no surrogate 'cliped'. Did you mean 'clipped'?"),
        ("math:pi", "'math:pi' is a float, not a function"),
        ("nothing.py:f", "the function 'nothing.py:f': there is no file nothing.py"),
    ],
    "ratio": [
        (lambda log_ratio: log_ratio.sum(0), r"gave a tensor of shape \[4\], not \[3, 4\] or \[3\]"),
        (lambda log_ratio: log_ratio - log_ratio.mean(), "gave a sequence another number when fewer sequences"),
    ],
    "token_weight": [
        (lambda is_action: is_action, "gave bool, not floating-point numbers. *\n *It was given"),
        (lambda is_action: is_action.sum(1).float(), r"shape \[4\], not \[4, 4\]"),
        (lambda is_action: 1.0 / (is_action.float() - 1), r"gave inf at \[0, 0\]"),
    ],
    "kl_estimator": [
        (lambda log_ratio: log_ratio.detach(), "gave numbers without a gradient"),
        (lambda log_ratio, old_log_ratio: log_ratio.mean() + 0 * log_ratio, "gave a token another number"),
    ],
    "baseline": [
        (lambda reward: reward.mean(1, keepdim=True), r"shape \[4, 1\], not \[4, 4\].*\n.*\n.*expand_as"),
        (F.group_standardised, "gave the same when every reward was higher by 1, as advantages are"),
        (lambda reward: reward - reward.mean(1, keepdim=True), "A baseline is what is subtracted from the reward"),
    ],
    "scale": [
        (lambda advantage: advantage / advantage.std(1, keepdim=True), r"gave inf at \[1, 0\], where advantage 1"),
        (F.leave_one_out, "asks for 'reward_PG', which a scale cannot be given"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "function", "message"), [(k, *case) for k, cases in BROKEN.items() for case in cases]
)
def test_a_broken_part_is_found_before_the_run(kind, function, message):
    values = {"model": "m", "data": "d.jsonl", "run": {"folder": "f"}}
    algorithm = {"name": "grpo", kind: function} | ({"scale": "none"} if kind == "baseline" else {})
    with pytest.raises(ConfigError, match=message) as error:
        parse(RlConfig, {**values, "algorithm": algorithm})
    assert str(error.value).startswith(f"algorithm.{kind}: ")
    if callable(function) and not inspect.getmodule(function).__name__.startswith("ventaja"):
        assert f"({__file__}:" in str(error.value)


def test_a_page_about_a_broken_part(at_work, capsys):
    (at_work / "losses.py").write_text(
        "import torch\n\ndef mine(log_ratio, advantage):\n    return log_ratio @ advantage\n"
    )
    values = yaml.read((at_work / "run.yaml").read_text()).value
    del values["algorithm"]["clip_high"]
    (at_work / "run.yaml").write_text(yaml.written(values))
    assert main(["rl", "run.yaml"]) == 2
    assert not (at_work / "run").exists()
    place = f"{at_work}/losses.py:3"
    line = 1 + (at_work / "run.yaml").read_text().splitlines().index("  surrogate: losses.py:mine")
    assert capsys.readouterr().err.splitlines() == [
        f"ConfigError: run.yaml:{line}: algorithm.surrogate: losses.py:mine ({place}) gave a tensor of shape [], not [6].",
        "  It was given log_ratio [6] float32, advantage [6] float32, and should give the loss of each token.",
        "  Return a loss for every token: how they are averaged is token_weight's part.",
    ]


def after(rounds, breaks):
    """A surrogate that does what `breaks` says once it has been called for so many updates of a run."""
    calls = []

    def surrogate(logprob, advantage):
        calls.append(len(logprob))
        is_trial = len(logprob) in {2, 6}
        return (
            breaks(logprob)
            if not is_trial and sum(n not in {2, 6} for n in calls) > rounds
            else -logprob * advantage
        )

    return surrogate


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (lambda logprob: logprob * float("nan"), "gave nan at [0], where logprob -"),
        (lambda logprob: logprob.sum(), "gave a tensor of shape [], not ["),
        (lambda logprob: logprob[{}], "raised "),
        (lambda logprob: (logprob - logprob.detach()).square().sqrt() - logprob, "their gradient at logprob is not"),
    ],
    ids=["nan", "shape", "raises", "gradient"],
)  # fmt: skip
def test_what_breaks_in_the_middle_loses_nothing(breaks, message, model, tmp_path):
    folder = tmp_path / "run"
    run = {"folder": str(folder), "rounds": 5, "completions_per_round": 16, "trackers": []}
    algorithm = {"name": "reinforce", "group_size": 4}
    with pytest.raises(RunError) as error:
        run_rl(folder, model, run=run, algorithm={**algorithm, "surrogate": after(3, breaks)})
    assert str(error.value).startswith("algorithm.surrogate: surrogate (given in Python) (")
    assert message in str(error.value)
    assert names(folder / "checkpoints") == ["3"] or len(names(folder / "checkpoints")) == 1
    assert len(metrics(folder)) == 3
    mended = {**algorithm, "surrogate": after(10**6, None)}
    run_rl(folder, model, run={**run, "resume": True}, algorithm=mended)
    whole = {**run, "folder": str(tmp_path / "whole")}
    run_rl(tmp_path / "whole", model, run=whole, algorithm=mended)
    assert_same_run(folder, tmp_path / "whole")


def test_a_lack_of_memory_is_not_the_functions_fault():
    def large(logprob):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):  # rows are then cut smaller
        losses(replace(DAPO, surrogate=large), [1.0], [1.0])


def test_named_parts_are_not_looked_at(monkeypatch):
    """To ask a GPU whether a number is finite is to wait for it."""
    monkeypatch.setattr(torch.Tensor, "isfinite", lambda self: pytest.fail("a named part was looked at"))
    monkeypatch.setattr(torch.Tensor, "item", lambda self: pytest.fail("a named part was waited for"))
    for algorithm in ALGORITHMS.values():
        losses(algorithm, [2.0, 0.5], [1.0, 0.0])
        token_weights(algorithm, torch.tensor([[True, False]]), max_tokens=3)
    with pytest.raises(pytest.fail.Exception):
        losses(QUADRATIC, [2.0, 0.5], [1.0, 0.0])


def test_what_is_done_in_place_reaches_nobody_else():
    def in_place(log_ratio, advantage):
        return -log_ratio.exp_() * advantage.mul_(2.0)

    algorithm = replace(DAPO, surrogate=in_place)
    written = torch.full((1, 2), torch.nan)
    batch = Batch.of_groups([group((9,), [(2, 3)], [1.0])])
    for name in ("old_logprob", "sampler_logprob"):
        batch.columns[name] = torch.full((1, 2), -2.0)
    batch.columns["advantage"] = torch.ones(1, 2)
    (row,) = batch.rows([0], max_tokens=9)
    objective = PolicyObjective(algorithm, batch, 0.0, log_ratio_ST=written)
    objective(row, TokenScores(torch.full((2,), -1.0, requires_grad=True), None))
    assert written.tolist() == [[1.0, 1.0]]
    assert batch.columns["advantage"].tolist() == [[1.0, 1.0]]
