#!/usr/bin/env python3
"""Say where test files assert another number of things now than in a commit, and which assertions are gone.

    tools/assertions.py COMMIT

Counted are `assert` statements and `pytest.raises` (and `warns`, `fail`) in tests/**/*.py. An assertion is gone when
its text, as Python's own unparser writes it, stands in fewer places of the whole tree than before. Both are Markdown.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_OF_PYTEST = ("pytest.raises", "pytest.warns", "pytest.fail")


def git(*words: str) -> str:
    return subprocess.run(["git", *words], stdout=subprocess.PIPE, text=True, check=True).stdout


def files_of(commit: str) -> dict[str, str]:
    names = git("ls-tree", "-r", "--name-only", commit, "tests").splitlines()
    return {name: git("show", f"{commit}:{name}") for name in names if name.endswith(".py")}


def files_now() -> dict[str, str]:
    return {str(path): path.read_text() for path in sorted(Path("tests").rglob("*.py"))}


def assertions(source: str) -> Counter[str]:
    return Counter(_found(ast.parse(source)))


def _found(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            yield f"assert {ast.unparse(node.test)}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in _OF_PYTEST:
            yield ast.unparse(node)


def tests_in(source: str) -> int:
    """Test functions, whatever their number of parameters."""
    return sum(
        isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in ast.walk(ast.parse(source))
    )


def table(before: dict[str, str], now: dict[str, str]) -> Iterator[str]:
    yield "| file | test functions before | now | assertions before | now |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    totals = [0, 0, 0, 0]
    for name in sorted(before.keys() | now.keys()):
        sources = before.get(name, ""), now.get(name, "")
        row = [*map(tests_in, sources), *(assertions(source).total() for source in sources)]
        totals = [total + number for total, number in zip(totals, row, strict=True)]
        if row[0] != row[1] or row[2] != row[3]:
            yield f"| {name} | {' | '.join(map(str, row))} |"
    yield f"| all | {' | '.join(map(str, totals))} |"


def gone(before: dict[str, str], now: dict[str, str]) -> Iterator[str]:
    had_by_file = {name: assertions(source) for name, source in before.items()}
    had = sum(had_by_file.values(), Counter())
    have = sum(map(assertions, now.values()), Counter())
    for text, count in sorted((had - have).items()):
        places = [name for name, texts in had_by_file.items() if text in texts]
        yield f"- {count} of {had[text]} × `{text}` in {', '.join(places)}"


def main(words: list[str]) -> int:
    if len(words) != 1 or words[0].startswith("-"):
        print("usage: tools/assertions.py COMMIT", file=sys.stderr)
        return 2
    os.chdir(Path(__file__).parent.parent)
    try:
        before, now = files_of(words[0]), files_now()
    except subprocess.CalledProcessError as error:  # git has said why
        return int(error.returncode)
    print("\n".join(table(before, now)))
    print("\nGone:\n")
    print("\n".join(gone(before, now)) or "nothing")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
