"""docs/reliability.md names the test that proves each of its rows: each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = [
    line
    for line in (ROOT / "docs/reliability.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| what happens"))
]


def test_there_is_a_table():
    assert len(ROWS) > 20


@pytest.mark.parametrize("row", ROWS, ids=[row.split("|")[1].strip()[:40] for row in ROWS])
def test_each_row_names_tests_that_exist(row):
    assert row.count("|") == 7, "six columns"
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row.split("|")[6])
    assert named, "a row that nothing proves"
    for path, test in named:
        tree = ast.parse((ROOT / path).read_text())
        assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, f"{path}::{test}"
