"""The page on rewards runs as it is written."""

import re
from pathlib import Path

from ventaja.environments import _worker

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"


def test_every_block_runs():
    text = PAGE.read_text(encoding="utf-8")
    namespace: dict[str, object] = {}
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    assert len(blocks) > 5
    for block in blocks:
        above = "\n" * text.count("\n", 0, block.start(1))  # so that a traceback names the page's line
        exec(compile(above + block[1], str(PAGE), "exec"), namespace)  # noqa: S102 - our own page
    _worker.close_workers()
