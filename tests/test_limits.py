"""How large a class, a function and a module may be, read from the source itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from radon.metrics import mi_visit

PACKAGE = Path(__file__).parent.parent / "mvpnet"
SOURCES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(), name) for name, path in SOURCES.items()}

CLASS_LINES, CLASS_ATTRIBUTES, FUNCTION_LINES, LEAST_INDEX = 200, 15, 50, 20

# The data path alone: what moves frames stands together, where each call costs.
LARGE_CLASSES = {("dataplane/fabric.py", "Fabric"), ("dataplane/switch.py", "Switch")}
# MPI is started late, and in the ways that its errors ask for.
LATE_IMPORTS = {"mpi/world.py"}


def classes(tree: ast.Module) -> list[ast.ClassDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    """Without its docstring, which may tell of many arguments."""
    assert node.end_lineno and node.body[0].end_lineno
    docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
    return node.end_lineno - node.lineno + 1 - docstring


def attributes(node: ast.ClassDef) -> set[str]:
    """What its methods set on `self`."""
    return {
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute)
        and isinstance(one.ctx, ast.Store)
        and isinstance(one.value, ast.Name)
        and one.value.id == "self"
    }


def is_large(node: ast.ClassDef) -> bool:
    return lines(node) > CLASS_LINES or len(attributes(node)) > CLASS_ATTRIBUTES


@pytest.mark.parametrize("name", TREES)
def test_a_class_and_a_function_can_be_seen_at_once(name: str) -> None:
    large = {(name, node.name): (lines(node), len(attributes(node))) for node in classes(TREES[name]) if is_large(node)}
    long = {node.name: lines(node) for node in functions(TREES[name]) if lines(node) > FUNCTION_LINES}
    assert ({key: size for key, size in large.items() if key not in LARGE_CLASSES}, long) == ({}, {})


def test_what_may_be_large_is():
    found = {(name, node.name) for name in TREES for node in classes(TREES[name]) if is_large(node)}
    assert found == LARGE_CLASSES, "a class that is small again needs no leave"


@pytest.mark.parametrize("name", TREES)
def test_a_module_imports_at_its_top(name: str) -> None:
    """One import inside a function at most, where start-up time asks for it."""
    late = [
        node.lineno
        for function in functions(TREES[name])
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert len(set(late)) <= 1 or name in LATE_IMPORTS


@pytest.mark.parametrize("name", [name for name in TREES if not name.startswith("dataplane/")])
def test_a_module_can_be_kept_in_order(name: str) -> None:
    """Its maintainability index (Oman and Hagemeister, as radon counts it) is 20 of 100 at least."""
    assert mi_visit(SOURCES[name].read_text(), multi=True) >= LEAST_INDEX
