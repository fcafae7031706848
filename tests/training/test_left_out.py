"""Answers that are not trained on: what is reported counts them, and where none teaches there is no step."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_task import group, metrics, run_rl, share_of_a
from torch.testing import assert_close

from ventaja import functional as F
from ventaja.models import load_policy
from ventaja.training import left_out, scoring
from ventaja.training.algorithms import CISPO, DAPO, GRPO, replace
from ventaja.training.batch import Batch, scores_table
from ventaja.training.learner import Learner
from ventaja.training.left_out import MEASURED, left_out_sums, measure_left_out, teaches
from ventaja.training.session import Session


def mostly_uniform(completions, prompts):
    """Half of the prompts teach nothing."""
    return [
        score if prompt[4] in "aceg" else 1.0
        for score, prompt in zip(share_of_a(completions), prompts, strict=True)
    ]


def always_differ(completions):
    """The answers of every prompt, half and half."""
    return [float(k % 2) for k in range(len(completions))]


def lines(folder, model, *, judge=mostly_uniform, rounds=3, **algorithm):
    run = {"folder": str(folder), "rounds": rounds, "completions_per_round": 32, "trackers": []}
    run_rl(
        folder, model, judge=judge, algorithm={"group_size": 4, **algorithm}, run=run,
        optimiser={"learning_rate": 3e-2},
    )  # fmt: skip
    return metrics(folder)


@pytest.mark.parametrize(
    "algorithm",
    [
        {"name": "dr_grpo"},
        {"name": "dapo", "minibatches": 2, "epochs": 2, "dynamic_sampling": False, "clip_high": 0.05},
        {"name": "cispo", "minibatches": 2, "clip_low": 0.02, "clip_high": 0.02},
        {"name": "gspo", "minibatches": 2},
    ],
    ids=lambda algorithm: algorithm["name"],
)
def test_what_an_update_reports_is_what_scoring_every_token_gives(algorithm, model, tmp_path, monkeypatch):
    original, olds, seen = Learner.update, [], []

    def begin(batch, algorithm, score, *, seed, epochs):
        batch = measure_left_out(batch, algorithm, score, seed=seed, epochs=epochs)
        assert batch.columns[MEASURED][:, 0].isnan().any()  # some are not measured: they are trained on
        olds.append(score(range(batch.sequences)))
        return batch

    def checked(learner, cut, terms, **how):
        objective, weight_ST = terms[0].objective, terms[0].weight_ST
        batch, a = objective.batch, objective.algorithm
        is_action = weight_ST > 0  # of this minibatch, trained on or not
        with torch.no_grad():
            rows = batch.rows(range(batch.sequences), max_tokens=10_000)
            new_ST = scores_table(batch, lambda row: learner.network.score(row).logprob_M, rows)
        old_ST = new_ST if a.is_on_policy else olds[-1]
        advantage_ST, log_ratio_ST = batch.columns["advantage"], new_ST - old_ST
        expected = {
            "approx_kl": F.approx_kl(log_ratio_ST, is_action),
            "sampling/logprob_gap": (old_ST - batch.columns["sampler_logprob"])[is_action].abs().mean(),
        }
        if a.ratio == "sequence":
            log_ratio_S = F.sequence_log_ratio(log_ratio_ST, batch.is_action_ST)
            log_ratio_ST = log_ratio_S[:, None].expand_as(log_ratio_ST)
        if not a.is_on_policy:
            low, high = (advantage_ST, advantage_ST)
            if a.surrogate == "detached_clamp":
                low, high = (-advantage_ST.abs(), advantage_ST.abs())
            expected["clip_ratio/low"] = F.clip_fraction_low(
                log_ratio_ST, low, is_action, clip_low=a.clip_low
            )
            expected["clip_ratio/high"] = F.clip_fraction_high(
                log_ratio_ST, high, is_action, clip_high=a.clip_high
            )
        report = original(learner, cut, terms, **how)
        found = {name: report.means[name] for name in expected}
        assert report.tokens == is_action.sum()
        # float32 forward passes over other rows
        assert found == pytest.approx(
            {name: float(value) for name, value in expected.items()}, rel=1e-3, abs=1e-6
        )
        seen.append(found)
        return report

    monkeypatch.setattr(left_out, "FEW", 1000)
    monkeypatch.setattr(scoring, "measure_left_out", begin)
    monkeypatch.setattr(Learner, "update", checked)
    lines(tmp_path / "run", model, **algorithm)
    if algorithm["name"] != "dr_grpo":  # it says something
        assert max(found["approx_kl"] for found in seen) > 1e-3
        assert max(found["clip_ratio/low"] + found["clip_ratio/high"] for found in seen) > 0.01


def batch_of(uniform: int) -> Batch:
    """Groups of two answers with two tokens: the first teaches, the others have equal rewards."""
    answers = [(5, 6), (7, 8)]
    groups = [group((1,), answers, [1.0, 0.0])] + [group((2,), answers, [1.0, 1.0])] * uniform
    batch = Batch.of_groups(groups)
    advantage_S = torch.tensor([0.5, -0.5] + [0.0] * (2 * uniform))
    batch.columns["advantage"] = advantage_S[:, None].expand(-1, 2)
    batch.columns["sampler_logprob"] = -torch.rand(
        batch.sequences, 2, generator=torch.Generator().manual_seed(0)
    )
    return batch


def masked(batch, sequences):
    is_action_ST = batch.is_action_ST.clone()
    is_action_ST[sequences] = False
    return replace(batch, is_action_ST=is_action_ST)


def table(batch, values):
    def score(chosen):
        result = torch.full(values.shape, torch.nan)
        result[list(chosen)] = values[list(chosen)]
        return result

    return score


def test_sums_by_hand_if_few_are_left_out():
    batch = batch_of(uniform=2)
    old_ST = batch.columns["sampler_logprob"] + 0.25
    batch = measure_left_out(batch, DAPO, table(batch, old_ST), seed=[0], epochs=[[range(batch.sequences)]])
    assert batch.columns[MEASURED].isnan().any(dim=1).tolist() == [True] * 2 + [False] * 4
    members = [0, 1, 2, 3]  # the last group is in another minibatch
    now = table(batch, old_ST + np.log(2))
    still = left_out_sums(batch, members, DAPO, now, moved=False)
    # four tokens of two answers, each a quarter off; the clip holds none of them
    held = {"clip_ratio/low": 0.0, "clip_ratio/high": 0.0}
    assert still == pytest.approx({"tokens": 4.0, "sampling/logprob_gap": 1.0, "approx_kl": 0.0} | held)
    moved = left_out_sums(batch, members, DAPO, now, moved=True)
    # r = 2: (r − 1) − log r, four times
    assert moved["approx_kl"] == pytest.approx(4 * (1 - np.log(2)))
    assert left_out_sums(batch, [0, 1], DAPO, now, moved=True) == {}


def test_a_sample_stands_for_all_without_bias(monkeypatch):
    """The mean over every sample of 2 out of 4 that could have been drawn is the sum over all."""
    monkeypatch.setattr(left_out, "FEW", 2)
    monkeypatch.setattr(left_out, "SHARE", 4)
    batch = batch_of(uniform=2)
    generator = torch.Generator().manual_seed(1)
    old_ST = batch.columns["sampler_logprob"] + torch.rand(6, 2, generator=generator)
    new = table(batch, old_ST + torch.rand(6, 2, generator=generator))
    batch.columns[MEASURED] = table(batch, old_ST)([2, 3, 4, 5])
    whole = left_out_sums(batch, range(4), DAPO, new, moved=True)
    draws = []
    for chosen in combinations([2, 3, 4, 5], 2):
        batch.columns[MEASURED] = table(batch, old_ST)(chosen)
        draws.append(left_out_sums(batch, range(4), DAPO, new, moved=True))
    for name, value in whole.items():
        assert np.mean([draw[name] for draw in draws]) == pytest.approx(value)
    drawn = {tuple(chosen_for(batch, old_ST, seed)) for seed in range(40)}
    assert drawn == set(combinations([2, 3, 4, 5], 2))
    assert chosen_for(batch, old_ST, 7) == chosen_for(batch, old_ST, 7)


def chosen_for(batch, old_ST, seed):
    batch = measure_left_out(
        batch, DAPO, table(batch, old_ST), seed=[seed], epochs=[[range(batch.sequences)]]
    )
    return (~batch.columns[MEASURED][:, 0].isnan()).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(("uniform", "count"), [(1, 2), (4, 8), (5, 8), (32, 8), (64, 16)])
def test_how_many_are_measured(uniform, count):
    batch = batch_of(uniform)
    assert len(chosen_for(batch, batch.columns["sampler_logprob"], 0)) == count


def test_what_teaches():
    batch = batch_of(uniform=1)
    assert teaches(batch, DAPO).tolist() == [True, True, False, False]
    assert teaches(batch, GRPO).all()  # its KL acts on every token
    assert teaches(batch, replace(CISPO, entropy_coef=-0.1)).all()
    batch = masked(batch, 1)
    assert teaches(batch, DAPO).tolist() == [True, False, False, False]
    assert teaches(batch, GRPO).tolist() == [True, False, True, True]


# ---------------------------------------------------------------------- no step


def weights(folder):
    policy = load_policy(str(folder), device="cpu", precision="float32")
    return {name: p.detach().clone() for name, p in policy.parameters()}


@pytest.mark.parametrize("name", ["dr_grpo", "dapo", "rloo"])
def test_a_round_that_teaches_nothing_makes_no_step(name, model, tmp_path):
    """Adam's momentum would go on moving the weights."""
    calls = 0

    def teaches_once(completions):
        nonlocal calls
        calls += 1
        return share_of_a(completions) if calls == 1 else [1.0] * len(completions)

    parts = {"dapo": {"dynamic_sampling": False, "minibatches": 2}, "rloo": {"kl": "none"}}.get(name, {})
    first = lines(tmp_path / "first", model, judge=share_of_a, rounds=1, name=name, **parts)
    both = lines(tmp_path / "both", model, judge=teaches_once, rounds=3, name=name, **parts)
    assert [line["updates"] for line in both] == [first[0]["updates"], 0.0, 0.0]
    assert first[0]["updates"] > 0
    assert both[1]["grad_norm"] == both[1]["loss"] == 0.0
    assert both[1]["frac_tokens_trained"] == 0.0
    one, two = weights(tmp_path / "first"), weights(tmp_path / "both")
    assert all(torch.equal(one[n], two[n]) for n in one)
    (checkpoint,) = (tmp_path / "both" / "checkpoints").iterdir()
    assert checkpoint.name == f"{int(first[0]['updates']):06d}"


def test_a_minibatch_that_teaches_nothing_makes_no_step(model, tmp_path):
    def one_teaches(completions, prompts):
        differing = zip(always_differ(completions), prompts, strict=True)
        return [score if prompt[4] == "a" else 1.0 for score, prompt in differing]

    found = lines(
        tmp_path / "run",
        model,
        judge=one_teaches,
        name="dapo",
        minibatches=4,
        epochs=2,
        dynamic_sampling=False,
    )
    assert [line["updates"] for line in found] == [2.0] * 3  # of eight: in each epoch the one with prompt a
    assert all(0 < line["frac_tokens_trained"] < 0.2 for line in found)


def test_rounds_without_a_step_write_no_checkpoint_again_and_again(model, tmp_path, monkeypatch):
    written = []
    original = Session.save

    def save(session, *args, **kwargs):
        written.append(session.learner.updates)
        original(session, *args, **kwargs)

    monkeypatch.setattr(Session, "save", save)

    def second_round(completions):
        nonlocal calls
        calls += 1
        return always_differ(completions) if calls == 2 else [1.0] * len(completions)

    calls = 0
    run = {"folder": str(tmp_path / "run"), "rounds": 5, "completions_per_round": 16, "trackers": [],
           "checkpoint_every": 1}  # fmt: skip
    run_rl(
        tmp_path / "run", model, judge=second_round, algorithm={"name": "dr_grpo", "group_size": 4}, run=run
    )
    assert written == [1, 1]  # after the second round, and at the end


def test_a_checkpoint_from_before_all_this_still_resumes(model, tmp_path, monkeypatch):
    def nearly_all_differ(completions, prompts):
        differing = zip(always_differ(completions), prompts, strict=True)
        return [1.0 if prompt[4] == "a" else score for score, prompt in differing]

    def run(*, resume=False):
        run_rl(
            tmp_path / "run", model, judge=nearly_all_differ,
            algorithm={"name": "dapo", "group_size": 4, "minibatches": 2, "dynamic_sampling": False},
            run={"folder": str(tmp_path / "run"), "rounds": 2, "completions_per_round": 32, "trackers": [],
                 "checkpoint_every": 1, "resume": resume},
        )  # fmt: skip

    class Killed(BaseException):
        pass

    original = Learner.update

    def dying(learner, *args, **kwargs):
        if learner.updates == 1:
            raise Killed
        return original(learner, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "update", dying)
        with pytest.raises(Killed):
            run()
    training = tmp_path / "run" / "checkpoints" / "000001" / "training"
    state = json.loads((training / "state.json").read_text())
    for report in state["round"]["reports"]:
        del report["stepped"]
    del state["round"]["sampled"]["return"]
    (training / "state.json").write_text(json.dumps(state))
    tables = load_file(training / "tables.safetensors")
    del tables[MEASURED]
    save_file(tables, training / "tables.safetensors")
    run(resume=True)
    assert [line["updates"] for line in metrics(tmp_path / "run")] == [2.0, 2.0]


def test_a_schedule_ends_with_the_run_though_some_rounds_make_no_step(model, tmp_path, monkeypatch):
    def second_round(completions):
        nonlocal calls
        calls += 1
        return [1.0] * len(completions) if calls == 2 else share_of_a(completions)

    def run(folder, rounds, *, resume=False):
        run_rl(
            folder, model, judge=second_round, algorithm={"name": "dr_grpo", "group_size": 4},
            optimiser={"learning_rate": 1e-2, "schedule": "linear"},
            run={"folder": str(folder), "rounds": rounds, "completions_per_round": 16, "trackers": [],
                 "resume": resume},
        )  # fmt: skip
        return [line["learning_rate"] for line in metrics(folder)]

    calls = 0
    rates = run(tmp_path / "run", 4)
    assert rates == pytest.approx([1e-2, 0.75e-2, 0.5e-2, 0.25e-2])
    assert [line["updates"] for line in metrics(tmp_path / "run")] == [1.0, 0.0, 1.0, 1.0]
    # a resumed run knows which of its places were passed over
    assert run(tmp_path / "run", 5, resume=True)[-1] == pytest.approx(1e-2 / 5)


# ---------------------------------------------------------------------- KL early stop


STOPS = {"name": "dapo", "minibatches": 2, "epochs": 3, "dynamic_sampling": False}


def test_updates_stop_once_the_policy_is_too_far(model, tmp_path):
    free = lines(tmp_path / "free", model, judge=always_differ, **STOPS)
    assert all(line["updates"] == 6.0 for line in free)
    assert all("kl_early_stop" not in line for line in free)
    stopped = lines(tmp_path / "stopped", model, judge=always_differ, max_approx_kl=1e-6, **STOPS)
    # the first update of a round cannot have moved; the second finds the step of the first, and is the last
    assert all((line["updates"], line["kl_early_stop"]) == (2.0, 1.0) for line in stopped)
    never = lines(tmp_path / "never", model, judge=always_differ, max_approx_kl=1e6, **STOPS)
    assert all((line["updates"], line["kl_early_stop"]) == (6.0, 0.0) for line in never)


def test_a_stopped_round_resumes_as_it_would_have_gone_on(model, tmp_path, monkeypatch):
    def run(folder, *, every, resume=False):
        run_rl(
            folder, model, judge=always_differ, algorithm={"group_size": 4, "max_approx_kl": 1e-6, **STOPS},
            optimiser={"learning_rate": 3e-2, "schedule": "cosine"},
            run={"folder": str(folder), "rounds": 4, "completions_per_round": 32, "trackers": [],
                 "checkpoint_every": every, "resume": resume},
        )  # fmt: skip

    class Killed(BaseException):
        pass

    run(tmp_path / "whole", every=None)
    for dies_at in (3, 4, 5):  # between rounds, in the middle of one, and at the start of the next
        folder = tmp_path / f"run {dies_at}"
        seen, original = 0, Learner.update

        def dying(*args, original=original, **kwargs):
            nonlocal seen
            seen += 1
            if seen == dies_at:  # noqa: B023
                raise Killed
            return original(*args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(Learner, "update", dying)
            with pytest.raises(Killed):
                run(folder, every=1)
        run(folder, every=1, resume=True)
        assert metrics(folder) == metrics(tmp_path / "whole")
        one, two = weights(folder), weights(tmp_path / "whole")
        assert all(torch.equal(one[n], two[n]) for n in one)


# ---------------------------------------------------------------------- what else is reported


def test_ratios_by_hand():
    from ventaja.training.metrics import ratio_metrics

    batch = batch_of(uniform=1)
    ratio_ST = torch.tensor([[1.0, 2.0], [4.0, 1.0], [9.0, 9.0], [torch.nan, torch.nan]])
    found = ratio_metrics(batch, range(4), ratio_ST.log(), DAPO)
    # of the first two answers: 1, 2, 4, 1; the others have no advantage
    expected = {
        "ratio/min": 1.0,
        "ratio/p01": 1.0,
        "ratio/p99": 2 + 0.97 * 2,  # 2.97 of the way through four sorted values
        "ratio/max": 4.0,
        "ratio/effective_sample_size": 8**2 / (1 + 4 + 16 + 1) / 4,
    }
    assert found == pytest.approx(expected)
    assert ratio_metrics(batch, range(4), ratio_ST.log(), replace(DAPO, minibatches=1)) == {}
    one_per_answer = torch.tensor([[2.0, 2.0], [0.5, 0.5], [9.0, 9.0], [9.0, 9.0]]).log()
    gspo = replace(DAPO, ratio="sequence", clip_low=0.2, clip_high=0.2)
    found = ratio_metrics(batch, range(4), one_per_answer, gspo)
    assert found["ratio/effective_sample_size"] == pytest.approx(2.5**2 / 4.25 / 2)
    # both are held (Â = ½ above, Â = −½ below), of four answers
    assert found["clip_ratio/sequences"] == pytest.approx(0.5)
    flipped = replace(gspo, clip_high=1.5)
    assert ratio_metrics(batch, range(4), one_per_answer, flipped)["clip_ratio/sequences"] == pytest.approx(
        0.25
    )
    assert ratio_metrics(batch, [0, 1], one_per_answer, flipped)["clip_ratio/sequences"] == pytest.approx(0.5)


def test_credit_by_hand():
    from ventaja.training.metrics import credit_metrics

    batch = masked(batch_of(uniform=1), 3)  # rewards 1, 0, 1 and 1
    sampled = {"samples": 4.0, "completions/mean_length": 2.5}  # ten tokens
    found = credit_metrics(batch, DAPO, sampled=sampled)
    expected = {
        "return": 2 / 3,
        "advantages/mean": 0.0,
        "advantages/std": (4 * 0.25 / 6) ** 0.5,  # ½, ½, −½, −½, 0, 0
        "frac_tokens_trained": 0.4,
    }
    assert found == pytest.approx(expected)
    every = credit_metrics(batch, GRPO, sampled=sampled)
    assert every["frac_tokens_trained"] == pytest.approx(0.6)
    batch = masked(batch, slice(None))
    assert credit_metrics(batch, GRPO, sampled=sampled) == {}


def test_lengths_of_right_and_wrong_answers():
    from ventaja.training.metrics import rollout_metrics

    answers = [(5,), (5, 6, 7), (5, 6), (5, 6, 7, 8)]
    found = rollout_metrics([group((1,), answers, [1.0, 1.0, 0.0, 0.0])], spread=[True])
    assert found["completions/mean_length_right"] == 2.0
    assert found["completions/mean_length_wrong"] == 3.0
    # a score between 0 and 1 tells no right from wrong, unless the function says what full marks are
    graded = group((1,), answers, [1.0, 1.0, 0.5, 0.0])
    assert "completions/mean_length_right" not in rollout_metrics([graded], spread=[True])


def test_extremes_of_a_round_are_extremes():
    from ventaja.training.learner import UpdateReport
    from ventaja.training.metrics import update_metrics

    def report(loss, **means):
        return UpdateReport(loss=loss, grad_norm=1.0, learning_rate=0.1, tokens=1, means=means)

    idle = UpdateReport.empty(0.1)
    means = [{"ratio/max": 2.0, "ratio/min": 0.5, "x": 1.0}, {"ratio/max": 1.0, "ratio/min": 0.1, "x": 3.0}]
    found = update_metrics([report(1.0, **means[0]), report(2.0, **means[1]), idle])
    assert (found["ratio/max"], found["ratio/min"], found["x"]) == (2.0, 0.1, 2.0)
    assert (found["loss"], found["grad_norm"], found["updates"]) == (1.5, 1.0, 2.0)
    assert_close(torch.tensor(update_metrics([idle])["loss"]), torch.tensor(0.0))
