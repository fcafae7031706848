"""Run files and config.yaml: what they say, where, and what is no YAML."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ventaja import yaml

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), PLAIN, max_size=4))
def test_what_is_written_is_read_again(values: dict) -> None:
    assert yaml.read(yaml.written(values)).value == values


def test_plain_values_are_those_of_version_1_2() -> None:
    text = "[1e-5, 1.0e-05, no, on, 1:30, 010, 0o10, 0x1F, 2001-01-01, =, ~, True, .inf]"
    assert yaml.read(text).value == [
        1e-5, 1e-5, "no", "on", "1:30", 10, 8, 31, "2001-01-01", "=", None, True, math.inf,
    ]  # fmt: skip


def test_readers_of_version_1_1_read_the_same() -> None:
    # Version 1.1 takes 1e-05 for text, as there a number with an exponent has a point, and no for false.
    text = yaml.written({"learning_rate": 1e-5, "betas": [1e20, 0.5], "prompt": "No"})
    assert text == 'learning_rate: 1.0e-05\nbetas:\n- 1.0e+20\n- 0.5\nprompt: "No"\n'


def test_every_entry_has_its_line() -> None:
    text = "a: 1\nb:\n  c:\n  - x\n  - d: 2\nx: &x {y: 1}\nz: {<<: *x, w: 2}\nv: *x\n"
    value, lines = yaml.read(text)
    assert value == {
        "a": 1, "b": {"c": ["x", {"d": 2}]}, "x": {"y": 1}, "z": {"y": 1, "w": 2}, "v": {"y": 1},
    }  # fmt: skip
    assert lines == {
        "a": 1, "b": 2, "b.c": 3, "b.c.0": 4, "b.c.1": 5, "b.c.1.d": 5, "x": 6, "x.y": 6, "z": 7, "z.w": 7, "v": 8,
    }  # fmt: skip


def test_aliases_that_stand_for_a_billion_values_are_refused() -> None:
    rows = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(
        yaml.NotYaml, match=r"^6: this is not valid YAML: its aliases stand for more than 100000"
    ):
        yaml.read("\n".join(["a0: &a0 1", *rows]))
    many = list(range(yaml.MOST_VALUES + 1))
    assert yaml.read(str(many)).value == many  # as many, but each written out


@pytest.mark.parametrize(
    "text", ["a: !!python/object/apply:os.system [ls]", "a: !mine 3", "? [a]\n: &x {b: *x}"]
)
def test_nothing_but_plain_values(text: str) -> None:
    with pytest.raises(yaml.NotYaml):
        yaml.read(text)
