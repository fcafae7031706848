"""Names of other libraries: what an error says of them, and the page that lists them."""

from __future__ import annotations

import inspect
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import ventaja
from ventaja.cli import main
from ventaja.errors import ConfigError
from ventaja.training import EvaluationConfig, RewardModelConfig, RlConfig, SftConfig, parse
from ventaja.training.config import setting_names
from ventaja.training.peer_names import PEERS
from ventaja.training.validation import setting_hint

PAGE = (Path(__file__).parents[2] / "docs" / "coming-from-trl.md").read_text(encoding="utf-8")
NAMES = {kind: setting_names(kind) for kind in (RlConfig, SftConfig, EvaluationConfig)}
EVERY = {name for names in NAMES.values() for name in names} | set(setting_names(RewardModelConfig))


def table(title):
    """The rows of the table below a heading, each as its cells' names in backticks."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 20
    return [[re.findall(r"`([^`]+)`", cell) for cell in row] for row in rows]


LIBRARIES = ("TRL", "verl", "OpenRLHF")


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_page_lists_what_errors_know_and_the_other_way(library):
    known = {(peer.name, peer.settings) for peer in PEERS if peer.library == library and peer.settings}
    assert {(row[0][0], tuple(row[1])) for row in table(f"From {library}")} == known
    column = 1 + LIBRARIES.index(library)
    back = {(name, row[0][0]) for row in table("The other way") for name in row[column]}
    assert back == {(name, setting) for name, settings in known for setting in settings}


def test_the_page_says_what_has_no_counterpart_and_why():
    section = PAGE.split("## Without a counterpart\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")][1:]
    listed = {
        (library, name, why.strip())
        for why, *cells in rows
        for library, cell in zip(LIBRARIES, cells, strict=True)
        for name in re.findall(r"`([^`]+)`", cell)
    }
    assert listed == {(peer.library, peer.name, peer.note) for peer in PEERS if not peer.settings}
    assert all(peer.note for peer in PEERS if not peer.settings)


def test_what_has_no_counterpart_is_no_setting_of_ours():
    """When a setting is added, its other names must move from one table to the other."""
    without = [peer.name for peer in PEERS if not peer.settings]
    assert not [(name, own) for name in without for own in EVERY if fnmatchcase(own, name)]


def test_each_name_means_one_thing():
    assert len({(peer.library, peer.name) for peer in PEERS}) == len(PEERS)


def test_every_setting_on_the_page_is_one():
    groups = {name.split(".")[0] for name in EVERY} - {
        "data",
        "algorithm",
        "critic",
    }  # verl has these as well
    named = re.findall(r"`((?:" + "|".join(groups) + r")\.[a-z_.]+)[`:]", PAGE)
    assert len(named) > 20
    assert set(named) <= EVERY
    assert {setting for peer in PEERS for setting in peer.settings} <= EVERY
    same = PAGE.split("Of the same name")[1].split("##")[0]
    for names, group in re.findall(r"((?:`\w+`(?:,|\sand)?\s)+)in\s`(\w+)`", same):
        assert {f"{group}.{name}" for name in re.findall(r"`(\w+)`", names)} <= EVERY


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_each_name_leads_to_its_setting(peer):
    for kind, names in NAMES.items():
        own = [setting for setting in peer.settings if setting in names]
        for flags in (names, [f"--{name}" for name in names]):
            hint = setting_hint(f"--{peer.name}" if flags is not names else peer.name, flags)
            assert "Did you mean" not in hint
            assert hint or not peer.settings
            assert peer.settings or hint.endswith(f" has no counterpart here, because {peer.note}.")
        if own:
            assert f"{own[0]!r}" in setting_hint(peer.name, names), kind
            assert f"'--{own[0]}'" in setting_hint(f"--{peer.name}", [f"--{name}" for name in names]), kind


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("beta", " TRL's 'beta' is 'algorithm.kl_coef' here: it goes with algorithm.kl."),
        ("algorithm.beta", " TRL's 'beta' is 'algorithm.kl_coef' here: it goes with algorithm.kl."),
        (
            "optimiser.beta",
            " Did you mean 'optimiser.betas'?",
        ),  # a slip of the pen, among settings of its own group
        ("optimiser.lr", " verl's 'actor_rollout_ref.actor.optim.lr' is 'optimiser.learning_rate' here."),
        ("--lr", " verl's 'actor_rollout_ref.actor.optim.lr' is '--optimiser.learning_rate' here."),
        ("--num-generations", " TRL's 'num_generations' is '--algorithm.group_size' here."),
        (
            "delta",
            " TRL's 'delta' is 'algorithm.dual_clip' here: it bounds the loss of tokens with a negative advantage.",
        ),
        (
            "actor_rollout_ref.actor.clip_ratio_c",
            " verl's 'actor_rollout_ref.actor.clip_ratio_c' is 'algorithm.dual_clip' here: it is off unless set; verl's is "
            "3.0.",
        ),
        (
            "run.logging_steps",
            " TRL's 'logging_steps' has no counterpart here, because metrics.jsonl has every round "
            "(every step in sft), and a terminal shows it.",
        ),
        (
            "--critic.optim.lr",
            " verl's 'critic.optim.lr' is '--critic.optimiser.learning_rate' here: of a critic with a model of its own; "
            "a head's is critic.head_learning_rate.",
        ),
        (
            "--vllm_mode",
            " TRL's 'vllm_mode' has no counterpart here, because answers are sampled in this process, by the "
            "weights that are trained; an engine of your own is `engine: file.py:name`.",
        ),
        (
            "--eval-strategy",
            " TRL's 'eval_strategy' is '--eval.every' here: a number of rounds (of steps in sft).",
        ),
        (
            "max_seq_length",
            " TRL's 'max_seq_length' is 'data.max_tokens' here, a setting of another command.",
        ),
        (
            "val_kwargs.n",
            " verl's 'val_kwargs.n' has no counterpart here, because held-out problems are answered "
            "as the group sampling says, and greedily.",
        ),
        ("--n_samples_per_prompt", " OpenRLHF's 'n_samples_per_prompt' is '--algorithm.group_size' here."),
        (
            "reward.custom_reward_function.path",
            " verl's 'custom_reward_function.path' is 'reward.functions' here: path/to/file.py:function.",
        ),
        ("actor_rollout_ref.rollout.trust_remote_code", " Did you mean 'model.trust_remote_code'?"),
        ("learning_rate", " Did you mean 'optimiser.learning_rate'?"),
        ("sampling.max_new_tokens", " Did you mean 'sampling.max_tokens'?"),
        ("nothing_like_it", ""),
    ],
)
def test_hints(name, hint):
    names = [f"--{known}" if name.startswith("--") else known for known in NAMES[RlConfig]]
    assert setting_hint(name, names) == hint


def test_a_name_means_what_the_command_can_do():
    assert "'run.completions_per_round'" in setting_hint("per_device_train_batch_size", NAMES[RlConfig])
    assert "'run.batch_size'" in setting_hint("per_device_train_batch_size", NAMES[SftConfig])
    assert setting_hint("num_generations", NAMES[SftConfig]) == (
        " TRL's 'num_generations' is 'algorithm.group_size' here, a setting of another command."
    )


def test_in_a_run_file_in_a_flag_and_in_python(tmp_path, capsys):
    values = {"model": "m", "data": "d.jsonl", "run": {"folder": "f"}}
    verl = {"actor": {"ppo_mini_batch_size": 8, "optim": {"lr": 1e-6}}, "rollout": {"n": 4}}
    with pytest.raises(ConfigError) as error:
        parse(RlConfig, {**values, "beta": 0.1, "actor_rollout_ref": verl})
    first, second = str(error.value).splitlines()
    assert first.startswith("beta: no such setting. TRL's 'beta' is 'algorithm.kl_coef' here")
    for setting in ("algorithm.minibatches", "optimiser.learning_rate", "algorithm.group_size"):
        assert repr(setting) in second
    assert main(["rl", "--num_generations", "4"]) == 2
    assert "TRL's 'num_generations' is '--algorithm.group_size' here." in capsys.readouterr().err
    with pytest.raises(ConfigError) as error:
        inspect.unwrap(ventaja.rl)(model="m", prompts=["a"], folder=tmp_path, beta=0.1)
    assert str(error.value) == (
        "beta: there is no such argument. TRL's 'beta' is 'algorithm.kl_coef' here: it goes with algorithm.kl. It is set "
        "as algorithm={'kl_coef': …}."
    )


def test_the_pages_example_is_a_run():
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope = {}
    exec(block, scope)  # noqa: S102 - our own page
    settings = {"model": "m", "data": "d", **scope["settings"]}
    config = parse(RlConfig, {**settings, "run": {"folder": "f", **settings["run"]}})
    assert not config.algorithm.resolve().needs_reference
    assert scope["brief"]([[{"role": "assistant", "content": "abc"}]]) == [0.25]
