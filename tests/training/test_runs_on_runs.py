"""Runs that began on another run: what they rest upon outlives that run, and their reference is where they began."""

from __future__ import annotations

import pytest
from tiny_task import metrics, model_folder, names, run_rl, run_sft

from ventaja.errors import RewardError, RunError

pytest.importorskip("peft")

LORA = {"rank": 2, "alpha": 32.0}


def test_adapters_outlive_the_checkpoint_that_they_rest_upon(model, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run_sft(first, model, run={"updates": 2})
    run_rl(second, first, model={"lora": LORA}, run={"rounds": 1})
    run_sft(first, model, run={"updates": 3, "resume": True})
    assert names(first / "checkpoints") == ["000003"]  # what the adapters began on is gone there
    run_rl(second, first, model={"lora": LORA}, run={"rounds": 2, "resume": True})
    assert len(metrics(second)) == 2
    run_rl(tmp_path / "third", second, run={"rounds": 1})
    assert len(metrics(tmp_path / "third")) == 1


@pytest.mark.parametrize("start", ["new adapters", "trained adapters", "all weights"])
def test_in_bfloat16_a_run_begins_at_its_reference(start, tmp_path):
    name, lora = model_folder(tmp_path / "model"), {"lora": LORA} if start == "new adapters" else {}
    if start == "trained adapters":
        run_sft(tmp_path / "sft", name, model={"lora": LORA})
        name = tmp_path / "sft"
    model = {"precision": "bfloat16", **lora}
    algorithm = {"kl": "loss", "kl_coef": 0.1}
    run_rl(tmp_path / "run", name, model=model, algorithm=algorithm, run={"rounds": 2})
    first, second = metrics(tmp_path / "run")
    assert first["kl"] == 0
    assert second["kl"] > 0


@pytest.mark.parametrize("start", ["all weights", "trained adapters"])
def test_a_reference_outlives_the_checkpoint_that_it_was(start, model, tmp_path):
    lora = {"lora": LORA} if start == "trained adapters" else {}
    first, second, whole = tmp_path / "first", tmp_path / "second", tmp_path / "whole"
    algorithm = {"kl": "loss", "kl_coef": 0.1}
    run_sft(first, model, model=lora, run={"updates": 2})
    run_rl(whole, first, algorithm=algorithm, run={"rounds": 2})
    run_rl(second, first, algorithm=algorithm, run={"rounds": 1})
    assert not (second / "reference" / "training").exists()
    run_sft(first, model, model=lora, run={"updates": 3, "resume": True})
    assert names(first / "checkpoints") == ["000003"]  # what the second run began on is gone there
    second.rename(tmp_path / "elsewhere")
    second = tmp_path / "elsewhere"
    run_rl(second, first, algorithm=algorithm, run={"rounds": 2, "resume": True})
    assert metrics(second) == metrics(whole)
    assert metrics(second)[1]["kl"] > 0


@pytest.mark.parametrize("settings", [{"algorithm": {"kl": "none"}}, {"model": {"lora": LORA}}])
def test_what_no_kl_is_measured_from_is_not_kept(settings, model, tmp_path):
    run_sft(tmp_path / "first", model, run={"updates": 1})
    run_rl(tmp_path / "second", tmp_path / "first", run={"rounds": 1}, **settings)
    assert not (tmp_path / "second" / "reference").exists()


def test_a_start_anew_forgets_what_an_earlier_one_kept(model, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    run_sft(first, model, run={"updates": 1})

    def broken(completions):
        raise ValueError

    with pytest.raises(RewardError):
        run_rl(second, first, judge=broken)
    assert (second / "reference").is_dir()
    run_rl(second, model, run={"rounds": 1})  # which belongs to no run
    assert not (second / "reference").exists()


def test_a_reference_that_is_gone_is_an_error(tmp_path):
    start, run = model_folder(tmp_path / "model"), tmp_path / "run"
    run_rl(run, start, run={"rounds": 1})
    start.rename(tmp_path / "moved")
    with pytest.raises(
        RunError, match=r"run: the model that the run began with, .*model, is gone, and the run meas"
    ):
        run_rl(run, start, run={"rounds": 2, "resume": True})
    free = tmp_path / "free"
    (tmp_path / "moved").rename(start)
    run_rl(free, start, algorithm={"kl": "none"}, run={"rounds": 1})
    start.rename(tmp_path / "moved")
    run_rl(free, start, algorithm={"kl": "none"}, run={"rounds": 2, "resume": True})
    assert len(metrics(free)) == 2
