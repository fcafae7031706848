"""The page on rankings is as it says."""

import re
from pathlib import Path

import pytest

from ventaja import yaml
from ventaja.cli.fields import settings_of
from ventaja.training import SampleConfig, parse

PAGE = (Path(__file__).parents[2] / "docs" / "rankings.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [line] = blocks("json")
    Path("soup.jsonl").write_text(line)
    scope: dict[str, object] = {}
    assert len(blocks("python")) == 3
    for block in blocks("python"):
        exec(block, scope)  # noqa: S102


def test_the_run_file_is_valid_and_flags_exist() -> None:
    [text] = blocks("yaml")
    config = parse(SampleConfig, yaml.read(text).value)
    assert config.shares == (2, 2, 2)
    assert [(one.model, one.temperature) for one in config.chosen_candidates] == [
        ("smollm2-135m", 0.7),
        ("smollm2-135m", 1.2),
        ("runs/polite", 1.0),
    ]
    flags = {setting.name for setting in settings_of(SampleConfig)} | {"model", "data"}
    commands = re.findall(r"^    ventaja sample .*$", PAGE, re.MULTILINE)
    assert len(commands) == 4
    for flag in re.findall(r"--([a-z_.]+)", "\n".join(commands)):
        assert flag in flags, flag
