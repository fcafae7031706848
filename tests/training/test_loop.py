"""The loop's own decisions: what it samples again, what it scores with which model, what it writes down."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny_task import (
    LETTERS,
    metrics,
    prompts,
    quiet,
    rl_values,
    run_rl,
    share_of_a,
    tokenizer,
)
from torch.testing import assert_close

from ventaja.environments import Reward
from ventaja.models import load_policy, pack_row
from ventaja.models.layout import Bundle
from ventaja.rollouts import ScriptedEngine
from ventaja.training import RlConfig, parse, rl
from ventaja.training.prompts import Passes
from ventaja.training.rl import RlLoop


def loop(folder, model, /, *, judge=share_of_a, count=8, **groups):
    return RlLoop(
        parse(RlConfig, rl_values(folder, model, **groups)),
        command="",
        prompts=prompts(count),
        rewards=[Reward(judge, "r")],
        console=quiet(),
    )


# ---------------------------------------------------------------------- dynamic sampling


DYNAMIC = {"name": "dapo", "group_size": 4, "minibatches": 1}


def scripted(made, script):
    """The loop with an engine that says `script(prompt, k)`."""
    made.engine = made.collector.engine = ScriptedEngine(tokenizer(), script)
    return made


def test_uniform_groups_are_replaced(model, tmp_path):
    # prompts a to d are hopeless: every answer has the same reward
    def script(prompt, k):
        return "b" if prompt[4] in "abcd" else "ab"[k % 2]

    made = scripted(loop(tmp_path / "run", model, algorithm=DYNAMIC), script)
    round_ = made.begin(1)
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

    made = scripted(loop(tmp_path / "run", model, algorithm={**DYNAMIC, "max_sampling_factor": 2.5}), script)
    round_ = made.begin(1)
    assert len(made.engine.seen) == 10  # 2.5 · 4
    letters = [tokenizer().decode(request.prompt_ids)[4] for request in made.engine.seen]
    assert len(round_.groups) == letters.count("e") >= 1


def test_a_round_without_any_spread_says_so(model, tmp_path):
    made = scripted(loop(tmp_path / "run", model, algorithm=DYNAMIC), lambda prompt, k: "b")
    notes = []
    made.progress.note = notes.append
    round_ = made.begin(1)
    assert len(round_.groups) == 4
    assert round_.batch.columns["advantage"].count_nonzero() == 0
    assert len(notes) == 1
    assert "all 12 groups had equal rewards" in notes[0]


def test_without_dynamic_sampling_nothing_is_replaced(model, tmp_path):
    made = scripted(loop(tmp_path / "run", model), lambda prompt, k: "b")
    assert len(made.begin(1).groups) == 4
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
    made = loop(tmp_path / "run", model, algorithm={"name": "ppo", "group_size": 2, "minibatches": 3})
    round_ = made.begin(1)
    group_S = round_.batch.group_S
    epochs = [[made._minibatch(1, round_.batch, 3 * epoch + part) for part in range(3)] for epoch in range(2)]
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
    second = loop(
        tmp_path / "second", tmp_path / "first", model={"name": str(tmp_path / "first"), "lora": {"rank": 2}}
    )
    assert second.reference is not second.policy
    round_ = second.begin(1)
    gap = (round_.batch.columns["ref_logprob"] - round_.batch.columns["sampler_logprob"]).abs()
    assert gap.max() < 1e-4  # nothing has been learnt yet


def test_new_adapters_follow_from_the_seed(model, tmp_path):
    def first_weights(folder, seed, noise):
        torch.manual_seed(noise)
        run = {"folder": str(folder), "seed": seed, "trackers": [], "completions_per_round": 16}
        made = loop(folder, model, model={"lora": {"rank": 2}}, run=run)
        return [p.detach().clone() for _, p in made.policy.parameters()]

    one, same, other = (
        first_weights(tmp_path / name, seed, noise)
        for name, seed, noise in (("a", 3, 0), ("b", 3, 1), ("c", 4, 0))
    )
    assert all(torch.equal(x, y) for x, y in zip(one, same, strict=True))
    assert any(not torch.equal(x, y) for x, y in zip(one, other, strict=True))


# ---------------------------------------------------------------------- what adapts, what is written


@pytest.mark.parametrize(("kl", "factor"), [(0.0, 0.98), (0.9, 0.99), (1.0, 1.0), (1.1, 1.01), (9.0, 1.02)])
def test_the_adaptive_coefficient_by_hand(kl, factor, model, tmp_path):
    # the target is 1; β grows by a tenth of the relative error, which is cut at ±0.2
    made = loop(tmp_path / "run", model, algorithm={"name": "grpo", "group_size": 4, "kl_target": 1.0})
    made._adapt_kl(kl)
    assert made.state.kl_coef == pytest.approx(0.04 * factor)


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


def test_truncated_answers_masked_or_penalised(model, tmp_path):
    masked = run_rl(tmp_path / "mask", model, reward={"truncated": "mask"})
    rows = masked.rollout_table(1).to_pylist()
    cut = [row for row in rows if row["stop"] == "length"]
    assert cut
    assert all(set(row["advantage"]) == {0.0} for row in cut)
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


def test_the_first_loss_of_zero_is_explained_once(model, tmp_path):
    from io import StringIO

    screen = StringIO()
    algorithm = {"name": "dr_grpo", "group_size": 4}
    run_rl(tmp_path / "run", model, algorithm=algorithm, console=Console(file=screen, width=200))
    assert abs(metrics(tmp_path / "run")[0]["loss"]) < 1e-6
    assert screen.getvalue().count("that is right") == 1


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
    original = rl.update

    def count(policy, optimiser, budget, cut, *args, **kwargs):
        seen.append(len(cut(budget.tokens)))
        return original(policy, optimiser, budget, cut, *args, **kwargs)

    monkeypatch.setattr(rl, "update", count)
    same = {"judge": lambda completions: [1.0] * len(completions)}
    run = {"folder": str(tmp_path / "run"), "rounds": 1, "completions_per_round": 16, "trackers": []}
    run_rl(tmp_path / "run", model, algorithm={"name": "dr_grpo", "group_size": 4}, run=run, **same)
    assert seen == [0]
