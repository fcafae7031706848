"""An engine and an environment of a user's own: the examples, from run files and from Python, and all that may go wrong."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tiny_task import (
    assert_same_run,
    completion,
    metrics,
    names,
    prompts,
    quiet,
    rl_values,
    share_of_a,
    tokenizer,
)

import ventaja
from ventaja.cli import main
from ventaja.environments import Environment, Reward, SingleTurn
from ventaja.errors import ConfigError, RolloutError, RunError
from ventaja.records import Given, Judgement, read_groups
from ventaja.rollouts import Engine, ScriptedEngine
from ventaja.training import RlConfig, parse, train_rl

EXAMPLES = Path(__file__).parents[2] / "examples"
ENGINE, WORLD = f"{EXAMPLES}/own_engine.py:GenerateEngine", f"{EXAMPLES}/own_environment.py:Tournament"


@pytest.fixture
def run_file(model, tmp_path):
    """Writes a run file with more groups, and gives its path and the run's folder."""
    rows = [json.dumps({"prompt": prompt.content}) for prompt in prompts()]
    (tmp_path / "prompts.jsonl").write_text("\n".join(rows))
    (tmp_path / "judge.py").write_text(
        "def share(completions):\n    return [sum(c < 'n' for c in t) / 4 for t in completions]\n"
    )

    def write(name="run", **groups):
        values = rl_values(tmp_path / name, model, data={"source": str(tmp_path / "prompts.jsonl")})
        values |= {"reward": f"{tmp_path / 'judge.py'}:share"} | groups
        values = {group: settings for group, settings in values.items() if settings is not None}
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps(values))  # YAML too
        return str(path), tmp_path / name

    return write


# ---------------------------------------------------------------------- the examples


def test_an_engine_of_ones_own_from_a_run_file(run_file):
    path, folder = run_file(engine=ENGINE)
    assert main(["rl", path]) == 0
    lines = metrics(folder)
    assert len(lines) == 3
    for line in lines:
        assert line["grad_norm"] > 0
        assert (
            line["sampling/logprob_gap"] < 1e-4
        )  # it says with what probability it drew, and of which weights
    assert json.loads((folder / "checkpoints" / "000003" / "training" / "state.json").read_text())
    again, other = run_file("again", engine={"kind": ENGINE})
    assert main(["rl", again]) == 0
    assert_same_run(folder, other)


def test_an_engine_is_gone_on_with(run_file):
    whole, stopped = run_file("whole", engine=ENGINE), run_file("stopped", engine=ENGINE)
    assert main(["rl", whole[0]]) == 0
    assert main(["rl", stopped[0], "--run.rounds", "2"]) == 0
    assert main(["rl", stopped[0], "--run.resume", "true"]) == 0
    assert_same_run(whole[1], stopped[1])
    assert main(["rl", stopped[0], "--run.resume", "true", "--engine", "local", "--run.rounds", "4"]) == 1


def test_an_environment_of_ones_own_from_a_run_file(run_file):
    path, folder = run_file(environment={"kind": WORLD, "options": {"word": "a"}}, reward=None)
    assert main(["rl", path]) == 0
    for round in range(1, 4):
        for group in ventaja.Run(folder).rollouts(round):
            # each game has one winner, or two halves: four answers play six games, and each plays three
            assert sum(j.reward for j in group.judgements) == pytest.approx(6 / 3)
            for one, first in zip(group.trajectories, group.judgements, strict=True):
                for two, second in zip(group.trajectories, group.judgements, strict=True):
                    if "a" in one.text and "a" not in two.text:
                        assert first.reward > second.reward


def test_a_measurement_has_both_joints_too(run_file, model, tmp_path, capsys):
    path, folder = run_file(environment={"kind": WORLD, "options": {"word": "a"}}, reward=None)
    assert main(["rl", path]) == 0
    capsys.readouterr()
    output = tmp_path / "answers.parquet"
    flags = [
        "--environment.kind",
        WORLD,
        "--environment.options.word",
        "a",
        "--engine",
        ENGINE,
        "--output",
        str(output),
    ]
    data = [
        "--data",
        str(tmp_path / "prompts.jsonl"),
        "--sampling.max_tokens",
        "4",
        "--model.precision",
        "float32",
    ]
    assert main(["eval", "--model", str(folder), *data, *flags, "--model.device", "cpu"]) == 0
    assert len(read_groups(output)) == 8
    for group in read_groups(output):  # the environment's own rewards
        assert sum(j.reward for j in group.judgements) == pytest.approx(6 / 3)
    assert "mean reward" in capsys.readouterr().out.lower()


def test_objects_in_python(model, tmp_path):
    engine = ScriptedEngine(tokenizer(), lambda prompt, k: "ab"[k % 2] * 3)

    class Odd:
        prompts = prompts()
        asked = 0

        def rollout(self, ask, requests):
            Odd.asked += len(requests)
            groups = [r.answered(said) for r, said in zip(requests, ask(requests), strict=True)]
            return [
                replace(g, judgements=tuple(Judgement.outcome(float("a" in t.text), length=len(t)) for t in g.trajectories))
                for g in groups
            ]  # fmt: skip

    assert isinstance(engine, Engine)
    assert isinstance(Odd(), Environment)
    run = ventaja.rl(
        model={"name": str(model), "device": "cpu", "precision": "float32"}, folder=tmp_path / "run", rounds=2,
        engine=engine, environment=Odd(), algorithm={"name": "grpo", "group_size": 4},
        sampling={"max_tokens": 4}, run={"completions_per_round": 16, "trackers": []},
    )  # fmt: skip
    assert Odd.asked == 8
    assert run.column("reward") == [0.5, 0.5]
    assert engine.version == 2  # it has the weights of the last update
    assert run.config["engine"]["kind"] == "ScriptedEngine (given in Python)"
    assert main(["rl", str(run.path / "config.yaml"), "--run.resume", "true"]) == 2


def test_the_engine_gets_weights_once_a_round(model, tmp_path):
    loads = []

    class Counting(Saying):
        def load(self, policy, *, version):
            loads.append(version)
            super().load(policy, version=version)

    config = parse(RlConfig, rl_values(tmp_path / "run", model, algorithm={"name": "dapo", "group_size": 4}))
    train_rl(config, engine=Counting(), environment=world(), console=quiet())
    assert loads == [0, 4, 8, 12]  # four updates a round


def world(judge=share_of_a) -> SingleTurn:
    return SingleTurn(prompts=prompts(), rewards=[Reward(judge, "r")])


# ---------------------------------------------------------------------- what an engine may do wrong


class Saying:
    """Answers with two tokens; `change` is asked what to make of it."""

    def __init__(self, change=lambda said: said):
        self.change = change

    def load(self, policy, *, version):
        self.version = version

    def release(self):
        pass

    def sample(self, requests, sampling, **_):
        said = [
            tuple(replace(completion(2 + k, 1, text="ab"[k % 2]), weight_version=self.version) for k in range(r.count))
            for r in requests
        ]  # fmt: skip
        return self.change(said)


def each(change):
    return lambda said: [tuple(change(c) for c in group) for group in said]


def broken(said):
    raise KeyError("no such token")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda said: said[1:], "answered 3 of 4 requests"),
        (lambda said: None, "answered NoneType of 4 requests"),
        (lambda said: [group[1:] for group in said], r"asked p:\d, returned 3 completions instead of 4"),
        (each(lambda c: "text"), r"returned str \('text'\)\. Return ventaja\.records\.Completion"),
        (each(lambda c: completion()), "a completion without tokens"),
        (each(lambda c: completion(2, 3, 4, 5, 6)), "5 tokens, but sampling.max_tokens is 4"),
        (each(lambda c: completion(99, 1)), r"the token 99, but the model's tokens are 0 to 31"),
        (each(lambda c: completion(-1, 1)), "the token -1, but"),
        (each(lambda c: replace(c, logprobs=(float("nan"), -1.0))), "the log-prob nan"),
        (each(lambda c: replace(c, logprobs=(0.5, -1.0))), "the log-prob 0.5. A log-prob is finite and at most 0"),
        (each(lambda c: replace(c, weight_version=7)), "of weights 7, but those handed to it are 0"),
        (broken, r"raised KeyError: 'no such token'(.|\n)*raise KeyError(.|\n)*Mend it"),
    ],
)  # fmt: skip
def test_an_engine_that_does_not_do_what_it_was_asked(change, message, model, tmp_path):
    config = parse(RlConfig, rl_values(tmp_path / "run", model))
    with pytest.raises(RolloutError, match=f"the engine 'Saying'.*{message}"):
        train_rl(config, engine=Saying(change), environment=world(), console=quiet())


def test_nothing_is_lost_by_a_mistake_in_a_later_round(model, tmp_path):
    rounds = []

    def later(said):
        rounds.append(1)
        return said if len(rounds) < 3 else said[1:]

    values = rl_values(tmp_path / "run", model)
    with pytest.raises(RolloutError, match="answered 3 of 4"):
        train_rl(parse(RlConfig, values), engine=Saying(later), environment=world(), console=quiet())
    assert names(tmp_path / "run" / "checkpoints") == ["000002"]
    values["run"]["resume"] = True
    train_rl(parse(RlConfig, values), engine=Saying(), environment=world(), console=quiet())
    train_rl(
        parse(RlConfig, rl_values(tmp_path / "whole", model)), engine=Saying(), environment=world(),
        console=quiet(),
    )  # fmt: skip
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# ---------------------------------------------------------------------- what an environment may do wrong


class Changed:
    """The usual one; `change` is asked what to make of its groups."""

    def __init__(self, change):
        self.change = change
        self.inner = world()
        self.prompts = self.inner.prompts

    def rollout(self, ask, requests):
        return self.change(self.inner.rollout(ask, requests))


def stream(*pairs):
    return lambda groups: [
        replace(g, judgements=tuple(Judgement(stream=pairs) for _ in g.trajectories)) for g in groups
    ]


def raising(groups):
    raise ZeroDivisionError("half a world")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda groups: groups[1:], "returned 3 groups for 4 requests"),
        (lambda groups: [1] * 4, r"returned int \(1\)"),
        (lambda groups: groups[::-1], "returned the group of .*, another prompt"),
        (
            lambda groups: [replace(g, trajectories=g.trajectories[1:], judgements=g.judgements[1:]) for g in groups],
            "returned 3 trajectories instead of 4",
        ),
        (lambda groups: [replace(g, judgements=()) for g in groups], "a group without judgements"),
        (stream((99, 1.0)), r"gave a reward to token 99 of a trajectory of \d tokens"),
        (stream((0, float("nan"))), "gave the reward nan at token 0. A reward is a finite number"),
        (raising, r"raised ZeroDivisionError: half a world(.|\n)*half a world"),
    ],
)  # fmt: skip
def test_an_environment_that_does_not_do_what_it_was_asked(change, message, model, tmp_path):
    config = parse(RlConfig, rl_values(tmp_path / "run", model))
    with pytest.raises(RolloutError, match=f"the environment 'Changed'.*{message}"):
        train_rl(config, environment=Changed(change), console=quiet())


def test_a_mistake_of_the_engine_is_not_called_the_environments(model, tmp_path):
    config = parse(RlConfig, rl_values(tmp_path / "run", model))
    with pytest.raises(RolloutError, match="^the engine 'Saying' raised KeyError"):
        train_rl(config, engine=Saying(broken), environment=Changed(lambda groups: groups), console=quiet())


def the_pages_world():
    """The environment of docs/environments.md, as it stands there."""
    page = (EXAMPLES.parent / "docs" / "environments.md").read_text()
    scope = {}
    exec(page.split("```python\n")[1].split("```")[0], scope)  # noqa: S102
    return scope["Doubt"]


@pytest.mark.parametrize("name", ["grpo", "ppo", "gspo"])
def test_given_tokens_go_through_the_whole_loop(name, model, tmp_path):
    """What an environment says between the turns is read, and nothing else."""

    class Letters(the_pages_world()):
        def judged(self, episode):
            return Judgement.outcome(episode.text.count("a") / 4, length=len(episode))

    config = parse(RlConfig, rl_values(tmp_path / name, model, algorithm={"name": name, "group_size": 4}))
    run = train_rl(config, environment=Letters(prompts(), question="?."), console=quiet())
    for line in metrics(tmp_path / name):
        assert line["sampling/logprob_gap"] < 1e-4  # scored where it was sampled: behind what was given
    for row in run.rollout_table(2).to_pylist():
        given = [t for t, chosen in enumerate(row["is_chosen"]) if not chosen]
        assert len(given) == 2
        for column in ("advantage", *(["ref_logprob"] if name != "gspo" else [])):
            assert [t for t, x in enumerate(row[column]) if x is None] == given, column
        assert len(row["token_reward"]) == len(row["token_ids"])
        assert (
            row["turns"][0]["text"] != row["turns"][2]["text"] or row["text"] == "\n"
        )  # streams of their own
    assert run.report().exists()


def changed_turns(change):
    """The page's world, whose trajectories are changed behind its back."""

    class Changed(the_pages_world()):
        def rollout(self, ask, requests):
            groups = super().rollout(ask, requests)
            return [replace(g, trajectories=tuple(map(change, g.trajectories))) for g in groups]

    return Changed(prompts(), question="?.")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (changed_turns(lambda t: replace(t, turns=(t.turns[0], t.turns[2]))), "was not sampled behind what stands before"),
        (changed_turns(lambda t: replace(t, turns=(*t.turns, Given(token_ids=(99,), text="", role="tool")))),
         "tokens that the model does not have; they are 0 to 31"),
    ],
)  # fmt: skip
def test_turns_that_were_not_said_so(environment, message, model, tmp_path):
    config = parse(RlConfig, rl_values(tmp_path / "run", model))
    with pytest.raises(RolloutError, match=message):
        train_rl(config, environment=environment, console=quiet())


def test_the_same_random_numbers_twice(model, tmp_path):
    class SameSeed(Changed):
        def rollout(self, ask, requests):
            ask(requests)
            return super().rollout(ask, requests)

    config = parse(RlConfig, rl_values(tmp_path / "run", model))
    with pytest.raises(RolloutError, match="asked twice with the seed"):
        train_rl(config, environment=SameSeed(lambda groups: groups), console=quiet())


def test_a_signal_while_judging_keeps_what_was_judged(model, tmp_path):
    calls = []

    def judge(completions):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return share_of_a(completions)

    values = rl_values(tmp_path / "run", model)
    with pytest.raises(KeyboardInterrupt):
        train_rl(parse(RlConfig, values), environment=world(judge), console=quiet())
    [last] = names(tmp_path / "run" / "checkpoints")
    state = json.loads((tmp_path / "run" / "checkpoints" / last / "training" / "state.json").read_text())
    assert state["rounds_done"] == 2  # what was sampled and judged is learned from before the run stops
    values["run"]["resume"] = True
    train_rl(parse(RlConfig, values), environment=world(judge), console=quiet())
    train_rl(parse(RlConfig, rl_values(tmp_path / "whole", model)), environment=world(), console=quiet())
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_reference_that_gives_nan_is_noticed(model, tmp_path, monkeypatch):
    from ventaja.training.learner import Learner

    score = Learner.score

    def broken_reference(self, batch, cut, **how):
        table = score(self, batch, cut, **how)
        if how.get("network") is not None:
            table[:, 0] = float("nan")
        return table

    monkeypatch.setattr(Learner, "score", broken_reference)
    config = parse(RlConfig, rl_values(tmp_path / "run", model, algorithm={"name": "rloo", "group_size": 4}))
    with pytest.raises(RunError, match="not finite"):
        train_rl(config, environment=world(), console=quiet())


def test_a_sampler_of_other_weights_is_told_of(model, tmp_path):
    screen = StringIO()
    config = parse(RlConfig, rl_values(tmp_path / "run", model))
    console = Console(file=screen, width=1000)
    train_rl(config, engine=Saying(), environment=world(), console=console)  # every log-prob −1
    assert screen.getvalue().count("nats from what the trained weights give the same tokens") == 1


# ---------------------------------------------------------------------- before anything is loaded


OWN = """
class World:
    def __init__(self, prompts, depth=1):
        if depth == 0:
            raise ValueError("depth must be above 0")
        self.prompts = prompts
    def rollout(self, ask, requests): ...
class Engine:
    def load(self, policy, *, version): ...
    def sample(self, requests, sampling, **_): ...
"""


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"engine": "lokal"}, r"engine.kind: there is none called 'lokal'. Built in is local"),
        ({"engine": "{own}:Engin"}, "there is no 'Engin' in it. Did you mean 'Engine'"),
        ({"engine": "{own}:Engine"}, "engine: Engine has no 'release'. Its contract is ventaja.rollouts.Engine"),
        ({"engine": {"kind": "{own}:Engine", "options": {"gpu": 1}}}, "engine.options: .* does not take 'gpu'"),
        ({"engine": {"kind": "{own}:Engine", "max_batch": 3}}, "max_batch would have no effect"),
        ({"engine": {"options": {"a": 1}}}, "options would have no effect"),
        ({"environment": "{own}:World"}, "reward.functions would have no effect: .* does not take 'rewards'"),
        ({"environment": {"kind": "{own}:World", "options": {"depth": 0}}, "reward": None},
         "could not be made: ValueError: depth must be above 0"),
        ({"environment": "{own}:World", "reward": None, "data": None}, "needs 'prompts': set data"),
        ({"data": None}, "data.source: must be set"),
    ],
)  # fmt: skip
def test_mistakes_in_the_run_file(groups, message, run_file, tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN)
    text = json.dumps(groups).replace("{own}", str(tmp_path / "own.py"))
    path, folder = run_file(**json.loads(text))
    assert main(["rl", path]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert re.search(message, shown), shown
    assert not folder.exists()


def test_a_run_file_of_an_earlier_version_is_read(run_file):
    path, _ = run_file()
    values = json.loads(Path(path).read_text())
    values["run"]["max_batch"] = 3
    config = parse(RlConfig, values)
    assert config.engine.max_batch == 3


def test_what_has_no_effect_in_python_is_an_error(model, tmp_path):
    arguments = {
        "model": str(model),
        "folder": tmp_path / "run",
        "environment": Changed(lambda groups: groups),
    }
    with pytest.raises(ConfigError, match="prompts would have no effect"):
        ventaja.rl(**arguments, prompts=["a"])
    with pytest.raises(ConfigError, match="reward.functions would have no effect"):
        ventaja.rl(**arguments, reward=share_of_a)
    assert not (tmp_path / "run").exists()
