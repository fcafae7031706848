"""The critic: what its values are read from, what it learns, and what becomes of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_task import begun, completion, group, llama, metrics, model_folder, names, policy, run_rl
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM

from ventaja import functional as F
from ventaja.errors import ConfigError, ModelError, RunError
from ventaja.models import Wanted, load_policy
from ventaja.records import Given, Group, Judgement, Prompt, StopReason, Trajectory
from ventaja.training import RlConfig, parse
from ventaja.training.algorithms import PPO, REINFORCE, customised
from ventaja.training.batch import Batch, scores_tables
from ventaja.training.config import CriticConfig
from ventaja.training.credit import credit
from ventaja.training.critic import ValueObjective, value_term
from ventaja.training.minibatches import minibatches
from ventaja.training.rl import begin, play
from ventaja.training.round import State
from ventaja.training.update import FRESH, Coefficients, update

GAE = replace(PPO, scale="none", kl="none", kl_coef=0.0)
ROUND = {"rounds": 2, "completions_per_round": 16}


def answer(*lengths, given=None, cut=False):
    """A trajectory of turns of so many chosen tokens, with `given` tokens between them and behind."""
    turns = []
    for length in lengths:
        turns.append(completion(*(5,) * length))
        if given:
            turns.append(Given(token_ids=(7,) * given, text="", role="tool"))
    return Trajectory(turns=tuple(turns), is_truncated=cut)


def batch_of(trajectories, streams, *, value=0.5, end_value=0.0):
    made = Group(
        prompt=Prompt(id="p", content="?"),
        prompt_ids=(9,),
        trajectories=tuple(trajectories),
        judgements=tuple(Judgement(stream=tuple(stream)) for stream in streams),
    )
    batch = Batch.of_groups([made])
    shape = batch.is_action_ST.shape
    return batch.with_columns(value=torch.full(shape, value), end_value=torch.full(shape, end_value))


# From values to advantages ----------------------------------------------------------------------------------


def test_given_tokens_are_no_steps_of_the_recursion():
    # 2 chosen, 50 given, 2 chosen; V = 0.5 everywhere, 1 at the end
    trajectory = Trajectory(turns=answer(2, 2, given=50).turns[:3], is_truncated=False)
    batch = batch_of([trajectory], [[(53, 1.0)]])
    found = credit(batch, GAE).columns["advantage"][0]
    assert found[0] == pytest.approx(0.43, abs=0.005)  # 0.95³ · 0.5; −0.41 if V of given tokens took part
    assert found[2:52].count_nonzero() == 0
    assert found[53] == pytest.approx(0.5)


def test_a_reward_on_a_trailing_given_token_is_not_lost():
    batch = batch_of([answer(2, given=3)], [[(4, 1.0)]])
    # it counts at the second token: δ = 0, 0.5
    assert_close(credit(batch, GAE).columns["advantage"][0, :2], torch.tensor([0.95 * 0.5, 0.5]))
    for other in (
        replace(REINFORCE, baseline="critic"),
        replace(REINFORCE, baseline="critic", credit="to_go"),
    ):
        assert_close(credit(batch, other).columns["advantage"][0, :2], torch.tensor([0.5, 0.5]))


def test_a_truncation_bootstraps_and_an_ending_does_not():
    ended, cut = answer(2), answer(2, cut=True)
    one = credit(batch_of([ended], [[(1, 1.0)]]), GAE).columns
    two = credit(batch_of([cut], [[(1, 1.0)]], end_value=0.75), GAE).columns
    assert_close(one["advantage"], torch.tensor([[0.475, 0.5]]))
    assert_close(two["advantage"], torch.tensor([[0.95 * 1.25, 1.25]]))  # δ = 0, 1 + 0.75 − 0.5
    assert_close(one["value_target"], torch.tensor([[1.0, 1.0]]))  # its own λ is 1: Monte-Carlo returns
    assert_close(two["value_target"], torch.tensor([[1.75, 1.75]]))


def test_the_critic_has_a_lambda_of_its_own():
    batch = batch_of([answer(2)], [[(1, 1.0)]])
    td = replace(GAE, critic_lambda=0.0)
    assert_close(credit(batch, td).columns["value_target"], torch.tensor([[0.5, 1.0]]))
    warm = credit(batch, td, monte_carlo=True).columns
    assert_close(warm["value_target"], torch.tensor([[1.0, 1.0]]))
    assert_close(warm["advantage"], credit(batch, td).columns["advantage"])


def test_lambda_follows_the_length_of_what_was_chosen():
    # α = 1: of 4 chosen tokens 1 − 1/4 = 0.75; of 2 it would be 0.5, but no less than 0.6
    algorithm = replace(GAE, adaptive_lambda=1.0, lambda_=0.6)
    batch = batch_of([answer(2, 2, given=50), answer(2)], [[(103, 1.0)], [(1, 1.0)]])
    found = credit(batch, algorithm).columns["advantage"]
    assert found[0, 0] == pytest.approx(0.75**3 * 0.5)
    assert found[1, 0] == pytest.approx(0.6 * 0.5)


def test_reinforce_with_a_critic_subtracts_what_was_expected_at_each_token():
    batch = batch_of([answer(2), answer(1)], [[(0, 0.25), (1, 1.0)], [(0, 2.0)]])
    batch = batch.with_columns(value=torch.tensor([[0.5, 0.75], [1.0, 9.0]]))
    whole = credit(batch, replace(REINFORCE, baseline="critic")).columns
    assert_close(whole["advantage"], torch.tensor([[0.75, 0.5], [1.0, 0.0]]))  # 1.25 and 2 less V
    to_go = credit(batch, replace(REINFORCE, baseline="critic", credit="to_go")).columns
    assert_close(to_go["advantage"], torch.tensor([[0.75, 0.25], [1.0, 0.0]]))  # 1.25, 1 and 2 less V
    assert_close(to_go["value_target"], torch.tensor([[1.25, 1.0], [2.0, 0.0]]))


def test_returns_are_discounted_per_chosen_token():
    batch = batch_of([answer(2, 1, given=2)], [[(4, 1.0)]])
    found = credit(batch, replace(REINFORCE, baseline="none", credit="to_go", discount=0.5)).columns[
        "advantage"
    ]
    assert_close(found[0, [0, 1, 4]], torch.tensor([0.25, 0.5, 1.0]))


def test_whitening_centres_over_chosen_tokens_alone():
    batch = batch_of([answer(2, 1, given=2), answer(1)], [[(4, 1.0)], [(0, -1.0)]])
    batch = batch.with_columns(value=torch.randn(batch.is_action_ST.shape))
    batch = credit(batch, replace(GAE, scale="batch_std"))
    chosen = batch.columns["advantage"][batch.is_action_ST]
    assert_close(chosen.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert_close(chosen.std(), torch.tensor(1.0), rtol=1e-4, atol=0)


def test_end_tokens_are_told_apart_from_padding_by_length():
    """The tokenizer may pad with its end token: what was chosen counts, whatever its number."""
    eos = 1
    made = Group(
        prompt=Prompt(id="p", content="?"),
        prompt_ids=(9,),
        trajectories=(Trajectory.of(completion(5, eos)), Trajectory.of(completion(5, 6, 7, eos))),
        judgements=(Judgement.outcome(1.0, length=2), Judgement.outcome(0.0, length=4)),
    )
    batch = Batch.of_groups([made])
    assert batch.is_action_ST.tolist() == [[True, True, False, False], [True] * 4]
    # the score is at the end token, not behind it
    assert batch.columns["token_reward"].tolist() == [[0.0, 1.0, 0.0, 0.0], [0.0] * 4]
    batch = batch.with_columns(
        value=torch.full((2, 4), torch.nan).where(~batch.is_action_ST, 0.5), end_value=torch.zeros(2, 4)
    )
    advantage = credit(batch, GAE).columns["advantage"]
    assert_close(advantage[0], torch.tensor([0.475, 0.5, 0.0, 0.0]))


# What values are read from ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cpu", ["fast", "plain"])
def test_values_are_those_of_the_states_before_tokens_and_after_the_last(cpu):
    network = policy(seed=1, cpu=cpu)
    head = network.add_value_head(initial_value=0.25)
    torch.nn.init.normal_(head.module.weight)
    groups = [
        Group(
            prompt=Prompt(id="p", content="?"),
            prompt_ids=(9, 4),
            trajectories=(
                Trajectory.of(completion(5, 6, 7, stop=StopReason.LENGTH)),
                Trajectory.of(completion(8)),
                answer(1, 2, given=2, cut=True),
                Trajectory.of(completion(3, stop=StopReason.LENGTH)),
            ),
            judgements=(Judgement(stream=((0, 0.0),)),) * 4,
        )
    ]
    batch = Batch.of_groups(groups)
    with torch.no_grad():
        rows = batch.rows(range(4), max_tokens=100, keep_last="truncated")
        tables = scores_tables(batch, lambda row: network.read(row, Wanted(value=True)), rows)
        logprobs = scores_tables(
            batch, lambda row: network.read(row, Wanted()), batch.rows(range(4), max_tokens=100)
        )
        alone = llama(seed=1)
        for s, sample in enumerate(batch.samples):
            ids = torch.tensor([[*sample.prompt_ids, *sample.token_ids]])
            hidden = alone.model(input_ids=ids).last_hidden_state[0]
            value = head(hidden)[1:]  # after the prompt's last token, that is before the answer's first
            expected = value[:-1].where(batch.is_action_ST[s, : len(sample)], 0.0)
            assert_close(tables["value"][s, : len(sample)], expected, rtol=1e-4, atol=1e-5)
            end = value[-1] if sample.is_truncated else torch.tensor(0.0)
            assert_close(tables["end_value"][s, 0], end, rtol=1e-4, atol=1e-5)
    assert_close(tables["logprob"], logprobs["logprob"], rtol=1e-4, atol=1e-5)


def test_a_head_begins_as_a_constant():
    head = policy().add_value_head(initial_value=0.75)
    assert_close(head(torch.randn(5, 16)), torch.full((5,), 0.75))
    assert_close(head(torch.zeros(2, 16)), torch.full((2,), 0.75))


def test_the_value_loss_is_a_mean_over_chosen_tokens():
    batch = batch_of([answer(1), answer(3)], [[(0, 1.0)], [(2, 0.0)]], value=0.0)
    batch = batch.with_columns(value_target=torch.tensor([[2.0, 100.0, 100.0], [1.0, 0.0, -1.0]]))
    (row,) = batch.rows(range(2), max_tokens=100)
    from ventaja.models import TokenScores

    value_M = torch.tensor([0.5, 0.5, 0.5, 0.5])
    scores = TokenScores(torch.zeros(4), None, value_M)
    # ½ (1.5² + 0.5² + 0.5² + 1.5²) / 4: padding takes no part
    term = value_term(CriticConfig(), batch, batch.is_action_ST)
    loss_M, stats = term.objective(row, scores)
    assert float((loss_M * row.pick(term.weight_ST)).sum()) == pytest.approx(0.625)
    assert float(stats["value/loss"]) / float(stats["tokens"]) == pytest.approx(0.625)
    # clipped at 0.1 from 0: ½ max(…): (1.9² + 0.9² + 0.5² + 1.5²) / 8
    clipped, stats = ValueObjective(batch, 0.1)(row, scores)
    assert float(clipped.mean()) == pytest.approx((1.9**2 + 0.9**2 + 0.5**2 + 1.5**2) / 8)
    assert float(stats["value/clip_fraction"]) == 4


# In a run ---------------------------------------------------------------------------------------------------


def weights(run):
    return {name: parameter.detach().clone() for name, parameter in run.policy.network.parameters()}


def test_the_first_values_are_the_constant(model, tmp_path):
    made = begun(tmp_path / "run", model, algorithm={"name": "ppo"}, critic={"initial_value": 0.25})
    batch = begin(made, 1).batch
    columns, chosen = batch.columns, batch.is_action_ST
    assert_close(columns["value"][chosen], torch.full_like(columns["value"][chosen], 0.25))
    truncated = torch.tensor([sample.is_truncated for sample in batch.samples])
    assert_close(columns["end_value"][:, 0], 0.25 * truncated)


def test_one_pass_scores_log_probs_and_values(model, tmp_path, monkeypatch):
    passes = []
    made = begun(tmp_path / "run", model, algorithm={"name": "ppo", "kl": "none", "minibatches": 1})
    states = made.policy.network.states
    monkeypatch.setattr(made.policy.network, "states", lambda row: passes.append(1) or states(row))
    round_ = begin(made, 1)
    rows = len(round_.batch.rows(range(16), max_tokens=4096))
    assert len(passes) == rows  # log-probs of the sampling weights and values together
    report = update(
        made.learners, minibatches(round_.batch, made.algorithm, seed=(0, 1))[0], made.algorithm,
        coefficients=Coefficients(), sampling=made.config.sampling, stage=FRESH,
    )  # fmt: skip
    assert len(passes) == 2 * rows
    assert report.stepped
    assert report.critic_stepped
    assert report.means["approx_kl"] == pytest.approx(0.0, abs=1e-9)


def test_a_head_that_is_read_alone_leaves_the_policys_gradient_as_it_is(model, tmp_path):
    norms = {}
    for through in (False, True):
        made = begun(
            tmp_path / str(through), model, algorithm={"name": "ppo", "kl": "none"},
            critic={"through_trunk": through, "initial_value": 3.0},
        )  # fmt: skip
        torch.nn.init.ones_(made.learners.policy.network.value_head.module.weight)
        round_ = begin(made, 1)
        part = minibatches(round_.batch, made.algorithm, seed=(0, 1))[0]
        how = {"coefficients": Coefficients(), "sampling": made.config.sampling}
        norms[through] = update(made.learners, part, made.algorithm, **how).grad_norm
        without = replace(made.learners, critic=None)
        if not through:
            other = begun(tmp_path / "other", model, algorithm={"name": "ppo", "kl": "none"})
            plain = update(replace(other.learners, critic=None), part, made.algorithm, **how)
            assert plain.grad_norm == pytest.approx(norms[False], rel=1e-4)
            assert without.critic is None
    assert norms[True] != pytest.approx(norms[False], rel=1e-3)


def test_in_the_warm_up_the_critic_learns_and_the_policy_stays(model, tmp_path):
    made = begun(
        tmp_path / "run", model, algorithm={"name": "ppo", "critic_lambda": 0.5}, critic={"warmup_rounds": 1},
        run={**ROUND, "rounds": 1, "folder": str(tmp_path / "run"), "trackers": []},
    )  # fmt: skip
    notes = []
    made.session.progress.note = notes.append
    before, head = weights(made), made.policy.network.value_head.module.weight.detach().clone()
    play(made)
    assert all(torch.equal(x, before[name]) for name, x in weights(made).items())
    assert not torch.equal(made.policy.network.value_head.module.weight, head)
    (line,) = metrics(tmp_path / "run")
    assert line["updates"] == 0
    assert line["value/loss"] > 0
    assert line["frac_tokens_trained"] == 0
    assert "trained alone at first, for 1 round: the policy stays" in notes[0]


def test_a_gate_holds_the_policy_until_values_explain_enough(model, tmp_path):
    run = run_rl(
        tmp_path / "run", model, algorithm={"name": "ppo"}, critic={"min_explained_variance": 0.9999},
        run={"folder": str(tmp_path / "run"), "rounds": 2, "completions_per_round": 16, "trackers": []},
    )  # fmt: skip
    assert run.column("updates") == [0, 0]
    made = begun(tmp_path / "open", model, algorithm={"name": "ppo"}, critic={"min_explained_variance": -9.0})
    assert begin(made, 1).policy_moves
    assert made.state.critic_is_ready  # and stays so


def test_at_a_shut_gate_the_critic_learns_returns_and_no_guess_of_its_own(model, tmp_path):
    # with λ = 0 the targets are the next values: a constant that was never right would explain them nearly all
    parts = {"algorithm": {"name": "ppo", "critic_lambda": 0.0}}
    ended = {"bootstrap_truncated": False, "initial_value": 3.0}
    shut = begun(tmp_path / "shut", model, **parts, critic={**ended, "min_explained_variance": 0.5})
    open_ = begun(tmp_path / "open", model, **parts, critic=ended)
    made = begin(shut, 1)
    columns, chosen = made.batch.columns, made.batch.is_action_ST
    assert not made.policy_moves
    assert_close(columns["value_target"][chosen], F.returns_to_go(columns["token_reward"])[chosen])
    assert begin(open_, 1).batch.columns["value_target"][0, 0] == 3.0


def test_the_weights_of_kl_and_entropy_stay_while_the_policy_stays(model, tmp_path):
    made = begun(
        tmp_path / "run", model, critic={"warmup_rounds": 2},
        algorithm={"name": "ppo", "kl_target": 0.1, "entropy_coef": 0.01, "entropy_target": 9.0},
    )  # fmt: skip
    play(made)
    lines = metrics(tmp_path / "run")
    assert [line["updates"] > 0 for line in lines] == [False, False, True]
    # each line has what the round's updates had; the third round is the first that moves them
    assert [line["kl_coef"] for line in lines] == [0.05] * 3
    assert [line["entropy_coef"] for line in lines] == [0.01] * 3
    assert made.state.kl_coef != 0.05
    assert made.state.entropy_coef == pytest.approx(0.0102)


def test_a_critic_of_its_own_is_saved_beside_an_ordinary_policy(model, tmp_path):
    run = run_rl(
        tmp_path / "run", model, algorithm={"name": "ppo"},
        critic={"model": str(model), "optimiser": {"learning_rate": 1e-3}},
        run={**ROUND, "folder": str(tmp_path / "run"), "trackers": []},
    )  # fmt: skip
    assert all(np.isfinite(run.column("value/explained_variance")))
    last = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    assert {"critic", "training", "config.json", "model.safetensors"} <= set(names(last))
    assert {"value_head.safetensors", "masters.safetensors"} & set(names(last / "training" / "critic"))
    loaded = AutoModelForCausalLM.from_pretrained(last)
    critic = AutoModelForCausalLM.from_pretrained(last / "critic")
    assert type(loaded) is type(critic)
    moved = [not torch.equal(a, b) for a, b in zip(loaded.parameters(), critic.parameters(), strict=True)]
    assert any(moved)
    load_policy(str(tmp_path / "run"))


def test_a_policy_with_a_head_is_saved_as_an_ordinary_model(model, tmp_path):
    run_rl(
        tmp_path / "run", model, algorithm={"name": "ppo"},
        run={**ROUND, "folder": str(tmp_path / "run"), "trackers": []},
    )  # fmt: skip
    last = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    assert "value_head.safetensors" in names(last / "training")
    _, info = AutoModelForCausalLM.from_pretrained(last, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]
    rollouts = begun(tmp_path / "other", model, algorithm={"name": "ppo"})
    round_ = begin(rollouts, 1)
    round_.write_rollouts(tmp_path / "r.parquet")
    import pyarrow.parquet

    columns = pyarrow.parquet.read_table(tmp_path / "r.parquet").column_names
    assert {"value", "value_target", "advantage"} <= set(columns)
    assert "end_value" not in columns


def test_answers_that_were_cut_off_may_count_as_ended(model, tmp_path):
    made = begun(
        tmp_path / "run", model, algorithm={"name": "ppo"},
        critic={"initial_value": 1.0, "bootstrap_truncated": False},
    )  # fmt: skip
    assert not begin(made, 1).batch.columns["end_value"].any()


# Schedules --------------------------------------------------------------------------------------------------


def test_minibatches_by_their_size_and_of_single_answers(model, tmp_path):
    parts = {"name": "ppo", "group_size": 4, "minibatch_size": 8}
    made = begun(tmp_path / "groups", model, algorithm=parts)
    assert made.algorithm.updates_per_round == 2 * 2  # two epochs of 16 / 8
    batch = begin(made, 1).batch
    for part in minibatches(batch, made.algorithm, seed=(0, 1)):
        assert len(part.members) == 8
        assert len(batch.group_S[list(part.members)].unique()) == 2
    made = begun(
        tmp_path / "single", model, algorithm={**parts, "minibatch_size": 2, "shuffle": "trajectories"}
    )
    dealt = minibatches(batch, made.algorithm, seed=(0, 1))
    assert [len(part.members) for part in dealt] == [2] * 16
    assert sorted(s for part in dealt[:8] for s in part.members) == list(range(16))
    apart = [batch.group_S[list(part.members)].unique().numel() for part in dealt]
    assert set(apart) == {1, 2}  # by chance answers to one prompt meet, or part


@pytest.mark.parametrize(
    ("prompts", "group_size", "size", "updates"),
    [(12, 1, 4, 3), (256, 4, 16, 64)],  # 12 / 4, and 1024 / 16
)
def test_how_many_updates_a_size_makes(prompts, group_size, size, updates, tmp_path):
    from tiny_task import rl_values

    values = rl_values(tmp_path, tmp_path, run={"completions_per_round": prompts * group_size})
    values["algorithm"] = {"name": "ppo", "group_size": group_size, "minibatch_size": size, "epochs": 1}
    chosen = parse(RlConfig, values).chosen_algorithm()
    assert (chosen.minibatches, chosen.updates_per_round) == (updates, updates)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"algorithm": {"minibatch_size": 5}}, "completions_per_round (16) must be a multiple of algorithm.minibatch_size (5)"),
        ({"algorithm": {"group_size": 8, "minibatch_size": 4}}, "must be a multiple of algorithm.group_size (8)"),
        ({"algorithm": {"minibatches": 2, "minibatch_size": 4}}, "minibatches and minibatch_size say the same"),
        ({"algorithm": {"minibatches": 17, "shuffle": "trajectories", "group_size": 4}}, "more than a round has answers (16)"),
        ({"algorithm": {"shuffle": "trajectories"}}, "with group_size 1 a group is one answer"),
        ({"algorithm": {"name": "grpo", "shuffle": "trajectories"}}, "a pass has one minibatch"),
        ({"algorithm": {"name": "grpo"}, "critic": {"clip": 0.2}}, "critic.clip would have no effect"),
        ({"critic": {"loss_weight": 1.0}}, "loss_weight would have no effect: set through_trunk"),
        ({"critic": {"model": "m", "through_trunk": True}}, "through_trunk would have no effect"),
        ({"critic": {"optimiser": {"learning_rate": 0.1}}}, "optimiser.learning_rate would have no effect"),
        ({"critic": {"clip": 0.0}}, "critic.clip: must be above 0"),
        ({"critic": {"bootstrap_truncated": False}, "reward": {"truncated": "mask"}}, "critic.bootstrap_truncated would have no effect"),
        # 1 − 1/(0.05 · 400) = 0.95, which is lambda_
        ({"algorithm": {"adaptive_lambda": 0.05}, "sampling": {"max_tokens": 400}}, "algorithm.adaptive_lambda (0.05) would have no effect"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_loaded(groups, message, tmp_path):
    from tiny_task import rl_values

    values = rl_values(tmp_path, tmp_path, **groups)
    values["algorithm"] = {"name": "ppo", **groups.get("algorithm", {})}
    with pytest.raises(ConfigError) as error:
        parse(RlConfig, values)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("base", "parts", "message"),
    [
        (PPO, {"baseline": "none"}, "credit gae compares rewards with the values of a critic"),
        (PPO, {"lambda_": 1.5}, "lambda_ must be from 0 to 1"),
        (PPO, {"discount": 0.0}, "discount must be above 0 and at most 1"),
        (PPO, {"adaptive_lambda": 0.0}, "adaptive_lambda must be above 0"),
        (PPO, {"entropy_target": 1.0}, "entropy_target adapts entropy_coef, which must be above 0"),
        (PPO, {"ramp_start": 0.5}, "would have no effect: ramp_tokens is 0"),
        (REINFORCE, {"lambda_": 0.9}, "would have no effect: it is GAE's, but credit is sequence"),
        (
            REINFORCE,
            {"discount": 0.9},
            "would have no effect: with credit sequence rewards are not discounted",
        ),
        (REINFORCE, {"critic_lambda": 0.9}, "would have no effect: there is no critic"),
        (PPO, {"kl_estimator": "exact"}, "kl in the reward is the estimate's value"),
    ],
)
def test_parts_that_contradict_each_other(base, parts, message):
    with pytest.raises(ConfigError, match=message.replace("(", "\\(")):
        customised(base, **parts)


def test_a_critic_of_another_tokenizer(model, tmp_path):
    import shutil

    other = model_folder(tmp_path / "other")
    file = other / "tokenizer.json"
    tokens = json.loads(file.read_text())
    vocab = tokens["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    file.write_text(json.dumps(tokens))
    with pytest.raises(ConfigError, match=r"has another tokenizer than .* \(2 of its 32 tokens"):
        begun(tmp_path / "run", model, algorithm={"name": "ppo"}, critic={"model": str(other)})
    assert not (tmp_path / "run").exists() or not names(tmp_path / "run")
    shutil.rmtree(other)


def test_a_longer_answer_lets_lambda_adapt(tmp_path):
    from tiny_task import rl_values

    values = rl_values(tmp_path, tmp_path, sampling={"max_tokens": 401})
    parse(RlConfig, {**values, "algorithm": {"name": "ppo", "adaptive_lambda": 0.05}})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vocab_size": 20}, "has weights for 20 tokens, but its tokenizer has 32"),
        (
            {"max_position_embeddings": 11},
            "takes 11 tokens, prompt included, and answers here may end only at 12",
        ),
    ],
)
def test_a_critic_that_could_not_read_all_that_is_written(changed, message, model, tmp_path):
    other = model_folder(tmp_path / "other")
    configuration = AutoConfig.from_pretrained(other, **changed)
    AutoModelForCausalLM.from_config(configuration).save_pretrained(other)
    # "say c???" is the longest prompt, with 8 tokens, and an answer has 4
    with pytest.raises(ConfigError, match=message):
        begun(tmp_path / "run", model, algorithm={"name": "ppo"}, critic={"model": str(other)})
    assert not names(tmp_path / "run")


def test_a_critic_that_is_not_there(model, tmp_path):
    with pytest.raises(ModelError, match="critic.model: model .*nowhere' does not exist"):
        begun(tmp_path / "run", model, algorithm={"name": "ppo"}, critic={"model": str(tmp_path / "nowhere")})
    assert not names(tmp_path / "run")


def test_values_that_are_not_finite_stop_the_run_before_it_learns_from_them(model, tmp_path):
    made = begun(tmp_path / "run", model, algorithm={"name": "ppo"})
    torch.nn.init.constant_(made.policy.network.value_head.module.bias, torch.nan)
    before = weights(made)
    with pytest.raises(RunError, match="not finite, so nothing was updated"):
        play(made)
    assert all(torch.equal(x, before[name]) for name, x in weights(made).items())


# Other parts ------------------------------------------------------------------------------------------------


def test_minibatches_whitened_by_themselves(model, tmp_path):
    run = run_rl(
        tmp_path / "run", model, algorithm={"name": "ppo", "scale": "minibatch_std"},
        run={**ROUND, "folder": str(tmp_path / "run"), "trackers": []},
    )  # fmt: skip
    assert (
        run.column("updates")[1] == 8
    )  # in the first round some minibatches have no reward, and teach nothing
    from ventaja.training.credit import whitened

    batch = batch_of([answer(2), answer(1), answer(1)], [[(1, 1.0)], [(0, -1.0)], [(0, 5.0)]])
    batch = credit(batch, replace(GAE, scale="minibatch_std"))
    assert batch.columns["advantage"][2, 0] == 4.5  # as it is, before its minibatch is known
    inside = whitened(batch, [0, 1]).columns["advantage"]
    assert_close(inside[:2][batch.is_action_ST[:2]].mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert not inside[2].any()


def test_the_entropy_bonus_does_not_grow_with_length(model, tmp_path):
    from ventaja.training.objective import PolicyObjective
    from ventaja.training.update import policy_terms

    algorithm = replace(REINFORCE, entropy_coef=0.1)
    for lengths in ([1, 1], [3, 7]):
        batch = Batch.of_groups([group((9,), [(5,) * n for n in lengths], [1.0] * len(lengths))])
        terms = policy_terms(
            algorithm,
            PolicyObjective(algorithm, batch, 0.0),
            batch.is_action_ST,
            entropy_coef=0.1,
            max_tokens=9,
        )
        assert float(terms[1].weight_ST.sum()) == pytest.approx(1.0)
    assert float(terms[0].weight_ST.sum()) == pytest.approx(5.0)  # sequence_sum's does


def test_entropy_is_driven_to_its_target():
    algorithm = replace(PPO, entropy_coef=0.01, entropy_target=2.0)
    state = State(entropy_coef=0.01)
    state.over(1, {"entropy": 1.0}, algorithm)  # too low: 1 − 1/2 is held at 0.2, and a tenth of it is taken
    assert state.entropy_coef == pytest.approx(0.01 * 1.02)
    state.over(2, {"entropy": 2.2}, algorithm)  # too high by a tenth
    assert state.entropy_coef == pytest.approx(0.01 * 1.02 * 0.99)


@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 32.0}], ids=["all weights", "lora"])
def test_the_exact_kl_is_that_of_the_whole_vocabulary(lora, model, tmp_path):
    made = begun(
        tmp_path / "run", model, algorithm={"name": "grpo", "kl_estimator": "exact", "minibatches": 2},
        model={"lora": lora} if lora else {},
    )  # fmt: skip
    round_ = begin(made, 1)
    assert "ref_logprob" not in round_.batch.columns
    torch.manual_seed(3)
    for _, parameter in made.policy.network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    network, batch = made.policy.network, round_.batch
    (row,) = batch.rows(range(16), max_tokens=4096)
    found = network.read(row.packed, Wanted(reference=made.learners.reference)).kl_M
    hidden, _ = network.states(row.packed)
    with torch.no_grad():
        reference = made.learners.reference
        if lora:
            with network.without_adapters():
                ref_logits = network.head.logits(network.states(row.packed)[0])
        else:
            ref_logits = reference.head.logits(reference.states(row.packed)[0])
        expected = F.kl_exact(network.head.logits(hidden), ref_logits)
    assert expected.min() > 1e-4
    assert_close(found, expected, rtol=1e-4, atol=1e-6)


# ReMax ------------------------------------------------------------------------------------------------------


def test_a_greedy_answer_is_judged_and_not_trained_on(model, tmp_path):
    made = begun(tmp_path / "run", model, algorithm={"name": "remax", "group_size": 2, "kl": "none"})
    sampled = []
    original = made.engine.sample
    made.engine.sample = lambda requests, sampling, **how: (
        sampled.append((sampling.temperature, [request.count for request in requests]))
        or original(requests, sampling, **how)
    )
    round_ = begin(made, 1)
    assert sampled == [(1.0, [2] * 8), (0.0, [1] * 8)]
    assert len(round_.batch.samples) == 16
    greedy = round_.batch.columns["greedy_reward"][:, 0]
    for s, sample in enumerate(round_.batch.samples):
        reward = round_.groups[sample.group].judgements[sample.index].reward
        advantage = round_.batch.columns["advantage"][s, 0]
        assert_close(advantage, torch.tensor(reward) - greedy[s])
    assert round_.sampled["reward_greedy"] == pytest.approx(float(greedy.mean()))


def test_a_greedy_answer_that_broke_counts_as_the_mean_of_the_others(model, tmp_path):
    def judge(prompts, completions):
        if len(completions) == 8:  # the greedy ones, one for each prompt
            return [None, *[1.0] * 7]
        return [0.0] * len(completions)

    made = begun(
        tmp_path / "run", model, judge=judge, algorithm={"name": "remax", "group_size": 2, "kl": "none"},
        reward={"max_broken_fraction": 0.5},
    )  # fmt: skip
    assert begin(made, 1).batch.columns["greedy_reward"].tolist() == [[1.0] * 4] * 16


# Runs of before ---------------------------------------------------------------------------------------------


def test_a_run_of_ppo_without_a_critic_says_how_to_go_on(model, tmp_path):
    from ventaja import yaml

    settings = {
        "algorithm": {"name": "ppo_clip"},
        "run": {**ROUND, "folder": str(tmp_path / "run"), "trackers": []},
    }
    run_rl(tmp_path / "run", model, **settings)
    file = tmp_path / "run" / "config.yaml"
    values = yaml.read(file.read_text()).value
    values["algorithm"]["name"] = "ppo"  # as it was called
    del values["critic"]
    file.write_text(json.dumps(values))  # which is YAML too
    go_on = {**settings["run"], "rounds": 3, "resume": True}
    with pytest.raises(RunError, match="is now called ppo_clip. Go on with --algorithm.name ppo_clip"):
        run_rl(tmp_path / "run", model, algorithm={"name": "ppo"}, run=go_on)
    run = run_rl(tmp_path / "run", model, algorithm={"name": "ppo_clip"}, run=go_on)
    assert len(run.metrics) == 3
