"""Shapes and types are checked here, and only here: the hook must come before the first import of ventaja."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # stated, so that processes of the tests' own keep to it too

import torch
from hypothesis import settings
from jaxtyping import install_import_hook

HOUSE = Path(__file__).parent.parent / "src" / "ventaja"
# numba compiles the kernels' own text, so nothing may be wrapped around them.
NOT_HERE = {"kernels", "__init__", "__main__", "__pycache__", "py"}
ROOMS = {path.stem for path in HOUSE.iterdir()} - NOT_HERE - {"cpu"}
ROOMS |= {f"cpu.{path.stem}" for path in (HOUSE / "cpu").iterdir() if path.stem not in NOT_HERE}
install_import_hook([f"ventaja.{room}" for room in sorted(ROOMS)], "beartype.beartype")

settings.register_profile("ventaja", deadline=None, derandomize=True)
settings.load_profile("ventaja")

torch.set_num_threads(1)  # tiny models gain nothing from more, and several test runs may share the cores


def pytest_terminal_summary(terminalreporter) -> None:
    """What was left out, and how to have it."""
    if shutil.which("chromium") is None:
        terminalreporter.write_line(
            "left out: the tests of the ranking page in a browser, for want of chromium (apt-get install chromium)"
        )
