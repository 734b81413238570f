"""Verbs that are imported when they are run, and what is told of them before."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

from mvpnet.cli.image import image
from mvpnet.cli.lazy import LazyCommand, LazyGroup
from mvpnet.cli.main import verbs

HEAVY = ("hydra", "omegaconf", "rich", "requests", "pooch", "pycdlib", "yaml", "qemu.qmp", "mpi4py.MPI")
GROUPS = {"mvpnet": verbs, "mvpnet image": image}


def placeholders() -> list[tuple[LazyGroup, str]]:
    return [(group, name) for group in GROUPS.values() if isinstance(group, LazyGroup) for name in group.lazy]


@pytest.mark.parametrize(("group", "name"), placeholders(), ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("limit", [20, 45, 80, 1000])
def test_a_list_says_of_a_verb_what_the_verb_says_of_itself(group: LazyGroup, name: str, limit: int) -> None:
    own = group.lazy[name].load()
    assert group.commands[name].get_short_help_str(limit) == own.get_short_help_str(limit) != ""
    assert (own.name, own.hidden, own.deprecated) == (name, False, False)


def modules_loaded(argv: list[str], environ: dict[str, str]) -> tuple[str, str]:
    """What this command line prints, and which of the heavy modules it imports."""
    program = (
        f"import sys\nfrom mvpnet.__main__ import run\ncode = run({argv})\n"
        f"print(code, [m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environ, capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


COMPLETE = {"_MVPNET_COMPLETE": "zsh_complete", "COMP_WORDS": "mvpnet ", "COMP_CWORD": "1"}


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        pytest.param(["help"], {}, id="help"),
        pytest.param(["help", "--help"], {}, id="help of help"),
        pytest.param([], COMPLETE, id="completion"),
        pytest.param(["image", "--help"], {}, id="help of a group"),
        pytest.param(["--version"], {}, id="version"),
    ],
)
def test_lists_of_verbs_import_no_verb(argv: list[str], environ: dict[str, str]) -> None:
    shown, loaded = modules_loaded(argv, environ)
    assert loaded == "0 []\n"
    if argv == ["help"] or environ:
        assert all(name in shown for name in verbs.commands)


@pytest.mark.parametrize("name", ["ls", "status", "stop", "save", "diff", "bench", "replay"])
def test_verbs_without_overrides_import_no_hydra_and_no_mpi(name: str) -> None:
    _, loaded = modules_loaded([name, "--help"], {})
    assert not {"hydra", "omegaconf", "requests", "mpi4py.MPI"} & set(loaded.split("'"))


def test_a_name_that_is_no_verb_is_refused() -> None:
    group = LazyGroup("words", lazy={"plan": LazyCommand("mvpnet.cli.plan", "plan", "Plan.")})
    with pytest.raises(click.UsageError, match="No such command 'plann'"):
        group.main(["plann"], standalone_mode=False)
