"""Many cases of a body in one world: mpiexec is started once for all of them, not once for each.

A body (dataplane_body.py, fuzz_body.py) is given cases by name, and each rank says so when it is through with one. A
case that fails takes its world along: those behind it are run in another.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

CASE_TIMEOUT_S = 200.0  # for one case, beyond all that its own deadlines allow


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
        while left:
            code, out, err = self._run_one_world(body, ranks, left)
            while left and out.count(through(left[0], ranks)) == ranks:
                self._outcomes[body, ranks, left.pop(0)] = None
            if code or left:
                case = left.pop(0) if left else cases[-1]
                self._outcomes[body, ranks, case] = f"exit code {code}\n{out}{err}"

    def _run_one_world(self, body: Path, ranks: int, cases: Sequence[str]) -> tuple[int, str, str]:
        program = [sys.executable, "-W", "error", "-m", "mpi4py", str(body), *cases]
        with tempfile.NamedTemporaryFile("w+") as out, tempfile.NamedTemporaryFile("w+") as err:
            command = [*self._mpiexec, "-n", str(ranks), *program]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
            size, since_s = 0, time.monotonic()
            while process.poll() is None:
                try:
                    process.wait(0.1)
                except subprocess.TimeoutExpired:
                    if (now := Path(out.name).stat().st_size) != size:
                        size, since_s = now, time.monotonic()
                    elif time.monotonic() - since_s > CASE_TIMEOUT_S:
                        process.kill()
            return process.wait(), Path(out.name).read_text(), Path(err.name).read_text(errors="replace")


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
