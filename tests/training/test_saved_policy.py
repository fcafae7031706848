"""What is saved is what was sampled and measured, and what is lost in rounding is said."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_tiny_model
from tiny_task import assert_same_run, metrics, quiet, rl_values, run_rl, run_sft
from transformers import AutoModelForCausalLM

from ventaja.environments import Reward, SingleTurn
from ventaja.records import Prompt
from ventaja.training import RlConfig, parse, train_rl
from ventaja.training.rounding import Rounding

BFLOAT16 = {"model": {"precision": "bfloat16"}, "optimiser": {"learning_rate": 3e-4}}


def last(run: Path) -> Path:
    return max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))


@pytest.mark.parametrize("run", [run_rl, run_sft])
def test_the_saved_folder_holds_the_rounded_weights_and_training_their_masters(run, model, tmp_path):
    run(tmp_path / "run", model, **BFLOAT16)
    checkpoint = last(tmp_path / "run")
    saved = dict(AutoModelForCausalLM.from_pretrained(checkpoint).named_parameters())  # no arguments
    masters = load_file(checkpoint / "training" / "masters.safetensors")
    assert masters.keys() == saved.keys()
    for name, master in masters.items():
        assert master.dtype == torch.float32
        assert saved[name].dtype == torch.bfloat16
        assert torch.equal(master.bfloat16(), saved[name]), name
    # the steps are so small that the masters have moved where their rounding has not
    assert any((master.bfloat16().float() != master).any() for master in masters.values())


def test_a_float32_run_keeps_no_second_copy(model, tmp_path):
    run_rl(tmp_path / "run", model)
    checkpoint = last(tmp_path / "run")
    assert json.loads((checkpoint / "config.json").read_text())["dtype"] == "float32"
    assert not (checkpoint / "training" / "masters.safetensors").exists()
    assert "rounding/swallowed" not in metrics(tmp_path / "run")[-1]


def test_a_checkpoint_of_the_first_format_is_resumed(model, tmp_path):
    whole, half = tmp_path / "whole", tmp_path / "half"
    run_rl(whole, model, **BFLOAT16, run={"rounds": 4})
    run_rl(half, model, **BFLOAT16, run={"rounds": 2})
    # As it was written then: the masters were the folder's weights, and nobody remembered the start.
    checkpoint = last(half)
    training = checkpoint / "training"
    masters = load_file(training / "masters.safetensors")
    old = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    old.load_state_dict(masters, strict=False)
    old.save_pretrained(checkpoint)
    (training / "masters.safetensors").unlink()
    optimiser = load_file(training / "optimiser.safetensors")
    save_file(
        {k: v for k, v in optimiser.items() if not k.startswith("start/")}, training / "optimiser.safetensors"
    )
    state = json.loads((training / "state.json").read_text())
    (training / "state.json").write_text(json.dumps(state | {"format": 1}))

    run_rl(half, model, **BFLOAT16, run={"rounds": 4, "resume": True})
    weights = [load_file(last(run) / "training" / "masters.safetensors") for run in (whole, half)]
    for name, master in weights[0].items():
        assert torch.equal(master, weights[1][name]), name


def test_the_start_is_remembered_over_a_resume(model, tmp_path):
    run_rl(tmp_path / "whole", model, **BFLOAT16, run={"rounds": 3})
    run_rl(tmp_path / "parts", model, **BFLOAT16, run={"rounds": 1})
    run_rl(tmp_path / "parts", model, **BFLOAT16, run={"rounds": 3, "resume": True})
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_what_rounding_swallows_by_hand():
    # bfloat16 has steps of 2⁻⁷ from 1 to 2. Of steps of 3·2⁻⁹ and 1·2⁻⁹ from 1, the first rounds to 2⁻⁷, the second to 0:
    # the masters have gone √(9 + 1)·2⁻⁹, the rounded weights 4·2⁻⁹.
    start = torch.ones(2)
    master = start + torch.tensor([3.0, 1.0]) * 2**-9
    rounding = Rounding({"w": (start.bfloat16(), start)})
    assert rounding.swallowed({"w": (master.bfloat16(), master)}) == pytest.approx(1 - 4 / math.sqrt(10))
    # half of the way of one, and none of the other: 1 − 0 / … = 1
    master = start + torch.tensor([1.0, 1.0]) * 2**-9
    assert rounding.swallowed({"w": (master.bfloat16(), master)}) == 1
    assert math.isnan(rounding.swallowed({"w": (start.bfloat16(), start)}))


def test_a_large_weight_is_sampled_and_stands_for_its_size():
    # of 2¹⁸ numbers every fourth is looked at; all of them moved alike, so the share is exact
    start = torch.ones(2**18)
    master = start + 3 * 2**-9
    rounding = Rounding({"w": (start.bfloat16(), start), "b": (torch.ones(1).bfloat16(), torch.ones(1))})
    assert len(rounding.start["w"]) == 2**16
    small = torch.full((1,), 1 + 2**-9)
    swallowed = rounding.swallowed({"w": (master.bfloat16(), master), "b": (small.bfloat16(), small)})
    # rounded: 4·2⁹ ‖1‖ of 2¹⁸ numbers, √(2¹⁸)·4 = 2048; masters √(2¹⁸·9 + 1) = 1536.0003
    assert swallowed == pytest.approx(1 - 2048 / math.sqrt(2**18 * 9 + 1), rel=1e-6)


@pytest.mark.parametrize(
    "algorithm",
    [
        {"name": "gspo", "epochs": 2, "minibatches": 2, "group_size": 4},
        {"name": "ppo", "epochs": 2, "minibatches": 2},  # its KL is in the reward
        {"name": "rloo"},  # so is its
        {"name": "gspo", "epochs": 3, "minibatches": 1, "group_size": 4},
    ],
    ids=lambda a: f"{a['name']}-{a.get('epochs', 1)}",
)
@pytest.mark.parametrize("max_tokens", [300, 4096])
def test_the_ratio_of_an_unchanged_policy_is_1_in_every_epoch(algorithm, max_tokens, tmp_path):
    """In bfloat16 a log-prob depends on what else is in its row, by more than GSPO's clipping range."""
    values = rl_values(
        tmp_path / "run",
        save_tiny_model(tmp_path / "model"),
        model={"precision": "bfloat16"},
        optimiser={"learning_rate": 1e-30, "max_tokens": max_tokens},
        sampling={"max_tokens": 40},
        run={"rounds": 1, "completions_per_round": 32},
    ) | {"algorithm": algorithm}
    # of all lengths, so that rows of other prompts have other shapes
    prompts = [Prompt(id=f"p:{i}", content="say it " * (1 + i * i % 13) + "!" * (i % 2)) for i in range(32)]
    # every second group is uniform: what is left out of the updates is measured, and has not moved either
    judge = lambda prompts, completions, **_: [  # noqa: E731
        len(c) * (len(p) % 2) for p, c in zip(prompts, completions, strict=True)
    ]
    environment = SingleTurn(prompts=prompts, rewards=[Reward(judge, "length")])
    train_rl(parse(RlConfig, values), environment=environment, console=quiet())
    [line] = metrics(tmp_path / "run")
    assert line["approx_kl"] == 0
    assert line.get("clip_ratio/low", 0) == line.get("clip_ratio/high", 0) == 0
