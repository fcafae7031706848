"""A run that was stopped and resumed equals one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
import tiny_task
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny_task import assert_same_run, metrics, names, run_rl, run_sft

from ventaja.errors import RunError
from ventaja.models import load_policy
from ventaja.rollouts import LocalEngine
from ventaja.tracking import Run, RunFolder
from ventaja.training import metrics as metrics_module
from ventaja.training import session, sft
from ventaja.training import update as update_module
from ventaja.training.config import OptimiserConfig
from ventaja.training.learner import Learner
from ventaja.training.optimiser import Optimiser

ROUNDS = 5  # four prompts a round of eight: the second pass begins with round 3

VARIANTS = {
    # the running mean lives in state.json
    "reinforce": {"algorithm": {"name": "reinforce", "group_size": 4}},
    # β too, and a round's samples, advantages and reports when it is left in the middle
    "ppo": {
        "algorithm": {"name": "ppo", "group_size": 4, "kl_target": 0.01},
        "reward": {"truncated": "penalise", "truncation_penalty": 0.5},
    },
    # the policy stays for two rounds: there the critic alone has made steps
    "warm-up": {
        "algorithm": {"name": "ppo", "group_size": 4, "minibatches": 2, "shuffle": "trajectories"},
        "critic": {"warmup_rounds": 2, "through_trunk": True, "clip": 0.1},
    },
    "critic of its own": {
        "algorithm": {
            "name": "ppo",
            "group_size": 4,
            "minibatches": 2,
            "entropy_coef": 1e-3,
            "entropy_target": 2.0,
        },
        "critic": {
            "model": "the policy's",
            "min_explained_variance": -0.5,
            "optimiser": {"learning_rate": 1e-3},
        },
    },
    # the gate opens in round 3, and later rounds alone would not open it again; both weights adapt from there on
    "gate": {
        "algorithm": {
            "name": "ppo",
            "group_size": 4,
            "minibatches": 2,
            "kl_target": 0.01,
            "entropy_coef": 1e-3,
            "entropy_target": 2.0,
        },
        "critic": {"min_explained_variance": 0.01, "head_learning_rate": 0.01},
    },
    "greedy": {"algorithm": {"name": "remax", "group_size": 4}},
    # what greedy answers earned is kept with a round that is left in the middle
    "greedy, several updates": {
        "algorithm": {
            "name": "remax",
            "group_size": 4,
            "ratio": "token",
            "minibatches": 2,
            "shuffle": "trajectories",
        }
    },
    "dapo": {"algorithm": {"name": "dapo", "group_size": 4}},
    # adapters, and the model without them as the reference; old log-probs of its own
    "lora": {
        "algorithm": {"name": "ppo", "group_size": 4},
        "model": {"lora": {"rank": 2, "alpha": 4.0}},
    },
    # masters in float32 beside a module in bfloat16; a schedule; AdamW's decay
    "bfloat16": {
        "algorithm": {"name": "grpo", "group_size": 4, "minibatches": 2},
        "model": {"precision": "bfloat16"},
        "optimiser": {"schedule": "cosine", "warmup_updates": 2, "weight_decay": 0.1},
    },
    # torch alone, none of the kernels
    "plain": {"algorithm": {"name": "grpo", "group_size": 4}, "model": {"cpu": "plain"}},
}


class Killed(BaseException):
    """Ends a run as nothing in the program expects."""


def run(folder, model, variant, *, rounds=ROUNDS, resume=False, every=None):
    settings = {name: dict(group) for name, group in VARIANTS[variant].items()}
    if settings.get("critic", {}).get("model"):
        settings["critic"]["model"] = str(model)
    settings["run"] = {
        "folder": str(folder),
        "rounds": rounds,
        "completions_per_round": 16,
        "resume": resume,
        "checkpoint_every": every,
        "trackers": [],
    }
    return run_rl(folder, model, **settings)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """Each variant's run without a stop, made once."""
    made: dict[str, Path] = {}

    def get(variant):
        if variant not in made:
            made[variant] = tmp_path_factory.mktemp("whole") / "run"
            run(made[variant], model, variant)
        return made[variant]

    return get


def kill_at_update(monkeypatch, number):
    """The process is gone in the middle of the `number`th update from now on: it writes no checkpoint either."""

    def dead(*args, **kwargs):
        raise Killed

    def die():
        monkeypatch.setattr(session, "save_checkpoint", dead)
        raise Killed

    at_call(monkeypatch, Learner, "update", number, die)


def at_call(monkeypatch, owner, name, number, happen):
    """`happen()` before the `number`th call of a function from now on."""
    seen = 0
    original = getattr(owner, name)

    def called(*args, **kwargs):
        nonlocal seen
        seen += 1
        if seen == number:
            happen()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


def seen_by(monkeypatch):
    """What the runs from now on print."""
    screen = StringIO()
    monkeypatch.setattr(tiny_task, "quiet", lambda: Console(file=screen, width=500))
    return screen


@pytest.mark.parametrize("variant", ["reinforce", "lora"])
def test_stopped_between_rounds(variant, whole, model, tmp_path):
    run(tmp_path / "run", model, variant, rounds=3)
    assert len(metrics(tmp_path / "run")) == 3
    run(tmp_path / "run", model, variant, resume=True)
    assert_same_run(tmp_path / "run", whole(variant))


def test_a_run_may_go_on_without_what_makes_it_fast(whole, model, tmp_path, monkeypatch):
    """Up to rounding it is the same run: the first round's answers were drawn before, the rest learn alike."""
    run(tmp_path / "run", model, "plain", rounds=3)
    monkeypatch.setitem(VARIANTS, "now fast", {**VARIANTS["plain"], "model": {"cpu": "fast"}})
    run(tmp_path / "run", model, "now fast", resume=True)
    rewards, expected = (
        [line["reward"] for line in metrics(run_)] for run_ in (tmp_path / "run", whole("plain"))
    )
    assert rewards == expected


@pytest.mark.parametrize(
    ("variant", "every", "dies_at"),
    [
        ("reinforce", 2, 4),  # round 4's samples are lost and drawn again
        ("ppo", 1, 22),  # update 6 of 8 of round 3
        ("ppo", 3, 17),  # two updates since the checkpoint, round 2's record already written
        ("dapo", 1, 11),
        ("warm-up", 1, 3),  # in the second minibatch of the second epoch of a round of warm-up
        ("warm-up", 1, 7),  # in its second round
        ("warm-up", 1, 11),  # after it
        ("critic of its own", 1, 12),  # the policy's step of update 6 is made, and its critic's not
        ("gate", 1, 6),  # while it is shut
        ("gate", 1, 14),  # once it is open
        ("greedy", 1, 3),
        ("greedy, several updates", 1, 4),
        ("lora", 1, 19),
        ("bfloat16", 1, 6),
        ("plain", 1, 3),
    ],
)
def test_killed_in_the_middle(variant, every, dies_at, whole, model, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        kill_at_update(patched, dies_at)
        with pytest.raises(Killed):
            run(tmp_path / "run", model, variant, every=every)
    run(tmp_path / "run", model, variant, resume=True)
    assert_same_run(tmp_path / "run", whole(variant))


def test_the_gate_of_these_runs_opens_once_on_their_way(whole):
    lines = metrics(whole("gate"))
    assert [line["updates"] > 0 for line in lines] == [False, False, True, True, True]
    assert max(line["value/explained_variance"] for line in lines[3:]) < 0.01


def test_killed_before_the_first_checkpoint(whole, model, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        kill_at_update(patched, 2)
        with pytest.raises(Killed):
            run(tmp_path / "run", model, "reinforce")
    assert names(tmp_path / "run" / "checkpoints") == []
    assert len(metrics(tmp_path / "run")) == 1
    run(tmp_path / "run", model, "reinforce", resume=True)
    assert_same_run(tmp_path / "run", whole("reinforce"))


def test_resume_of_a_run_that_has_not_begun(whole, model, tmp_path):
    run(tmp_path / "run", model, "reinforce", resume=True)
    assert_same_run(tmp_path / "run", whole("reinforce"))


def test_resume_of_a_run_that_is_over_changes_nothing(whole, model, tmp_path):
    shutil.copytree(whole("reinforce"), tmp_path / "run")
    run(tmp_path / "run", model, "reinforce", resume=True)
    assert_same_run(tmp_path / "run", whole("reinforce"))


def test_a_half_written_checkpoint_is_ignored_and_cleared_away(whole, model, tmp_path):
    run(tmp_path / "run", model, "reinforce", rounds=3)
    half = tmp_path / "run" / "checkpoints" / ".000005"
    (half / "training").mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half a fi")
    run(tmp_path / "run", model, "reinforce", resume=True)
    assert names(tmp_path / "run" / "checkpoints") == ["000005"]
    assert_same_run(tmp_path / "run", whole("reinforce"))


def test_a_checkpoint_that_was_being_replaced_comes_back(whole, model, tmp_path):
    run(tmp_path / "run", model, "reinforce", rounds=3)
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "000003").rename(checkpoints / ".000003.earlier")
    run(tmp_path / "run", model, "reinforce", resume=True)
    assert names(checkpoints) == ["000005"]
    assert_same_run(tmp_path / "run", whole("reinforce"))


# ---------------------------------------------------------------------- errors of any kind


def mistake():
    raise ZeroDivisionError("of my own making")


def out_of_memory():
    raise MemoryError


def interrupted_twice():
    signal.raise_signal(signal.SIGINT)
    while signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        time.sleep(0.01)  # until the first has been handled: signals that wait together count as one
    signal.raise_signal(signal.SIGINT)


HOMES = {
    "rollout_metrics": metrics_module,
    "PolicyObjective": update_module,
    "update_metrics": metrics_module,
}
ERRORS = {
    "a mistake in the loop": (ZeroDivisionError, mistake),
    "memory": (RunError, out_of_memory),
    "a second ctrl-c": (KeyboardInterrupt, interrupted_twice),
}


@pytest.mark.parametrize("what", ERRORS)
@pytest.mark.parametrize(
    ("variant", "name", "number"),
    [("reinforce", "rollout_metrics", 3), ("ppo", "PolicyObjective", 12), ("dapo", "update_metrics", 2)],
    ids=["sampling", "an update", "the record"],
)
def test_an_error_of_any_kind_leaves_a_checkpoint(
    what, variant, name, number, whole, model, tmp_path, monkeypatch
):
    kind, happen = ERRORS[what]
    with monkeypatch.context() as patched:
        at_call(patched, HOMES[name], name, number, happen)
        with pytest.raises(kind):
            run(tmp_path / "run", model, variant)
    assert len(names(tmp_path / "run" / "checkpoints")) == 1
    run(tmp_path / "run", model, variant, resume=True)
    assert_same_run(tmp_path / "run", whole(variant))


def test_half_an_optimiser_step_is_no_state_to_keep(whole, model, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        at_call(patched, Optimiser, "_round_into_module", 4, mistake)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "run", model, "reinforce", every=2)
    assert names(tmp_path / "run" / "checkpoints") == ["000002"]  # as it was due, and none of step 3 or 4
    run(tmp_path / "run", model, "reinforce", resume=True)
    assert_same_run(tmp_path / "run", whole("reinforce"))


def test_nothing_is_written_twice_or_before_anything_was_trained(model, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        at_call(patched, metrics_module, "rollout_metrics", 1, mistake)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "first", model, "reinforce")
    assert names(tmp_path / "first" / "checkpoints") == []
    saved = []
    with monkeypatch.context() as patched:
        at_call(patched, metrics_module, "rollout_metrics", 3, mistake)
        original = session.save_checkpoint
        patched.setattr(
            session,
            "save_checkpoint",
            lambda path, *a, **k: saved.append(path.name) or original(path, *a, **k),
        )
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "second", model, "reinforce", every=1)
    assert saved == ["000001", "000002"]  # the one of round 2 says all that there is to say


@pytest.mark.parametrize("what", ERRORS)
def test_a_supervised_run_loses_nothing_either(what, model, tmp_path, monkeypatch):
    run_sft(tmp_path / "whole", model)
    kind, happen = ERRORS[what]
    with monkeypatch.context() as patched:
        at_call(patched, sft, "supervised_objective", 4, happen)
        with pytest.raises(kind):
            run_sft(tmp_path / "run", model)
    assert names(tmp_path / "run" / "checkpoints") == ["000003"]
    settings = {
        "folder": str(tmp_path / "run"),
        "updates": 6,
        "batch_size": 4,
        "trackers": [],
        "resume": True,
    }
    run_sft(tmp_path / "run", model, run=settings)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# ---------------------------------------------------------------------- a run that never got anywhere


def test_a_run_that_ended_in_its_first_round_is_no_hindrance(whole, model, tmp_path, monkeypatch):
    for resume in (False, True):
        folder = tmp_path / f"resume-{resume}"
        with monkeypatch.context() as patched:
            at_call(patched, metrics_module, "rollout_metrics", 1, mistake)
            with pytest.raises(ZeroDivisionError):
                run(folder, model, "dapo")
        assert folder.is_dir()
        with monkeypatch.context() as patched:
            screen = seen_by(patched)
            run(folder, model, "reinforce", resume=resume)  # with other settings: nothing is gone on with
        assert "ended before its first round did; it is begun anew" in screen.getvalue()
        assert_same_run(folder, whole("reinforce"))


# ---------------------------------------------------------------------- who writes


def test_a_run_that_is_being_written_is_left_alone(model, tmp_path):
    folder = tmp_path / "run"
    run(folder, model, "reinforce", rounds=2)
    (folder / "checkpoints" / ".000003").mkdir()  # the other process is writing it
    before = sorted(folder.rglob("*"))
    with RunFolder(folder).locked(command="ventaja rl run.yaml --run.resume true"):
        for attempt in (True, False):
            with pytest.raises(RunError, match=rf"process {os.getpid()} on .* is writing to this folder"):
                run(folder, model, "reinforce", resume=attempt)
    assert sorted(folder.rglob("*")) == before
    run(folder, model, "reinforce", resume=True)


def test_every_file_of_a_checkpoint_is_on_the_disk_before_its_name_is(model, tmp_path, monkeypatch):
    """A power cut forgets what was not synced: nothing may have its name before its contents are safe."""
    synced: set[int] = set()
    renames = []
    fsync, rename, replace = os.fsync, Path.rename, os.replace

    def look(source, target):
        tree = [source, *source.rglob("*")] if source.is_dir() else [source]
        unsafe = [path.name for path in tree if path.stat().st_ino not in synced]
        metrics_file = tmp_path / "run" / "metrics.jsonl"
        renames.append(
            (Path(target).name, unsafe, metrics_file.stat().st_size if metrics_file.exists() else 0)
        )
        synced.discard(Path(target).parent.stat().st_ino)

    def watched_fsync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def watched_rename(self, target):
        look(self, target)
        return rename(self, target)

    def watched_replace(source, target):
        look(Path(source), target)
        replace(source, target)

    def at_rest(folder):
        return folder.stat().st_ino in synced

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    monkeypatch.setattr(os, "replace", watched_replace)
    run(tmp_path / "run", model, "reinforce", rounds=2, every=1)
    names_in_place = [name for name, _, _ in renames]
    assert {"config.yaml", "round-000001.parquet", "round-000002.parquet", "000001", "000002"} <= {
        *names_in_place
    }
    assert [unsafe for _, unsafe, _ in renames if unsafe] == []
    assert at_rest(tmp_path / "run" / "checkpoints")
    assert at_rest(tmp_path / "run" / "rollouts")
    assert (tmp_path / "run" / "metrics.jsonl").stat().st_ino in synced


# ---------------------------------------------------------------------- what a resumed run says


@pytest.mark.parametrize(
    ("done", "rounds", "said"),
    [
        (1, 1, "has done 1 round: there is nothing left to do"),
        (
            3,
            3,
            "has done 3 rounds: there is nothing left to do, and nothing is changed. To go on, raise run.rounds.",
        ),
        (3, 2, "has done 3 rounds, and run.rounds asks for 2: there is nothing left to do"),
        (3, 4, "Going on after round 3 of 4, from"),
    ],
)
def test_a_resumed_run_says_what_it_does(done, rounds, said, model, tmp_path, monkeypatch):
    run(tmp_path / "run", model, "reinforce", rounds=done)
    screen = seen_by(monkeypatch)
    run(tmp_path / "run", model, "reinforce", rounds=rounds, resume=True)
    assert said in screen.getvalue()
    assert len(metrics(tmp_path / "run")) == max(rounds, done)


def test_a_supervised_run_that_is_over_says_so(model, tmp_path, monkeypatch):
    screen = seen_by(monkeypatch)
    run_sft(tmp_path / "run", model)
    settings = {
        "folder": str(tmp_path / "run"),
        "updates": 6,
        "batch_size": 4,
        "trackers": [],
        "resume": True,
    }
    run_sft(tmp_path / "run", model, run=settings)
    assert "has done 6 steps: there is nothing left to do" in screen.getvalue()
    assert "raise run.updates." in screen.getvalue()
    assert screen.getvalue().count(f"Loading {model} …") == 2


# ---------------------------------------------------------------------- signals

ENDS = {signal.SIGTERM: (SystemExit, 128 + signal.SIGTERM), signal.SIGINT: (KeyboardInterrupt, None)}


@pytest.mark.parametrize("number", ENDS)
@pytest.mark.parametrize("variant", ["ppo", "dapo"])  # dapo samples several times in a round
@pytest.mark.parametrize("where", ["sampling", "update"])
def test_a_signal_leaves_a_checkpoint_to_go_on_from(
    number, variant, where, whole, model, tmp_path, monkeypatch
):
    owner, name = {"sampling": (LocalEngine, "sample"), "update": (Learner, "update")}[where]
    calls, at = 0, 3
    original = getattr(owner, name)

    def interrupted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, interrupted)
        kind, code = ENDS[number]
        with pytest.raises(kind) as stopped:
            run(tmp_path / "run", model, variant)
    assert calls == at  # it stopped at the next safe place
    assert code is None or stopped.value.code == code
    assert len(names(tmp_path / "run" / "checkpoints")) == 1
    run(tmp_path / "run", model, variant, resume=True)
    assert_same_run(tmp_path / "run", whole(variant))


def test_a_signal_while_measuring_leaves_a_checkpoint(model, tmp_path, monkeypatch):
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"prompt": "say z"}\n{"prompt": "say y"}\n')

    def measured(folder, *, resume=False):
        run_rl(
            folder, model,
            eval={"source": str(held_out), "every": 2},
            run={"folder": str(folder), "rounds": 3, "completions_per_round": 16, "resume": resume, "trackers": []},
        )  # fmt: skip

    measured(tmp_path / "whole")
    original = LocalEngine.sample
    calls = 0

    def interrupted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 3:  # round 1, round 2, and now its held-out problems
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(LocalEngine, "sample", interrupted)
        with pytest.raises(SystemExit):
            measured(tmp_path / "run")
    assert calls == 3
    assert len(metrics(tmp_path / "run")) == 1
    measured(tmp_path / "run", resume=True)
    assert [("eval/reward" in line) for line in metrics(tmp_path / "run")] == [False, True, True]
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_second_signal_stops_at_once(model, tmp_path, monkeypatch):
    at_call(monkeypatch, Learner, "update", 1, interrupted_twice)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", model, "reinforce")
    assert names(tmp_path / "run" / "checkpoints") == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# ---------------------------------------------------------------------- a real process, really killed

CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from test_resume import run
from pathlib import Path
run(Path(sys.argv[2]), Path(sys.argv[3]), "ppo", rounds=40, every=1)
"""


@pytest.mark.slow
def test_sigkill_of_a_real_process(model, tmp_path):
    folder = tmp_path / "run"
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder), str(model)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 120
        while not names(folder / "rollouts"):  # one round is over
            assert child.poll() is None, child.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(random.uniform(0.05, 0.4))  # anywhere: also while a checkpoint is being written
    finally:
        child.kill()
        child.wait()
        child.stderr.close()
    assert child.returncode == -signal.SIGKILL
    rounds = len(metrics_of_whole_lines(folder)) + 2
    run(folder, model, "ppo", rounds=rounds, resume=True, every=1)
    run(tmp_path / "whole", model, "ppo", rounds=rounds)
    assert_same_run(folder, tmp_path / "whole")


def metrics_of_whole_lines(folder):
    return [line for line in (folder / "metrics.jsonl").read_text().split("\n")[:-1] if line]


# ---------------------------------------------------------------------- supervised runs


@pytest.mark.parametrize("every", [None, 2])
def test_a_supervised_run_too(every, model, tmp_path, monkeypatch):
    def settings(folder, **more):
        return {"run": {"folder": str(folder), "batch_size": 4, "updates": 6, "trackers": [], **more}}

    run_sft(tmp_path / "whole", model, **settings(tmp_path / "whole"))
    if every is None:
        run_sft(tmp_path / "run", model, **settings(tmp_path / "run", updates=3))
    else:
        with monkeypatch.context() as patched:
            kill_at_update(patched, 4)
            with pytest.raises(Killed):
                run_sft(tmp_path / "run", model, **settings(tmp_path / "run", checkpoint_every=every))
    run_sft(tmp_path / "run", model, **settings(tmp_path / "run", resume=True))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_the_best_checkpoint_survives_a_kill(model, tmp_path, monkeypatch):
    held_out = tmp_path / "held_out.jsonl"  # its end is learned soon, and then its letter forgotten
    held_out.write_text('{"prompt": "say x:", "completion": "b."}\n')

    def settings(folder, **more):
        run = {
            "folder": str(folder),
            "batch_size": 4,
            "updates": 9,
            "trackers": [],
            "checkpoint_every": 3,
            **more,
        }
        measured = {"source": str(held_out), "every": 2}
        return {"optimiser": {"learning_rate": 3e-2}, "eval": measured, "run": run}

    run_sft(tmp_path / "whole", model, **settings(tmp_path / "whole"))
    best = Run(tmp_path / "whole").best_checkpoint.name
    assert names(tmp_path / "whole" / "checkpoints") == [best, "000009"] == ["000002", "000009"]
    for dies_at in (2, 4, 9):  # before the best checkpoint, and after it
        folder = tmp_path / f"run-{dies_at}"
        with monkeypatch.context() as patched:
            kill_at_update(patched, dies_at)
            with pytest.raises(Killed):
                run_sft(folder, model, **settings(folder))
        run_sft(folder, model, **settings(folder, resume=True))
        assert_same_run(folder, tmp_path / "whole")
        assert names(folder / "checkpoints") == names(tmp_path / "whole" / "checkpoints")
        assert Run(folder).best_checkpoint.name == best


def test_a_signal_stops_a_supervised_run(model, tmp_path, monkeypatch):
    run_sft(tmp_path / "whole", model)
    original = Learner.update

    def interrupted(*args, **kwargs):
        report = original(*args, **kwargs)
        if args[0].updates == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return report

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "update", interrupted)
        with pytest.raises(SystemExit) as stopped:
            run_sft(tmp_path / "run", model)
    assert stopped.value.code == 143
    assert names(tmp_path / "run" / "checkpoints") == ["000002"]
    groups = {"run": {"folder": str(tmp_path / "run"), "updates": 6, "batch_size": 4, "trackers": []}}
    groups["run"]["resume"] = True
    run_sft(tmp_path / "run", model, **groups)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# ---------------------------------------------------------------------- another run's settings


def test_resume_with_other_settings_names_them(whole, model, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole("reinforce"), folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(RunError) as error:
        run(folder, model, "dapo", resume=True)
    message = str(error.value)
    assert "begun with other settings" in message
    assert "algorithm.baseline (was 'running_mean', is 'group_mean')" in message
    assert "algorithm.name (was 'reinforce', is 'dapo')" in message
    assert "run.folder" not in message.split("Resume it")[0]
    with pytest.raises(RunError, match=r"model.name \(was '.*', is 'elsewhere'\)"):
        run(folder, "elsewhere", "reinforce", resume=True)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_part_written_out_is_no_other_setting(whole, model, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole("reinforce"), folder)
    run_rl(
        folder, model,
        algorithm={"name": "reinforce", "group_size": 4, "epochs": 1},  # as the row says anyway
        optimiser={"learning_rate": 1e-2, "max_tokens": 64},
        run={"folder": str(folder), "rounds": ROUNDS, "completions_per_round": 16, "resume": True,
             "checkpoint_every": 7, "keep_checkpoints": 3, "max_batch": 3, "trackers": []},
    )  # fmt: skip
    assert_same_run(folder, whole("reinforce"))


def test_a_step_that_no_report_tells_of_is_not_saved(whole, model, tmp_path, monkeypatch):
    """Interrupted right after the optimiser's step: resumed from there, the run would take the step twice."""
    original, steps = Optimiser.step, 0

    def interrupted(optimiser):
        nonlocal steps
        norm = original(optimiser)
        steps += len(optimiser.parameters) > 2  # not those of the value head
        if steps == 14:
            raise KeyboardInterrupt
        return norm

    with monkeypatch.context() as patched:
        patched.setattr(Optimiser, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", model, "ppo", every=4)
    assert names(tmp_path / "run" / "checkpoints") == ["000012"]
    run(tmp_path / "run", model, "ppo", resume=True)
    assert_same_run(tmp_path / "run", whole("ppo"))


def test_a_checkpoint_of_the_first_format_in_a_later_epoch(whole, model, tmp_path, monkeypatch):
    """Then all epochs shared one column of old log-probs; in float32 they differ by rounding alone."""
    with monkeypatch.context() as patched:
        kill_at_update(patched, 6)  # round 1 has two epochs of four
        with pytest.raises(Killed):
            run(tmp_path / "run", model, "ppo", every=1)
    training = tmp_path / "run" / "checkpoints" / "000005" / "training"
    tables = load_file(training / "tables.safetensors")
    del tables["old_logprob/2"]
    save_file(tables, training / "tables.safetensors")
    state = json.loads((training / "state.json").read_text())
    (training / "state.json").write_text(json.dumps(state | {"format": 1}))
    run(tmp_path / "run", model, "ppo", resume=True)
    ours, theirs = metrics(tmp_path / "run")[0], metrics(whole("ppo"))[0]
    assert theirs["approx_kl"] > 1e-3
    assert ours["approx_kl"] == pytest.approx(theirs["approx_kl"], rel=1e-3)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_masters_go_on_where_the_precision_is_another(precision, model, tmp_path):
    """`auto` may mean float32 on the machine that a bfloat16 run is resumed on: masters are more than its weights."""
    run(tmp_path / "run", model, "bfloat16", rounds=2)
    [checkpoint] = (tmp_path / "run" / "checkpoints").iterdir()
    masters = load_file(checkpoint / "training" / "masters.safetensors")
    optimiser = Optimiser(
        load_policy(str(checkpoint), device="cpu", precision="float32"), OptimiserConfig(), total_updates=1,
        compute=getattr(torch, precision),
    )  # fmt: skip
    assert any(not torch.equal(optimiser.masters[name], master) for name, master in masters.items())
    optimiser.load_master_weights(masters)
    for name, master in masters.items():
        assert torch.equal(optimiser.masters[name], master)
        assert torch.equal(optimiser.parameters[name].data, master.to(getattr(torch, precision)))
