"""Help, the page of settings, and the table of algorithms say what the code does."""

from dataclasses import replace
from pathlib import Path

import pytest

from ventaja import yaml
from ventaja.cli import main
from ventaja.cli.algorithms import COLUMNS
from ventaja.cli.fields import SHORT_FORMS, as_text, settings_of
from ventaja.cli.rank import RankConfig
from ventaja.cli.reference import reference
from ventaja.training import ALGORITHMS
from ventaja.training.config import EvaluationConfig, RlConfig, SftConfig, setting_names
from ventaja.training.ranking_config import DpoConfig, RewardModelConfig
from ventaja.training.sampling_config import SampleConfig

KINDS = {
    "rl": RlConfig,
    "sft": SftConfig,
    "reward": RewardModelConfig,
    "dpo": DpoConfig,
    "eval": EvaluationConfig,
    "sample": SampleConfig,
    "rank": RankConfig,
}


def help_of(command, capsys, monkeypatch, columns="100"):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", KINDS)
def test_help_has_every_setting(command, capsys, monkeypatch):
    text = help_of(command, capsys, monkeypatch)
    settings = list(settings_of(KINDS[command]))
    assert all(f"--{setting.name}" in text for setting in settings)
    # Nothing that the config knows is forgotten: groups are titles, all else is a flag or an entry of a list.
    names = {each.name.replace("[]", "") for s in settings for each in (s, *s.entries)}
    for name in setting_names(KINDS[command]):
        is_group = any(other.startswith(f"{name}.") for other in names)
        assert name in names or f"\n{name}:\n" in text or ("." in name and is_group)


def test_help_fits_the_screen(capsys, monkeypatch):
    for columns in ("80", "120"):
        text = help_of("rl", capsys, monkeypatch, columns)
        assert max(len(line) for line in text.splitlines()) <= int(columns)


def test_help_says_type_choices_limits_and_default(capsys, monkeypatch):
    text = " ".join(help_of("rl", capsys, monkeypatch).split())
    assert "--model, --model.name TEXT A short name" in text
    assert "One of constant, linear, cosine. (default: constant)" in text
    assert "--optimiser.learning_rate NUMBER Highest learning rate. (> 0; default: 1e-5)" in text
    assert "(default: [tensorboard])" in text
    assert "Each may set function, name, weight, options, steps." in text
    assert "a YAML list such as '[a, b]'" in text


def test_help_of_every_command(capsys, monkeypatch):
    for command in ("chat", "report", "algorithms"):
        assert help_of(command, capsys, monkeypatch).startswith(f"usage: ventaja {command}")


def test_short_forms_are_the_configs():
    for group, setting in SHORT_FORMS.items():
        values = RlConfig._short_forms({group: "x"})
        assert values == {group: {setting: "x"}}
        assert RlConfig._short_forms({group: ["x"]}) == {group: {setting: ["x"]}}
    assert RlConfig._short_forms({"run": "x"}) == {"run": "x"}


def test_defaults_are_written_as_a_run_file_reads_them():
    for value in (1e-5, 0.0, 1.0, 0.999, 3, True, None, "auto", [0.9, 0.999], {"a": 1e-7}, [], {}):
        assert yaml.read(as_text(value)).value == value


def test_the_committed_page_of_settings_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text(encoding="utf-8") == reference(), (
        "run: python -m ventaja.cli.reference > docs/configuration.md"
    )


def test_algorithms_for_a_terminal(capsys):
    assert main(["algorithms"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [dapo] = [line for line in lines if line.strip().startswith("dapo")]
    assert " ".join(dapo.split()) == (
        "dapo sequence group_mean group_std token clipped ε 0.2/0.28 token_mean none 0 8 × 1 × 4, dynamic "
        "arXiv:2503.14476"
    )


def test_algorithms_in_markdown(capsys):
    assert main(["algorithms", "--markdown"]) == 0
    header, rule, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("| algorithm | credit | baseline |")
    assert rule.count("---") == header.count("|") - 1
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in ALGORITHMS]
    assert "| reward · k1 · 0.05 |" in rows[1]  # RLOO: β in the reward


def test_the_table_shows_the_parts_that_no_row_has():
    dapo = replace(ALGORITHMS["dapo"], dual_clip=3.0, max_approx_kl=0.05)
    assert COLUMNS["surrogate"](dapo) == "clipped ε 0.2/0.28, c 3"
    assert COLUMNS["group × epochs × minibatches"](dapo) == "8 × 1 × 4, dynamic, approx_kl ≤ 0.05"
    # CISPO's bounds, whose upper one others call ε
    assert COLUMNS["surrogate"](ALGORITHMS["cispo"]) == "detached_clamp 0 ≤ r ≤ 5"
