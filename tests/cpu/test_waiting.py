"""How long torch's threads wait by spinning is said before torch is loaded, unless somebody has said it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "VENTAJA_CPU")


@pytest.mark.parametrize(
    ("first", "said", "expected"),
    [
        ("", {}, "2000"),
        ("import torch", {}, "None"),  # too late: it has read what was there
        ("", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("", {"OMP_WAIT_POLICY": "passive"}, "None"),
        ("", {"VENTAJA_CPU": "plain"}, "None"),
    ],
)
def test_when_it_is_said(first: str, said: dict[str, str], expected: str) -> None:
    place = {name: value for name, value in os.environ.items() if name not in NAMES} | said
    program = f"{first}\nimport os, ventaja; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=place, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected
