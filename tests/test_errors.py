"""Errors for people: the tree that errors.py draws is the one that there is, and a copy of an error keeps all of it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from mvpnet import errors
from mvpnet.errors import HostError, MvpnetError
from mvpnet.images.tiny.errors import INSTEAD, TinyBuildError

PACKAGE = Path(errors.__file__).parent
DRAWN = re.compile(r"^    (?P<branches>(?:[│ ]   )*(?:[├└]── )?)(?P<name>\w+) +(?P<code>\d+) +\S", re.MULTILINE)


def drawn_tree() -> dict[str, tuple[str | None, int]]:
    """Of each drawn class, by its name: the parent's name and the exit code."""
    tree: dict[str, tuple[str | None, int]] = {}
    above: list[str] = []
    for line in DRAWN.finditer(errors.__doc__ or ""):
        depth = len(line["branches"]) // 4
        del above[depth:]
        tree[line["name"]] = (above[-1] if above else None, int(line["code"]))
        above.append(line["name"])
    return tree


def all_below(parent: type[MvpnetError]) -> list[type[MvpnetError]]:
    return [parent, *(found for child in parent.__subclasses__() for found in all_below(child))]


def defined_classes() -> list[type[MvpnetError]]:
    """The root and all its subclasses in the package."""
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        importlib.import_module(".".join(parts).removesuffix(".__init__"))
    return [one for one in all_below(MvpnetError) if one.__module__.startswith("mvpnet.")]


def test_the_drawn_tree_is_whole() -> None:
    there = {
        one.__name__: (one.__base__.__name__ if one is not MvpnetError else None, one.exit_code)
        for one in defined_classes()
    }
    assert drawn_tree() == there


def test_names_end_in_error() -> None:
    assert [one.__name__ for one in defined_classes() if not one.__name__.endswith("Error")] == []


def test_a_message_stands_without_its_hint() -> None:
    error = HostError("no qemu", hint="install it")
    assert (error.message, error.hint, str(error)) == ("no qemu", "install it", "no qemu\n  hint: install it")
    assert str(HostError("no qemu")) == HostError("no qemu").message == "no qemu"


def test_an_exit_code_of_its_own() -> None:
    assert HostError("no qemu", exit_code=143).exit_code == 143
    assert HostError("no qemu").exit_code == HostError.exit_code == 3


@pytest.mark.parametrize("error", [HostError("no qemu", hint="install it", exit_code=143), TinyBuildError("no apt")])
def test_of_a_rank_all_else_stays(error: MvpnetError) -> None:
    told = error.of_rank(7)
    assert type(told) is type(error)
    assert told.message == f"rank 7: {error.message}"
    assert (told.hint, told.exit_code) == (error.hint, error.exit_code)
    assert not error.message.startswith("rank")


def test_a_refused_tiny_guest_says_what_to_use_instead() -> None:
    assert TinyBuildError("no apt").hint == INSTEAD
