"""What users get wrong: an error that says what to do next, and nothing that was good is lost."""

from __future__ import annotations

import errno
import json
import math
import re
import resource
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError
from tiny_task import (
    assert_same_run,
    metrics,
    model_folder,
    names,
    quiet,
    rl_values,
    run_rl,
    run_sft,
    share_of_a,
)

from ventaja import yaml
from ventaja.cli.fields import settings_of
from ventaja.environments import Reward
from ventaja.errors import ConfigError, DataError, ModelError, RewardError, RunError, VentajaError
from ventaja.models import Policy
from ventaja.records import Prompt
from ventaja.rollouts import LocalEngine
from ventaja.training import EvaluationConfig, RlConfig, SftConfig, checkpoint, parse, train_rl
from ventaja.training.config import resolved
from ventaja.training.joints import make_environment


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------- checkpoints that cannot be written


def no_space_in_python(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def no_space_in_safetensors(*args, **kwargs):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


FAILURES = {
    "the weights": (Policy, "save", no_space_in_safetensors),
    "the optimiser": (checkpoint, "save_file", no_space_in_safetensors),
    "the tables": (checkpoint, "save_file", no_space_in_python),
    "the rollouts": (checkpoint, "write_groups", no_space_in_python),
    "the state": (checkpoint, "json", SimpleNamespace(loads=json.loads, dumps=no_space_in_python)),
}


@pytest.mark.parametrize("what", FAILURES)
def test_no_space_for_a_checkpoint(what, model, tmp_path, monkeypatch):
    algorithm = {"name": "dapo", "group_size": 4}  # updates in the middle of a round: groups are kept as well
    run = {
        "folder": str(tmp_path / "run"),
        "completions_per_round": 16,
        "trackers": [],
        "checkpoint_every": 1,
    }
    settings = {"algorithm": algorithm}
    run_rl(tmp_path / "whole", model, **settings, run={**run, "folder": str(tmp_path / "whole"), "rounds": 2})
    run_rl(tmp_path / "run", model, **settings, run={**run, "rounds": 1})
    before = contents(tmp_path / "run" / "checkpoints")
    assert before
    owner, name, failure = FAILURES[what]
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, failure)
        with pytest.raises(RunError, match=r"could not be written: .*No space left on device") as error:
            run_rl(tmp_path / "run", model, **settings, run={**run, "rounds": 2, "resume": True})
    assert "The last good one is untouched" in str(error.value)
    assert contents(tmp_path / "run" / "checkpoints") == before
    run_rl(tmp_path / "run", model, **settings, run={**run, "rounds": 2, "resume": True})
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_file_that_the_system_really_refuses(model, tmp_path):
    """The kernel, rather than a patched function: no file may grow above 20 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    run_rl(tmp_path / "run", model, run={"folder": str(tmp_path / "run"), "rounds": 1})
    before = contents(tmp_path / "run" / "checkpoints")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(RunError, match="could not be written"):
            run_rl(
                tmp_path / "run", model, run={"folder": str(tmp_path / "run"), "rounds": 2, "resume": True}
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(tmp_path / "run" / "checkpoints") == before


# ---------------------------------------------------------------------- folders and models


def test_a_folder_that_holds_another_run(model, tmp_path):
    run_rl(tmp_path / "run", model, run={"folder": str(tmp_path / "run"), "rounds": 1})
    before = contents(tmp_path / "run")
    with pytest.raises(RunError, match="holds a run already") as error:
        run_rl(tmp_path / "run", model)
    assert "--run.resume true" in str(error.value)
    assert contents(tmp_path / "run") == before


def test_a_mistake_leaves_no_folder_behind(model, tmp_path):
    """Otherwise the mended command would find its folder taken."""
    with pytest.raises(ModelError, match=r"model '.*nowhere' does not exist"):
        run_rl(tmp_path / "run", tmp_path / "nowhere")
    with pytest.raises(DataError):
        run_rl(tmp_path / "run", model, data={"max_prompt_tokens": 1})
    with pytest.raises(DataError):
        run_rl(tmp_path / "run", model_folder(tmp_path / "small", context=5))
    assert not (tmp_path / "run").exists()
    run_rl(tmp_path / "run", model, run={"folder": str(tmp_path / "run"), "rounds": 1})


def test_a_broken_state(model, tmp_path):
    run_rl(tmp_path / "run", model, run={"folder": str(tmp_path / "run"), "rounds": 1})
    training = next((tmp_path / "run" / "checkpoints").iterdir()) / "training"
    whole = (training / "state.json").read_text()

    def resume():
        run_rl(tmp_path / "run", model, run={"folder": str(tmp_path / "run"), "rounds": 2, "resume": True})

    for broken in ("{", "[]", json.dumps({**json.loads(whole), "format": 99})):
        (training / "state.json").write_text(broken)
        before = contents(tmp_path / "run")
        with pytest.raises(RunError, match="training state"):
            resume()
        assert contents(tmp_path / "run") == before
    (training / "state.json").write_text(whole)
    for name in ("optimiser", "tables"):
        tensors = (training / f"{name}.safetensors").read_bytes()
        (training / f"{name}.safetensors").write_bytes(tensors[:100])
        with pytest.raises(RunError, match="no training state to resume from"):
            resume()
        (training / f"{name}.safetensors").write_bytes(tensors)
    shutil.move(training / "state.json", tmp_path / "elsewhere")
    with pytest.raises(RunError, match=r"give it as model.name"):
        resume()
    shutil.move(tmp_path / "elsewhere", training / "state.json")
    resume()
    assert len(metrics(tmp_path / "run")) == 2


def test_a_folder_whose_config_is_broken(model, tmp_path):
    run_rl(tmp_path / "run", model, run={"folder": str(tmp_path / "run"), "rounds": 1})
    (tmp_path / "run" / "config.yaml").write_text("model: {name: x}\nalgoritm: grpo\n")
    with pytest.raises(
        RunError, match=r"config.yaml: cannot be resumed by this version(.|\n)*Did you mean 'algorithm'"
    ):
        run_rl(tmp_path / "run", model, run={"folder": str(tmp_path / "run"), "resume": True})


def test_a_run_of_another_command(model, tmp_path):
    rl, sft = tmp_path / "rl", tmp_path / "sft run"
    run_rl(rl, model, run={"folder": str(rl), "rounds": 1})
    run_sft(sft, model, run={"folder": str(sft), "updates": 1})
    before = contents(tmp_path)
    with pytest.raises(
        RunError, match=r"this is a run of `ventaja rl`, and `ventaja sft` cannot go on"
    ) as error:
        run_sft(rl, model, run={"folder": str(rl), "resume": True})
    assert f"Go on with ventaja rl {rl}/config.yaml --run.resume true or begin" in str(error.value)
    assert f"--model {rl} and another --run.folder" in str(error.value)
    with pytest.raises(
        RunError, match=r"this is a run of `ventaja sft`, and `ventaja rl` cannot go on"
    ) as error:
        run_rl(sft, model, run={"folder": str(sft), "resume": True})
    assert f"ventaja sft '{sft}/config.yaml' --run.resume true" in str(error.value)
    assert contents(tmp_path) == before
    config = (rl / "config.yaml").read_text()
    (rl / "config.yaml").write_text(config.replace("# command: ", "# command: ventaja.rl"))
    with pytest.raises(
        RunError, match=r"Go on with ventaja\.rl\(…, folder='.*', run=\{'resume': True\}\) or"
    ):
        run_sft(rl, model, run={"folder": str(rl), "resume": True})


# ---------------------------------------------------------------------- prompts


def train_on(given, folder, model, **groups):
    config = parse(RlConfig, rl_values(folder, model, **groups))
    environment = make_environment(config, prompts=given, rewards=[Reward(share_of_a, "r")])
    return train_rl(config, environment=environment, console=quiet())


def test_prompts_that_cannot_be_asked(model, tmp_path):
    small = model_folder(tmp_path / "small", context=8)
    long = Prompt(id="train.jsonl:3", content="eight ab")
    with pytest.raises(DataError, match=r"train.jsonl:3: the prompt has 8 tokens, but .* takes 8"):
        train_on([long], tmp_path / "run", small)
    with pytest.raises(DataError, match=r"train.jsonl:4: the prompt has no tokens"):
        train_on([Prompt(id="train.jsonl:4", content="")], tmp_path / "run", model)
    with pytest.raises(DataError, match="no prompts"):
        train_on([], tmp_path / "run", model)
    with pytest.raises(DataError, match=r"no prompt is left: each of them \(1\) is longer"):
        train_on([long], tmp_path / "run", model, data={"max_prompt_tokens": 4})
    fits = Prompt(id="train.jsonl:5", content="seven a")
    train_on([fits], tmp_path / "run", small, run={"folder": str(tmp_path / "run"), "rounds": 1})
    assert metrics(tmp_path / "run")[0]["completions/max_length"] == 1  # there is room for one token


# ---------------------------------------------------------------------- rewards


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (lambda completions: [1.0], "16"),
        (lambda completions: [math.nan] * len(completions), "nan"),
        (lambda completions: ["good"] * len(completions), "good"),
    ],
    ids=["too few", "not a number", "text"],
)
def test_rewards_of_the_wrong_form(judge, message, model, tmp_path):
    with pytest.raises(RewardError, match=message):
        run_rl(tmp_path / "run", model, judge=judge)
    assert (
        names(tmp_path / "run" / "checkpoints") == []
    )  # nothing was learnt yet, so there is nothing to keep


def test_an_error_in_a_late_round_loses_nothing(model, tmp_path):
    calls = []

    def fails_in_round_3(completions):
        calls.append(len(completions))
        return [float("nan")] * len(completions) if len(calls) == 3 else [float(len(t)) for t in completions]

    def right(completions):
        return [float(len(text)) for text in completions]

    run = {"rounds": 4, "checkpoint_every": None, "trackers": [], "completions_per_round": 16}
    folders = {name: str(tmp_path / name) for name in ("broken", "whole")}
    with pytest.raises(RewardError, match="nan"):
        run_rl(tmp_path / "broken", model, judge=fails_in_round_3, run={**run, "folder": folders["broken"]})
    assert names(tmp_path / "broken" / "checkpoints") == ["000002"]
    run_rl(tmp_path / "broken", model, judge=right, run={**run, "folder": folders["broken"], "resume": True})
    run_rl(tmp_path / "whole", model, judge=right, run={**run, "folder": folders["whole"]})
    rewards = [[line["reward"] for line in metrics(tmp_path / name)] for name in folders]
    assert rewards[0] == rewards[1]


def test_memory_that_runs_out_while_sampling_loses_nothing(model, tmp_path, monkeypatch):
    original, calls = LocalEngine.sample, []

    def runs_out(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(LocalEngine, "sample", runs_out)
        with pytest.raises(RunError, match=r"memory ran out: .*99(.|\n)*max_batch"):
            run_rl(tmp_path / "run", model)
    assert names(tmp_path / "run" / "checkpoints") == ["000002"]
    run_rl(tmp_path / "run", model, run={**rl_values(tmp_path / "run", model)["run"], "resume": True})
    assert len(metrics(tmp_path / "run")) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's data")
def test_a_limit_of_memory_below_what_is_in_use_leaves_no_folder(model, tmp_path):
    run = {**rl_values(tmp_path / "run", model)["run"], "max_memory": 0.001}
    with pytest.raises(ConfigError, match=r"run\.max_memory is 0\.001 GiB, but"):
        run_rl(tmp_path / "run", model, run=run)
    assert not (tmp_path / "run").exists()


def test_checkpointing_needs_layers(model, tmp_path, monkeypatch):
    monkeypatch.setattr(Policy, "can_recompute", False)
    with pytest.raises(ConfigError, match=r"optimiser\.gradient_checkpointing: .* what its layers are"):
        run_rl(tmp_path / "run", model, optimiser={"gradient_checkpointing": True})
    assert not (tmp_path / "run").exists()


def test_too_many_broken_judgements_stop_the_run(model, tmp_path):
    calls = []

    def sometimes(completions):
        calls.append(len(completions))
        if len(calls) > 1:
            raise ZeroDivisionError("of my own making")
        return [float(len(text)) for text in completions]

    run = {
        "folder": str(tmp_path / "run"),
        "checkpoint_every": 1,
        "trackers": [],
        "completions_per_round": 16,
    }
    with pytest.raises(RewardError, match="of my own making"):
        run_rl(tmp_path / "run", model, judge=sometimes, run=run)
    assert names(tmp_path / "run" / "checkpoints") == ["000001"]  # round 1 is safe
    run_rl(tmp_path / "run", model, run={**run, "resume": True})  # with a mended function
    assert len(metrics(tmp_path / "run")) == 3


def test_a_few_broken_judgements_take_no_part(model, tmp_path):
    def picky(completions):
        if any(text[:1] in "bcdefgh" for text in completions):
            raise ValueError("early in the alphabet")
        return [float(len(text)) for text in completions]

    run = run_rl(tmp_path / "run", model, judge=picky, reward={"max_broken_fraction": 1.0})
    assert 0 < metrics(tmp_path / "run")[0]["broken_fraction"] < 1
    table = run.rollout_table(1).to_pylist()
    for row in table:
        assert (row["advantage"] is None) == (row["faults"] != "[]") == (row["reward"] is None)
    kept = [row["reward"] for row in table if row["reward"] is not None]
    assert metrics(tmp_path / "run")[0]["reward"] == pytest.approx(sum(kept) / len(kept))


@pytest.mark.parametrize("name", ["grpo", "ppo", "reinforce"])
@pytest.mark.parametrize("truncated", ["keep", "mask"])
def test_a_round_that_nobody_judges_teaches_nothing(name, truncated, model, tmp_path):
    run = {"folder": str(tmp_path / "run"), "rounds": 1, "completions_per_round": 16, "trackers": []}
    run_rl(
        tmp_path / "run", model,
        judge=lambda completions: [None] * len(completions),
        algorithm={"name": name, "group_size": 4}, reward={"truncated": truncated}, run=run,
    )  # fmt: skip
    (line,) = metrics(tmp_path / "run")
    assert "reward" not in line
    assert line["grad_norm"] == 0.0


# ---------------------------------------------------------------------- run files


def refused(kind=RlConfig, **groups):
    values = {"model": "m", "data": "d.jsonl", "run": {"folder": "f"}}
    for name, group in groups.items():
        values[name] = {**values[name], **group} if name == "run" else group
    with pytest.raises(ConfigError) as error:
        parse(kind, values)
    return str(error.value)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"run": {"completions_per_round": 12}}, "must be a multiple of algorithm.group_size (8)"),
        ({"algorithm": "dapo", "run": {"completions_per_round": 16}}, "is more than a round has prompts (2): raise"),
        ({"algorithm": "drgrpo"}, "algorithm.name: no algorithm 'drgrpo'. Did you mean 'dr_grpo'?"),
        ({"algorithm": {"name": "grpo", "clip_hihg": 0.3}}, "Did you mean 'algorithm.clip_high'?"),
        ({"algorithm": {"name": "grpo", "group_size": 1}}, "algorithm"),
        ({"optimiser": {"lr": 0.1}}, "optimiser.lr: no such setting."),
        ({"optimiser": {"learning_rat": 0.1}}, "Did you mean 'optimiser.learning_rate'?"),
        ({"optimizer": {}}, "optimizer: no such setting. Did you mean 'optimiser'?"),
        ({"run": {"learning_rate": 0.1}}, "Did you mean 'optimiser.learning_rate'?"),
        ({"run": {"rounds": "many"}}, "run.rounds: must be a whole number, not 'many'."),
        ({"run": {"rounds": 0}}, "run.rounds: must be at least 1, not 0."),
        ({"run": {"seed": -1}}, "run.seed: must be at least 0, not -1."),
        ({"run": {"seed": 2**64}}, f"run.seed: must be below 2**64, not {2**64}."),
        ({"sampling": {"temperature": 0.0}}, "sampling.temperature must be above 0"),
        ({"sampling": {"top_p": 2.0}}, "sampling.top_p: must be at most 1, not 2.0."),
        ({"reward": {"truncated": "penalise"}}, "truncation_penalty go together"),
        ({"reward": {"overlong_penalty": 0.5}}, "overlong_penalty would have no effect"),
        ({"reward": {"overlong_buffer": 256}}, "must be less than sampling.max_tokens (256)"),
        ({"reward": {"truncated": "mas"}}, "reward.truncated: must be keep, mask or penalise, not 'mas'. Did you mean 'mask'?"),
        ({"reward": {"timeout": None}}, "reward.timeout: must be a number, not null."),
        ({"sampling": 3}, "sampling: must be a mapping of settings, such as {max_tokens: …}, not 3."),
        ({"model": 3}, "model: must be a mapping of settings, such as {name: …}, not 3."),
        ({"model": {"name": 3}}, "model.name: must be text, not 3. In quotes it is text: '3'."),
        ({"model": {"name": "m", "lora": {"target_modules": 3}}},
         "model.lora.target_modules: must be text, or a list of texts, not 3."),
        ({"model": {"name": "m", "trust_remote_code": "maybe"}}, "trust_remote_code: must be true or false, not 'maybe'."),
        ({"optimiser": {"betas": [0.9]}}, "optimiser.betas: must have more items."),
        ({"optimiser": {"betas": [0.9, 0.9, 0.9]}}, "optimiser.betas: must have 2 items, and has 3."),
        ({"optimiser": {"betas": 0.9}}, "optimiser.betas: must be a list, such as [a, b], not 0.9."),
        ({"data": {"source": [{"weight": 1}]}}, "data.source.0.source: must be set."),
        ({"data": {"source": [3]}}, "data.source.0: must be a mapping of settings, such as {source: …}, not 3."),
        ({"data": {"source": "d", "options": 3}}, "data.options: must be a mapping, such as {a: 1}, not 3."),
        ({"data": {"source": "d", "options": {1: 2}}}, "data.options: the names in it must be text, not 1."),
        ({"run": {"folder": 3}}, "run.folder: must be a path, as text, not 3."),
        ({"eval": {"size": 3}}, "eval.size would have no effect: set eval.every"),
        ({"data": {"source": "d.jsonl", "seed": 4}}, "seed would have no effect"),
        ({"data": {}}, "data.source: must be set"),
    ],
)  # fmt: skip
def test_a_run_file_that_cannot_be_meant(groups, message):
    assert message in refused(**groups)


FLOATS = {
    (kind, setting.name)
    for kind in (RlConfig, SftConfig, EvaluationConfig)
    for setting in settings_of(kind)
    if setting.type == "NUMBER"
}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_setting_is_nan_or_infinite(value):
    assert len(FLOATS) > 20
    for kind, name in sorted(FLOATS, key=str):
        group, *rest = name.split(".")
        nested = value
        for part in reversed(rest):
            nested = {part: nested}
        message = refused(kind, **{group: nested})
        assert f"{name}: must be a finite number, not" in message
    weighted = {"functions": [{"function": "f", "weight": value}]}
    assert "weight: must be a finite number, not" in refused(reward=weighted)
    assert "must be a finite number, not" in refused(optimiser={"betas": [0.9, value]})


def test_measuring_refuses_what_acts_on_training():
    for reward in ({"truncated": "mask"}, {"overlong_buffer": 4}):
        values = {"model": "m", "data": "d.jsonl", "reward": reward}
        with pytest.raises(ConfigError, match=f"reward.{next(iter(reward))} would have no effect"):
            parse(EvaluationConfig, values)


def test_supervised_run_files():
    assert "run.epochs would have no effect" in refused(SftConfig, run={"epochs": 3, "updates": 5})
    assert "algorithm: no such setting" in refused(SftConfig, algorithm="grpo")


def test_every_problem_is_named_at_once():
    message = refused(optimiser={"lr": 0.1}, run={"rounds": "many"}, sampling={"max_tokens": 0})
    assert all(name in message for name in ("optimiser.lr", "run.rounds", "sampling.max_tokens"))


def test_a_plain_file_needs_a_reward(model, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"prompt": "x"}\n')
    config = parse(RlConfig, rl_values(tmp_path / "run", model, data={"source": str(tmp_path / "d.jsonl")}))
    with pytest.raises(ConfigError, match=r"bring no reward of their own. Name one") as error:
        train_rl(config, console=quiet())
    assert "exact_match" in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (RlConfig, {"optimiser": {"max_grad_norm": None}, "algorithm": {"name": "grpo", "kl": "none"}}),
        (RlConfig, {"reward": ["exact_match"], "model": {"name": "m", "lora": {"rank": 3}}}),
        (RlConfig, {"eval": {"every": 2, "source": "e.jsonl"}, "sampling": {"stop": ["\n"]}}),
        (SftConfig, {"run": {"folder": "f", "updates": 3}}),
        (EvaluationConfig, {"run": None}),
    ],
)
def test_a_resolved_config_is_a_run_file(kind, values):
    """config.yaml says how to do it again."""
    values = {"model": "m", "data": "d.jsonl", "run": {"folder": "f"}, **values}
    config = parse(kind, {name: group for name, group in values.items() if group is not None})
    written = yaml.read(yaml.written(resolved(config))).value
    assert parse(kind, written) == config


def test_the_largest_seed_is_one(model, tmp_path):
    run = {"folder": str(tmp_path / "run"), "rounds": 1, "completions_per_round": 16, "trackers": []}
    run_rl(tmp_path / "run", model, run={**run, "seed": 2**64 - 1})
    assert len(metrics(tmp_path / "run")) == 1


def test_two_rewards_of_one_kind_have_names(model, tmp_path):
    def values(*functions):
        data = tmp_path / "d.jsonl"
        data.write_text('{"prompt": "say a"}\n')
        groups = {"data": {"source": str(data)}, "reward": {"functions": list(functions)}}
        return parse(RlConfig, rl_values(tmp_path / "run", model, **groups))

    a, b = ({"function": "regex", "options": {"pattern": letter}} for letter in "ab")
    with pytest.raises(
        ConfigError, match=r"two rewards are named 'regex'.*\{function: regex, name: another\}"
    ):
        train_rl(values(a, b), console=quiet())
    run = train_rl(values({**a, "name": "has_a"}, {**b, "name": "has_b"}), console=quiet())
    assert {"rewards/has_a/mean", "rewards/has_b/mean"} <= run.metrics[0].keys()
    assert [f["name"] for f in run.config["reward"]["functions"]] == ["has_a", "has_b"]


def test_errors_are_ours():
    assert issubclass(RunError, VentajaError)
    with pytest.raises(VentajaError):
        parse(RlConfig, {"model": "m"})


def test_sft_has_the_same_manners(model, tmp_path, monkeypatch):
    run_sft(tmp_path / "run", model)
    with pytest.raises(RunError, match="holds a run already"):
        run_sft(tmp_path / "run", model)
    run = {"folder": str(tmp_path / "run"), "updates": 8, "batch_size": 4, "trackers": [], "resume": True}
    with pytest.raises(RunError, match=r"optimiser.learning_rate \(was 0.01, is 0.5\)"):
        run_sft(tmp_path / "run", model, run=run, optimiser={"learning_rate": 0.5})
    before = contents(tmp_path / "run" / "checkpoints")
    monkeypatch.setattr(checkpoint, "save_file", no_space_in_safetensors)
    with pytest.raises(RunError, match="could not be written"):
        run_sft(tmp_path / "run", model, run=run)
    assert contents(tmp_path / "run" / "checkpoints") == before


WRONG = (
    "x", "", -1, -1.5, 0, 1.5, 10**30, True, None, [], [1], ["a"], [1, 2, 3], {}, {"a": 1}, {1: 2}, math.nan, "nan",
    "1" * 5000, object(), b"x", {"a"}, [None], [[]], [{}],
)  # fmt: skip


@pytest.mark.parametrize("kind", [RlConfig, SftConfig, EvaluationConfig])
def test_every_problem_has_a_sentence_of_ours(kind):
    """Whatever is written for whichever setting: no words of pydantic's."""
    groups = [name for name, field in kind.model_fields.items() if field.annotation is not None]
    for name in [*groups, *(setting.name for setting in settings_of(kind))]:
        for value in WRONG:
            values = {"model": {"name": "m"}, "data": {"source": "d"}, "run": {"folder": "f"}}
            place = {group: values[group] for group in values if group in kind.model_fields}
            values = place
            *parents, last = name.split(".")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
            try:
                parse(kind, values)
            except ConfigError as error:
                text = str(error)
                assert not re.search(r"Input|valid |, got |Tuple|String |Keys|\[key\]|tuple\[|Field", text), (
                    text
                )


@pytest.mark.parametrize("name", ["model.name", "data.source", "run.folder"])
def test_nothing_is_named_by_an_empty_text(name):
    """It would mean the current folder."""
    group, setting = name.split(".")
    assert refused(**{group: {setting: ""}}) == f"{name}: must not be empty."


def test_measured_answers_go_into_a_file_that_is_called_parquet():
    def written_to(output):
        return parse(EvaluationConfig, {"model": "m", "data": "d.jsonl", "output": output}).output

    assert [written_to(name) for name in ("a/b.parquet", "a.b/c")] == [Path("a/b.parquet"), Path("a.b/c")]
    for name in ("a/b.jsonl", "a/b.parquet.gz"):
        with pytest.raises(
            ConfigError, match=r"^output: answers are written as Parquet, .* Call it a/b\.parquet"
        ):
            written_to(name)
    with pytest.raises(ConfigError, match=r"^output: must not be empty\.$"):
        written_to("")
