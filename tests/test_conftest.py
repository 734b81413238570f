"""The tests' own tools: a leak is seen, a job is ended with all its children, and exit codes are as a shell's."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpi.worlds import Worlds
from support import Process, poll_until

DETACHED_CHILD = """
import subprocess, sys
child = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, start_new_session=True)
if sys.argv[1:] == ["wait"]:
    child.wait()
"""


@pytest.fixture
def sleeper(leaks: Callable[[], list[Process]]) -> Iterator[None]:
    """A process whose parent is gone and whose session is its own, as a leaked qemu would be."""
    subprocess.run([sys.executable, "-c", DETACHED_CHILD], check=True, stdout=subprocess.DEVNULL)
    yield
    for process in leaks():
        process.kill()


@pytest.mark.usefixtures("sleeper")
def test_a_detached_child_is_seen(leaks):
    """Not at once: a process that has just been started has no environment yet that could be read."""
    poll_until(lambda: [process.command.strip() for process in leaks()] == ["sleep 600"], 30, "the child to be seen")


@pytest.mark.mpi
def test_a_job_still_running_is_killed_with_its_detached_children(start_mvpnet):
    job = start_mvpnet("wait", program=[sys.executable, "-c", DETACHED_CHILD])
    poll_until(lambda: len(job.processes("sleep 600")) == 2, 60, "a child of each rank")
    job.close()


@pytest.mark.mpi
def test_ranks_know_each_other(run_mvpnet):
    program = "from mpi4py import MPI; c = MPI.COMM_WORLD; assert c.allreduce(1) == 3 and c.size == 3"
    finished = run_mvpnet(ranks=3, program=[sys.executable, "-c", program])
    assert finished.code == 0, finished


BODY = """
import sys
from mpi4py import MPI
world = MPI.COMM_WORLD
for case in sys.argv[1:]:
    assert case != "bad", "that is how it is"
    sys.stdout.write(f"rank {world.rank} of {world.size} is through {case}\\n")
    sys.stdout.flush()
    world.Barrier()
"""


@pytest.mark.mpi
def test_a_case_that_fails_takes_none_of_its_world_along(mpiexec: list[str], tmp_path: Path) -> None:
    body = tmp_path / "body.py"
    body.write_text(BODY)
    worlds, cases = Worlds(mpiexec), ["first", "bad", "second", "third"]
    for case in ("third", "first", "second"):
        worlds.check(body, 2, case, cases)
    with pytest.raises(pytest.fail.Exception, match="that is how it is"):
        worlds.check(body, 2, "bad", cases)


def test_exit_codes_are_a_shells(start_mvpnet):
    assert start_mvpnet(ranks=None, program=["sh", "-c", "exit 7"]).finish().code == 7
    job = start_mvpnet(ranks=None, program=["sleep", "600"])
    job.signal(signal.SIGTERM)
    assert job.finish().code == 128 + signal.SIGTERM


def test_a_job_that_does_not_end_is_told_with_its_output(start_mvpnet):
    job = start_mvpnet(ranks=None, program=["sh", "-c", "echo so far; exec sleep 600"])
    job.wait_for("so far")
    with pytest.raises(AssertionError, match=r"(?s)did not end in 0\.1 s.*so far"):
        job.finish(timeout_s=0.1)
    with pytest.raises(AssertionError, match="waited"):
        job.wait_for("never said", timeout_s=0.1)
