"""What each test file costs: seconds of wall clock and of CPU, and how many guests were booted or resumed.

`make test-costs` runs the tests with --costs=FILE and leaves a table there; docs/testing.md has one of this machine.
CPU is that of pytest and of all processes that a parent waited for (getrusage(2)), so qemu's too, unless a test kills
its parent. Guests are counted by looking for qemu in /proc twice a second, which misses one that lives for less: real
ones only, neither their stand-ins nor a qemu that is asked something.
"""

from __future__ import annotations

import os
import resource
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_MARK = "PYTEST_COST_WORKER"  # tells the guests of this pytest process from those of another that runs beside it
_LOOK_EVERY_S = 0.5


@dataclass
class Cost:
    """What one phase of a test cost, or the sum of several."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    booted: int = 0
    resumed: int = 0
    tests: int = 0

    def add(self, other: Cost) -> None:
        self.wall_s += other.wall_s
        self.cpu_s += other.cpu_s
        self.booted += other.booted
        self.resumed += other.resumed
        self.tests += other.tests


class GuestCount(threading.Thread):
    """Counts the qemus that this pytest process starts."""

    def __init__(self) -> None:
        super().__init__(name="guest count", daemon=True)
        self.booted = 0
        self.resumed = 0
        os.environ[_MARK] = uuid.uuid4().hex
        self._mark = f"{_MARK}={os.environ[_MARK]}"
        self._seen: set[tuple[str, bytes]] = set()

    def run(self) -> None:
        while True:
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):  # it ended meanwhile
                    self._look_at(folder)
            time.sleep(_LOOK_EVERY_S)

    def _look_at(self, folder: Path) -> None:
        if not (folder / "comm").read_bytes().startswith(b"qemu-system"):
            return
        started = (folder / "stat").read_bytes().rsplit(b")", 1)[1].split()[19]  # a number is given again: proc(5)
        arguments = (folder / "cmdline").read_bytes().split(b"\0")
        # For its version or devices, or whether it takes a command line (-S: its CPU stands still); no guest.
        asked = b"-device" not in arguments or b"help" in arguments
        asked |= b"-S" in arguments and b"-incoming" not in arguments
        ours = self._mark.encode() in (folder / "environ").read_bytes().split(b"\0")
        if ours and not asked and (folder.name, started) not in self._seen:
            self._seen.add((folder.name, started))
            if b"-incoming" in arguments:
                self.resumed += 1
            else:
                self.booted += 1


@dataclass(eq=False)  # pytest puts plugins into sets
class Meter:
    """In the process that runs tests: puts on every report what has been spent since the one before."""

    guests: GuestCount = field(default_factory=GuestCount)
    _spent: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        self.guests.start()

    def _so_far(self) -> Cost:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu_s = sum(one.ru_utime + one.ru_stime for one in used)
        return Cost(time.monotonic(), cpu_s, self.guests.booted, self.guests.resumed)

    def pytest_collection_finish(self) -> None:
        self._spent = self._so_far()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        now, before = self._so_far(), self._spent
        self._spent = now
        report.cost = [  # type: ignore[attr-defined]
            call.duration,
            now.cpu_s - before.cpu_s,
            now.booted - before.booted,
            now.resumed - before.resumed,
            int(call.when == "setup"),
        ]
        return report


@dataclass(eq=False)
class Table:
    """In the process that prints: the sum a file, and at the end the table."""

    file: Path
    costs: dict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    started: float = field(default_factory=time.monotonic)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if cost := getattr(report, "cost", None):
            self.costs[report.location[0]].add(Cost(*cost))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        self.file.write_text(self.text())
        terminalreporter.write_line(f"what each file cost is in {self.file}")

    def text(self) -> str:
        whole = Cost()
        for cost in self.costs.values():
            whole.add(cost)
        lines = ["| file | tests | wall s | CPU s | booted | resumed |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
        rows = sorted(self.costs.items(), key=lambda row: -row[1].wall_s)
        for name, cost in [*rows, ("all", whole)]:
            numbers = f"{cost.tests} | {cost.wall_s:.1f} | {cost.cpu_s:.1f} | {cost.booted} | {cost.resumed}"
            lines.append(f"| {name} | {numbers} |")
        return "\n".join([*lines, f"\nThe whole run took {time.monotonic() - self.started:.0f} s.\n"])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--costs", metavar="FILE", help="write a table of what each test file cost to this file")


def pytest_configure(config: pytest.Config) -> None:
    if not (file := config.getoption("--costs")):
        return
    a_worker = hasattr(config, "workerinput")  # of pytest-xdist's
    if a_worker or not config.getoption("numprocesses", None):
        config.pluginmanager.register(Meter(), "cost meter")
    if not a_worker:
        config.pluginmanager.register(Table(Path(file)), "cost table")
