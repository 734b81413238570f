"""Many cases of a body in one world: mpiexec is started once for all of them, not once for each.

A body (dataplane_body.py, fuzz_body.py) is given cases by name, and each rank says so when it is through with one. A
case that fails takes its world along: those behind it are run in another, unless several worlds got nowhere.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

CASE_TIMEOUT_S = 200.0  # for one case, beyond all that its own deadlines allow
MOST_WORLDS_IN_VAIN = 3  # one after another, no case through in any: a body that does not even start


class Worlds:
    """What came of each case: how it failed, with all that its world said, or None."""

    def __init__(self, mpiexec: Sequence[str]) -> None:
        self._mpiexec = mpiexec
        self._outcomes: dict[tuple[Path, int, str], str | None] = {}

    def check(self, body: Path, ranks: int, case: str, all_cases: Sequence[str]) -> None:
        """Fail as the case did. It is run with the others of `all_cases`, unless it has been."""
        if (body, ranks, case) not in self._outcomes:
            self._run(body, ranks, all_cases)
        if (failure := self._outcomes[body, ranks, case]) is not None:
            pytest.fail(failure, pytrace=False)

    def _run(self, body: Path, ranks: int, cases: Sequence[str]) -> None:
        left = list(cases)
        in_vain = 0
        failure = "its world was interrupted"
        try:
            while left and in_vain < MOST_WORLDS_IN_VAIN:
                code, out, err = self._run_one_world(body, ranks, left)
                in_vain += 1
                while left and out.count(through(left[0], ranks)) == ranks:
                    self._outcomes[body, ranks, left.pop(0)] = None
                    in_vain = 0
                if code or left:
                    failure = f"exit code {code}\n{out}{err}"
                    self._outcomes[body, ranks, left.pop(0) if left else cases[-1]] = failure
        finally:  # every case has an outcome then: no other test runs them all again
            self._outcomes |= {(body, ranks, case): failure for case in left}

    def _run_one_world(self, body: Path, ranks: int, cases: Sequence[str]) -> tuple[int, str, str]:
        program = [sys.executable, "-W", "error", "-m", "mpi4py", str(body), *cases]
        with tempfile.NamedTemporaryFile("w+") as out, tempfile.NamedTemporaryFile("w+") as err:
            command = [*self._mpiexec, "-n", str(ranks), *program]
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err) as process:
                try:
                    wait_while_it_says_more(process, Path(out.name))
                finally:  # also when pytest-timeout interrupts it
                    process.kill()
            said = (Path(file.name).read_text(errors="replace") for file in (out, err))
            return process.returncode, *said


def wait_while_it_says_more(process: subprocess.Popen[bytes], out: Path) -> None:
    """Until it ends, or has said nothing more for CASE_TIMEOUT_S."""
    size, since_s = 0, time.monotonic()
    while process.poll() is None and time.monotonic() - since_s < CASE_TIMEOUT_S:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
        if (now := out.stat().st_size) != size:
            size, since_s = now, time.monotonic()


def through(case: str, ranks: int) -> str:
    """What each rank prints (Body.run_cases)."""
    return f" of {ranks} is through {case}\n"


def same_world(request: pytest.FixtureRequest, test: str) -> list[str]:
    """The cases of all tests of this name, in this session, that run in worlds of as many ranks."""
    ranks = request.node.callspec.params["ranks"]
    tests = [item for item in request.session.items if getattr(item, "originalname", None) == test]
    return [case_name(item.callspec.params) for item in tests if item.callspec.params["ranks"] == ranks]


def case_name(params: dict[str, str]) -> str:
    return f"{params['kind']}:{params['case']}:{params['compiled']}"
