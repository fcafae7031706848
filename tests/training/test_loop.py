"""The loop's own decisions: what it samples again, what it scores with which model, what it writes down."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny_task import (
    LETTERS,
    begun,
    metrics,
    prompts,
    quiet,
    rl_values,
    run_rl,
    share_of_a,
    tokenizer,
)
from torch.testing import assert_close

from ventaja.environments import Reward, SingleTurn, log_metric
from ventaja.models import load_policy, pack_row
from ventaja.models.layout import Bundle
from ventaja.records import Prompt
from ventaja.training import RlConfig, parse, train_rl
from ventaja.training.algorithms import GRPO
from ventaja.training.learner import Learner
from ventaja.training.minibatches import minibatches
from ventaja.training.prompts import Passes
from ventaja.training.rl import begin, play
from ventaja.training.round import State


def world(judge=share_of_a, asked=None):
    return SingleTurn(prompts=asked or prompts(), rewards=[Reward(judge, "r")])


@pytest.mark.parametrize("lasts", ["aaaa", "abcd"], ids=["one prompt", "other last tokens"])
def test_prompts_may_be_alike_but_for_their_last_token(lasts, model, tmp_path):
    alike = [Prompt(id=f"p:{i}", content="say " + "?" * 30 + last) for i, last in enumerate(lasts)]
    config = parse(RlConfig, rl_values(tmp_path / "run", model, run={"rounds": 2}))
    train_rl(config, environment=world(asked=alike), console=quiet())
    lines = metrics(tmp_path / "run")
    assert len(lines) == 2
    for line in lines:  # and training sees what was sampled
        assert line["grad_norm"] > 0
        assert line["sampling/logprob_gap"] < 1e-4


# ---------------------------------------------------------------------- dynamic sampling


DYNAMIC = {"name": "dapo", "group_size": 4, "minibatches": 1}


def test_uniform_groups_are_replaced(model, tmp_path):
    # prompts a to d are hopeless: every answer has the same reward
    def script(prompt, k):
        return "b" if prompt[4] in "abcd" else "ab"[k % 2]

    made = begun(tmp_path / "run", model, algorithm=DYNAMIC, script=script)
    round_ = begin(made, 1)
    assert len(round_.groups) == 4
    assert all(group.prompt.content[4] not in "abcd" for group in round_.groups)
    # fresh prompts in the order of the shuffle, each asked once, and no more than needed
    asked = [tokenizer().decode(request.prompt_ids)[4] for request in made.engine.seen]
    order = [LETTERS[i] for i in Passes([1.0] * 8, seed=0).stream(0, len(asked))]
    assert asked == order
    assert made.state.prompts_taken == len(asked) <= 12
    assert sum(letter not in "abcd" for letter in asked) == 4


def test_the_budget_is_kept(model, tmp_path):
    # one prompt of eight has differing rewards
    def script(prompt, k):
        return "ab"[k % 2] if prompt[4] == "e" else "b"

    made = begun(tmp_path / "run", model, algorithm={**DYNAMIC, "max_sampling_factor": 2.5}, script=script)
    round_ = begin(made, 1)
    assert len(made.engine.seen) == 10  # 2.5 · 4
    letters = [tokenizer().decode(request.prompt_ids)[4] for request in made.engine.seen]
    assert len(round_.groups) == letters.count("e") >= 1


def test_a_round_without_any_spread_says_so(model, tmp_path):
    made = begun(tmp_path / "run", model, algorithm=DYNAMIC, script=lambda prompt, k: "b")
    notes = []
    made.session.progress.note = notes.append
    round_ = begin(made, 1)
    assert len(round_.groups) == 4
    assert round_.batch.columns["advantage"].count_nonzero() == 0
    assert len(notes) == 1
    assert "all 48 answers have the reward 0." in notes[0]
    begin(made, 2)
    assert len(notes) == 1  # not again in every round


@pytest.mark.parametrize(
    ("judge", "said", "algorithms"),
    [
        (lambda completions: [None] * len(completions), "no answer has one, because all were None", None),
        (lambda completions: [0.5] * len(completions), "all 16 answers have the reward 0.5.", None),
        (
            lambda prompts, completions: [float(ord(p[4])) for p in prompts],
            "in each of the 4 groups all answers have the same.",
            {"grpo", "rloo"},  # the others compare answers to different prompts
        ),
        (lambda completions: [float(k % 2) for k in range(len(completions))], None, None),
    ],
    ids=["none", "equal", "equal within groups", "not equal"],
)
@pytest.mark.parametrize("name", ["reinforce", "ppo", "grpo", "rloo"])
def test_rewards_that_compare_nothing_are_told_of(name, judge, said, algorithms, model, tmp_path):
    made = begun(tmp_path / "run", model, judge=judge, algorithm={"name": name, "group_size": 4})
    notes = []
    made.session.progress.note = notes.append
    for number in range(1, 11):
        begin(made, number)
    if said is None or (algorithms and name not in algorithms):
        assert notes == []
    else:
        first, tenth = notes  # ten rounds, two notes
        assert first.startswith("The rewards of round 1 do not say which answers are better: ")
        assert said in first
        assert "round 10 do not say which answers are better, for the 10th time: " in tenth


def test_a_penalty_for_cut_answers_compares_them(model, tmp_path):
    made = begun(
        tmp_path / "run", model, judge=lambda completions: [0.0] * len(completions),
        reward={"truncated": "penalise", "truncation_penalty": 0.5},
        script=lambda prompt, k: "b" * (1 + 8 * (k % 2)),
    )  # fmt: skip
    notes = []
    made.session.progress.note = notes.append
    begin(made, 1)
    assert notes == []


def test_answers_that_the_context_cuts_off_are_told_of_once(model, tmp_path):
    screen = StringIO()
    run = {"folder": str(tmp_path / "run"), "rounds": 2, "completions_per_round": 16, "trackers": []}
    # prompts of 6 to 8 tokens in a context of 64
    run_rl(
        tmp_path / "run", model,
        sampling={"max_tokens": 100}, run=run, console=Console(file=screen, width=500),
    )  # fmt: skip
    told = [line for line in screen.getvalue().splitlines() if "sampling.max_tokens" in line]
    assert len(told) == 1
    assert "is 100, but" in told[0]
    assert "takes 64 tokens, prompt included: answers are cut off after 56 to 58 tokens" in told[0]


def test_the_first_line_says_that_the_model_is_being_loaded(model, tmp_path):
    screen = StringIO()
    run_rl(tmp_path / "run", model, console=Console(file=screen, width=500))
    assert screen.getvalue().splitlines()[0] == f"Loading {model} …"


# ---------------------------------------------------------------------- what a user's code is told, and tells


def test_on_round_sees_the_recorded_round(model, tmp_path):
    seen = []

    def on_round(run, round):
        seen.append((round, run.metrics[-1]["round"], len(run.rollouts(round)), run.column("reward")[-1]))

    config = parse(RlConfig, rl_values(tmp_path / "run", model))
    made = train_rl(config, environment=world(), on_round=on_round, console=quiet())
    assert seen == [(n, n, 4, reward) for n, reward in enumerate(made.column("reward"), start=1)]


def test_what_on_round_raises_ends_the_run_and_loses_nothing(model, tmp_path):
    def on_round(run, round):
        if round == 2:
            raise ZeroDivisionError("enough")

    values = rl_values(tmp_path / "run", model)
    with pytest.raises(ZeroDivisionError, match="enough"):
        train_rl(parse(RlConfig, values), environment=world(), on_round=on_round, console=quiet())
    assert len(metrics(tmp_path / "run")) == 2
    values["run"]["resume"] = True
    told = []
    train_rl(
        parse(RlConfig, values), environment=world(), console=quiet(),
        on_round=lambda run, round: told.append(round),
    )  # fmt: skip
    assert told == [3]  # round 2 was whole when it raised


@pytest.mark.parametrize("overlap", [False, True])
def test_metrics_that_a_reward_notes_are_recorded(overlap, model, tmp_path):
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"prompt": "say z"}\n')

    def judge(completions):
        for text in completions:
            log_metric("characters", len(text))
        return share_of_a(completions)

    run = run_rl(
        tmp_path / "run", model, judge=judge, reward={"overlap": overlap},
        eval={"source": str(held_out), "every": 3},
    )  # fmt: skip
    for number in (1, 2, 3):
        lengths = [len(row["text"]) for row in run.rollout_table(number).to_pylist()]
        assert run.column("reward_metrics/characters")[number - 1] == pytest.approx(np.mean(lengths))
    assert ["eval/reward_metrics/characters" in line for line in run.metrics] == [False, False, True]


def test_what_is_reported_as_uniform_is_what_is_replaced(model, tmp_path):
    """Rewards that are alike until a penalty makes them differ, and the other way round."""

    def script(prompt, k):  # of four tokens, so that it is cut off; or two, and the end
        return "aaaa" if k % 2 and prompt[4] in "abcd" else "aa"

    for truncated, uniform in (({"truncated": "keep"}, 0.0), ({"truncated": "mask"}, 1.0)):
        reward = {**truncated}
        made = begun(
            tmp_path / truncated["truncated"], model, algorithm=DYNAMIC, reward=reward, count=4, script=script
        )
        round_ = begin(made, 1)
        assert round_.sampled["frac_reward_zero_std"] == uniform
        assert round_.sampled["replaced_groups"] == 8 * uniform  # of 12 asked 4 are kept in any case
        assert bool(round_.batch.columns["advantage"].any()) == (not uniform)


def test_without_dynamic_sampling_nothing_is_replaced(model, tmp_path):
    made = begun(tmp_path / "run", model, script=lambda prompt, k: "b")
    assert len(begin(made, 1).groups) == 4
    assert len(made.engine.seen) == 4


# ---------------------------------------------------------------------- prompts and minibatches


def test_every_pass_uses_every_prompt_once():
    passes = Passes([1.0] * 7, seed=1)
    taken = [passes.stream(start, 3) for start in range(0, 21, 3)]
    stream = [i for part in taken for i in part]
    assert [sorted(stream[p : p + 7]) for p in (0, 7, 14)] == [list(range(7))] * 3
    assert stream[:7] != stream[7:14] != stream[14:]
    assert stream == passes.stream(0, 21)  # however it is cut
    assert stream != Passes([1.0] * 7, seed=2).stream(0, 21)


def test_minibatches_are_whole_groups_and_each_sample_has_its_turn_once_per_epoch(model, tmp_path):
    made = begun(tmp_path / "run", model, algorithm={"name": "ppo", "group_size": 2, "minibatches": 3})
    batch = begin(made, 1).batch
    group_S = batch.group_S
    cut = minibatches(batch, made.algorithm, seed=(0, 1))
    epochs = [[part.members for part in cut if part.epoch == epoch] for epoch in range(2)]
    assert cut == minibatches(batch, made.algorithm, seed=(0, 1))
    assert cut != minibatches(batch, made.algorithm, seed=(0, 2))
    for parts in epochs:
        assert sorted(s for part in parts for s in part) == list(range(16))
        assert {len(part) for part in parts} <= {4, 6}  # eight groups of two in three parts
        for part in parts:
            assert all(set((group_S == g).nonzero()[:, 0].tolist()) <= set(part) for g in group_S[part])
    assert epochs[0] != epochs[1]


# ---------------------------------------------------------------------- which model scores what


@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 32.0}], ids=["all weights", "lora"])
@pytest.mark.parametrize("name", ["rloo", "ppo", "grpo"])
def test_old_logprobs_are_the_samplers_and_the_reference_stays(name, lora, model, tmp_path):
    """The reference with adapters is the policy without them: it must not score the policy's own samples."""
    groups = {"model": {"lora": lora}} if lora else {}
    run = {"folder": str(tmp_path / "run"), "rounds": 4, "completions_per_round": 16, "trackers": []}
    algorithm = {"name": name, "group_size": 4}
    made = run_rl(
        tmp_path / "run", model, algorithm=algorithm, run=run, optimiser={"learning_rate": 3e-2}, **groups
    )
    rows = made.rollout_table(4).to_pylist()
    start = load_policy(str(model), device="cpu", precision="float32")
    for row in rows:
        if name != "grpo":
            # one float32 forward pass against another, token by token against packed
            np.testing.assert_allclose(row["old_logprob"], row["logprobs"], rtol=0, atol=1e-4)
        packed = pack_row([Bundle(prompt_ids=row["prompt_ids"], answers=[row["token_ids"]])])
        with torch.no_grad():
            expected = start.score(packed).logprob_M
        assert_close(torch.tensor(row["ref_logprob"]), expected, rtol=0, atol=1e-4)
    assert max(abs(a - b) for r in rows for a, b in zip(r["ref_logprob"], r["logprobs"], strict=True)) > 0.05
    for row in made.rollout_table(1).to_pylist():  # at first the policy is the reference
        np.testing.assert_allclose(row["ref_logprob"], row["logprobs"], rtol=0, atol=1e-4)


def test_the_reference_of_a_run_that_goes_on_from_adapters(model, tmp_path):
    """A run folder as the model: the reference is its last checkpoint, adapters included."""
    settings = {"model": {"lora": {"rank": 2, "alpha": 32.0}}, "optimiser": {"learning_rate": 3e-2}}
    run_rl(tmp_path / "first", model, **settings)
    second = begun(
        tmp_path / "second", tmp_path / "first", model={"name": str(tmp_path / "first"), "lora": {"rank": 2}}
    )
    assert second.scorer.reference is not second.policy.network
    round_ = begin(second, 1)
    gap = (round_.batch.columns["ref_logprob"] - round_.batch.columns["sampler_logprob"]).abs()
    assert gap.max() < 1e-4  # nothing has been learnt yet


def test_new_adapters_follow_from_the_seed(model, tmp_path):
    def first_weights(folder, seed, noise):
        torch.manual_seed(noise)
        run = {"folder": str(folder), "seed": seed, "trackers": [], "completions_per_round": 16}
        made = begun(folder, model, model={"lora": {"rank": 2}}, run=run)
        return [p.detach().clone() for _, p in made.policy.network.parameters()]

    one, same, other = (
        first_weights(tmp_path / name, seed, noise)
        for name, seed, noise in (("a", 3, 0), ("b", 3, 1), ("c", 4, 0))
    )
    assert all(torch.equal(x, y) for x, y in zip(one, same, strict=True))
    assert any(not torch.equal(x, y) for x, y in zip(one, other, strict=True))


# ---------------------------------------------------------------------- what adapts, what is written


@pytest.mark.parametrize(("kl", "factor"), [(0.0, 0.98), (0.9, 0.99), (1.0, 1.0), (1.1, 1.01), (9.0, 1.02)])
def test_the_adaptive_coefficient_by_hand(kl, factor):
    # the target is 1; β grows by a tenth of the relative error, which is cut at ±0.2
    state = State(kl_coef=0.04)
    state.over(1, {"kl": kl}, replace(GRPO, kl_target=1.0))
    assert state.kl_coef == pytest.approx(0.04 * factor)


def test_the_running_mean_is_that_of_the_rounds_before(model, tmp_path):
    run = run_rl(tmp_path / "run", model, algorithm={"name": "reinforce", "group_size": 4})
    rewards = [line["reward"] for line in metrics(tmp_path / "run")]
    baselines = [0.0, rewards[0], (rewards[0] + rewards[1]) / 2]
    for number, baseline in enumerate(baselines, start=1):
        for row in run.rollout_table(number).to_pylist():
            # every token of an answer: its reward less the baseline
            assert row["advantage"] == pytest.approx(
                [row["reward"] - baseline] * len(row["token_ids"]), abs=1e-6
            )


def test_the_running_mean_is_of_what_it_is_subtracted_from(model, tmp_path):
    """Of rewards with their penalties, and of the answers that take part."""
    reinforce = {"name": "reinforce", "group_size": 4, "kl": "reward", "kl_coef": 0.1, "kl_estimator": "k1"}
    shaped = {"truncated": "penalise", "truncation_penalty": 0.5, "overlong_buffer": 2}
    for folder, reward in (("penalise", shaped), ("mask", {"truncated": "mask"})):
        run = run_rl(tmp_path / folder, model, algorithm=reinforce, reward=reward)
        lines = metrics(tmp_path / folder)
        baselines = [0.0, lines[0]["return"], (lines[0]["return"] + lines[1]["return"]) / 2]
        for number, baseline in enumerate(baselines, start=1):
            returns = []
            for row in run.rollout_table(number).to_pylist():
                cut = row["stop"] == "length"
                if folder == "mask" and cut:
                    continue
                kl = sum(row["old_logprob"]) - sum(row["ref_logprob"])
                expected = row["reward"] - 0.1 * kl
                if folder == "penalise":  # 4 tokens at most: the third costs a half, the fourth 1
                    expected -= 0.5 * cut + max(0, len(row["token_ids"]) - 2) / 2
                returns.append(expected)
                assert row["advantage"] == pytest.approx(
                    [expected - baseline] * len(row["token_ids"]), abs=1e-5
                )
            if returns:
                assert lines[number - 1]["return"] == pytest.approx(np.mean(returns), abs=1e-5)
        assert any(abs(line["return"] - line["reward"]) > 0.01 for line in lines if "return" in line)


def test_truncated_answers_masked_or_penalised(model, tmp_path):
    masked = run_rl(tmp_path / "mask", model, reward={"truncated": "mask"})
    rows = masked.rollout_table(1).to_pylist()
    cut = [row for row in rows if row["stop"] == "length"]
    assert cut
    assert all(row["advantage"] is None for row in cut)
    reinforce = {"name": "reinforce", "group_size": 4}
    penalised = run_rl(
        tmp_path / "penalise", model,
        reward={"truncated": "penalise", "truncation_penalty": 0.5}, algorithm=reinforce,
    )  # fmt: skip
    for row in penalised.rollout_table(1).to_pylist():
        expected = row["reward"] - 0.5 * (row["stop"] == "length")
        assert row["advantage"] == pytest.approx([expected] * len(row["token_ids"]))


def test_runs_are_reproducible_and_the_seed_matters(model, tmp_path):
    def answers(folder, seed):
        run = {"folder": str(folder), "rounds": 2, "seed": seed, "completions_per_round": 16, "trackers": []}
        made = run_rl(folder, model, run=run)
        return [row["text"] for row in made.rollout_table(2).to_pylist()]

    assert answers(tmp_path / "a", 1) == answers(tmp_path / "b", 1) != answers(tmp_path / "c", 2)


def test_an_entropy_coefficient_of_either_sign_acts(model, tmp_path):
    """A bonus keeps the answers varied, a penalty makes them alike."""

    def entropy(folder, coefficient):
        algorithm = {"name": "grpo", "group_size": 4, "kl_coef": 0.0, "entropy_coef": coefficient}
        run = {"folder": str(folder), "rounds": 4, "completions_per_round": 16, "trackers": []}
        run_rl(
            folder, model, judge=lambda completions: [0.0] * len(completions), algorithm=algorithm, run=run
        )
        return [line["entropy"] for line in metrics(folder)]

    more, less = entropy(tmp_path / "more", 1.0), entropy(tmp_path / "less", -1.0)
    assert more[-1] > more[0]
    assert less[-1] < less[0] - 0.8  # far more than the noise of 64 tokens


@pytest.mark.parametrize(("name", "times"), [("grpo", 1), ("gspo", 1), ("dr_grpo", 0)])
def test_a_first_loss_of_zero_is_explained_once_where_it_has_to_be(name, times, model, tmp_path):
    screen = StringIO()
    algorithm = {"name": name, "group_size": 4}
    run_rl(tmp_path / "run", model, algorithm=algorithm, console=Console(file=screen, width=200))
    assert screen.getvalue().count("that is right") == times


def test_sampling_from_a_part_of_the_distribution_is_warned_of(model, tmp_path):
    for folder, sampling, times in (("whole", {}, 0), ("cut", {"top_p": 0.9}, 1)):
        screen = StringIO()
        run_rl(
            tmp_path / folder, model, sampling={"max_tokens": 4, **sampling},
            console=Console(file=screen, width=400),
        )  # fmt: skip
        assert screen.getvalue().count("training scores the whole one") == times
    # more than the float32 noise of two forward passes
    gaps = [metrics(tmp_path / folder)[0]["sampling/logprob_gap"] for folder in ("whole", "cut")]
    assert gaps[0] < 1e-4 < 1e-2 < gaps[1]


def test_checkpoints_are_ordinary_folders(model, tmp_path):
    from transformers import AutoModelForCausalLM

    run = {"folder": str(tmp_path / "run"), "rounds": 4, "completions_per_round": 16, "trackers": [],
           "checkpoint_every": 1, "keep_checkpoints": 2}  # fmt: skip
    made = run_rl(tmp_path / "run", model, run=run)
    assert [path.name for path in made.checkpoints] == ["000003", "000004"]
    loaded = AutoModelForCausalLM.from_pretrained(made.last_checkpoint)
    again = load_policy(str(tmp_path / "run"), device="cpu", precision="float32")
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, dict(again.module.named_parameters())[name])
    state = json.loads((made.last_checkpoint / "training" / "state.json").read_text())
    assert state["rounds_done"] == 4


def test_zero_advantages_are_not_computed(model, tmp_path, monkeypatch):
    seen = []
    original = Learner.update

    def count(learner, cut, *args, **kwargs):
        seen.append(len(cut(learner.budget.tokens)))
        return original(learner, cut, *args, **kwargs)

    monkeypatch.setattr(Learner, "update", count)
    same = {"judge": lambda completions: [1.0] * len(completions)}
    run = {"folder": str(tmp_path / "run"), "rounds": 1, "completions_per_round": 16, "trackers": []}
    run_rl(tmp_path / "run", model, algorithm={"name": "dr_grpo", "group_size": 4}, run=run, **same)
    assert seen == [0]


@pytest.mark.parametrize("name", ["reinforce", "grpo"])
def test_answers_that_are_all_masked_are_told_of(name, model, tmp_path):
    made = begun(
        tmp_path / "run", model, algorithm={"name": name, "group_size": 4}, reward={"truncated": "mask"},
        script=lambda prompt, k: "a" * (5 + k),
    )  # fmt: skip
    notes = []
    made.session.progress.note = notes.append
    begin(made, 1)
    [note] = notes
    assert "every answer was cut off by sampling.max_tokens, and cut ones are masked" in note


def test_a_kl_in_the_reward_that_moves_nothing_makes_no_step(model, tmp_path):
    made = begun(
        tmp_path / "run", model, judge=lambda completions: [1.0] * len(completions),
        algorithm={"name": "rloo", "group_size": 4},
        run={"folder": str(tmp_path / "run"), "rounds": 1, "completions_per_round": 16, "trackers": []},
    )  # fmt: skip
    made.state.round = round_ = begin(made, 1)
    assert round_.batch.columns["advantage"].count_nonzero() == 0  # the policy is its reference still
    play(made)
    assert [report.stepped for report in round_.reports] == [False]
    assert made.policy.updates == 0
