"""docs/reliability.md and docs/security.md name the tests that prove what they say: each of them exists."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
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
    named = NAMED.findall(row.split("|")[6])
    assert named, "a row that nothing proves"
    assert missing(named) == []


@pytest.mark.parametrize("page", ["reliability", "security"])
def test_a_page_names_tests_that_exist(page):
    named = NAMED.findall((ROOT / f"docs/{page}.md").read_text())
    assert len(named) > 20
    assert missing(named) == []


def missing(named):
    """Those that no file has."""
    return [f"{path}::{test}" for path, test in named if test not in functions_in(ROOT / path)]


@functools.cache
def functions_in(path):
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
