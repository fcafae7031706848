"""Runs of adapters: what they rest upon outlives the run that made it, and their reference is where they began."""

from __future__ import annotations

import pytest
from tiny_task import metrics, model_folder, names, run_rl, run_sft

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
