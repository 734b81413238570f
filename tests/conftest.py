"""What all tests share: mvpnet as a real job under mpiexec, a folder with a short path, and a watch for leaks.

Every test's children carry MVPNET_TEST_ID in their environment, whatever session or parent they end up with. When the
test is over, a process that still carries it is a leak: it is ended, and the test fails.

MVPNET_MPIEXEC in the environment, a command line, is the mpiexec to use instead of the one beside this Python
(tools/mpi-env.sh sets it).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import mpi4py
import pytest

import costs
import sharing
from support import Finished, Process, RunMvpnet, RunningJob, StartMvpnet, mpiexec_command, processes_marked

# A test module may import what imports MPI. Were MPI started here, the mpiexecs of the tests would inherit its
# environment and take themselves for part of this process's world: Open MPI's then ends with 1 and not a word.
mpi4py.rc.initialize = False

# How long an example takes is the machine's affair.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

MARK = "MVPNET_TEST_ID"
# Children are started by the thousand: none of them compiles mvpnet anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A script's background (`make test &`) ignores SIGINT, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

MARKERS = {"boot": "boot", "whole_jobs": "job", "hosts": "job", "slurm": "job"}
LEAK_DEADLINE_S = 30.0  # what the issue grants a killed job for cleaning up


def pytest_addoption(parser: pytest.Parser) -> None:
    costs.pytest_addoption(parser)


def pytest_configure(config: pytest.Config) -> None:
    costs.pytest_configure(config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return sharing.InGroups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole folders carry their markers by where they are."""
    here = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(here).parts[0]
        if marker := MARKERS.get(folder):
            item.add_marker(marker)


@pytest.fixture(autouse=True)
def leaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Process]]]:
    """The processes that the test started, or they in turn, and that live. Those left when the test ends fail it."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    registry = Path("/tmp") / f"mvr{mark[:12]}"  # the jobs of the test are listed there
    monkeypatch.setenv("MVPNET_REGISTRY", str(registry))

    def living() -> list[Process]:
        return processes_marked(f"{MARK}={mark}")

    yield living
    deadline = time.monotonic() + LEAK_DEADLINE_S
    while (left := living()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        process.kill()
    shutil.rmtree(registry, ignore_errors=True)
    assert not left, "processes are left over:\n" + "\n".join(map(str, left))


@pytest.fixture(autouse=True)
def in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as wide as in a pipe: pytest-xdist tells its workers, and they their children, a terminal's width."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder of the test's own whose path leaves room for socket names, of which Linux takes 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="mvt", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mpiexec() -> list[str]:
    """mpiexec and its options, to be followed by -n N PROGRAM…"""
    return mpiexec_command()


@pytest.fixture
def start_mvpnet(
    tmp_path: Path, short_dir: Path, mpiexec: list[str], leaks: Callable[[], list[Process]]
) -> Iterator[StartMvpnet]:
    """start_mvpnet(*args, ranks=2, stdin=DEVNULL, env={}, cwd=tmp_path) starts a job and gives its RunningJob.

    ranks=None runs mvpnet without mpiexec. `program` replaces [python, "-m", "mvpnet"]. The user's own configuration
    folder is out of sight, and TMPDIR is a folder of the test's. Still running at the test's end, it is killed.
    """
    with ExitStack() as stack:

        def start(
            *args: str,
            ranks: int | None = 2,
            stdin: int = subprocess.DEVNULL,
            env: Mapping[str, str] | None = None,
            cwd: Path = tmp_path,
            program: Sequence[str] = (sys.executable, "-m", "mvpnet"),
        ) -> RunningJob:
            outputs = Path(tempfile.mkdtemp(prefix="output", dir=short_dir.parent))
            stack.callback(shutil.rmtree, outputs, ignore_errors=True)
            launcher = [] if ranks is None else [*mpiexec, "-n", str(ranks)]
            surroundings = {"TMPDIR": str(short_dir), "XDG_CONFIG_HOME": str(outputs / "no-config")}
            with (outputs / "out").open("wb") as out, (outputs / "err").open("wb") as err:
                process = subprocess.Popen(
                    [*launcher, *program, *args],
                    stdin=stdin,
                    stdout=out,
                    stderr=err,
                    cwd=cwd,
                    env={**os.environ, **surroundings, **(env or {})},
                    start_new_session=True,
                )
            job = RunningJob(process, cwd, short_dir, outputs / "out", outputs / "err", leaks)
            stack.callback(job.close)
            return job

        yield start


@pytest.fixture
def run_mvpnet(start_mvpnet: StartMvpnet) -> RunMvpnet:
    """run_mvpnet(*args, ranks=2, timeout_s=120, …) runs a job to its end and gives its Finished."""

    def run(*args: str, timeout_s: float = 120.0, **how: Any) -> Finished:
        return start_mvpnet(*args, **how).finish(timeout_s)

    return run
