"""The page on algorithms runs as it is written, and its table is the code's."""

import re
from pathlib import Path

from ventaja import yaml
from ventaja.training.algorithms import Algorithm
from ventaja.training.config import AlgorithmConfig
from ventaja.training.parts import KINDS
from ventaja.training.trial import check_parts

PAGE = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text(encoding="utf-8")


def test_every_block_runs(tmp_path, monkeypatch):
    scope: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(block, scope)  # noqa: S102 - our own page
    own = [value for value in scope.values() if isinstance(value, Algorithm)]
    assert len(own) >= 3
    for algorithm in own:
        check_parts(algorithm)
    monkeypatch.chdir(tmp_path)
    [own_loss] = [block for block in blocks if "def quadratic" in block]
    (tmp_path / "losses.py").write_text(own_loss.split("SPO =")[0])
    [run_file] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    algorithm = AlgorithmConfig(**yaml.read(run_file).value["algorithm"]).resolve()
    assert algorithm.surrogate == "losses.py:quadratic"


def test_the_table_says_what_can_be_asked_for():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    assert [kind for kind, _, _ in rows] == list(KINDS)
    for kind, asks, _ in rows:
        assert re.findall(r"`(\w+)`", asks) == list(KINDS[kind].given)


def test_the_page_about_a_broken_part_is_one():
    [text] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    template = (Path(__file__).parent / "test_own_parts.py").read_text(encoding="utf-8")
    for line in text.splitlines()[1:]:
        assert line in template
