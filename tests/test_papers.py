"""The table of papers names what exists, and everything that exists."""

import re
from pathlib import Path

import ventaja.functional

TABLE = (Path(__file__).parent.parent / "docs" / "papers.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)\.(\w+)` \|", TABLE, re.MULTILINE)


def test_every_function_in_the_table_is_where_it_says():
    for module, name in ROWS:
        function = getattr(ventaja.functional, name)
        assert function is getattr(getattr(ventaja.functional, module), name)
        assert function.__module__ == f"ventaja.functional.{module}"


def test_every_public_name_is_in_the_table_once():
    names = [name for _, name in ROWS]
    assert sorted(names) == sorted(ventaja.functional.__all__)


def test_every_public_function_has_a_docstring_that_cites_what_the_table_cites():
    for line in TABLE.splitlines():
        if row := re.match(r"\| `\w+\.(\w+)` \|", line):
            docstring = getattr(ventaja.functional, row[1]).__doc__
            for number in re.findall(r"\[(\d{4}\.\d{5})\]", line):
                assert number in docstring, f"{row[1]} does not cite {number}"
