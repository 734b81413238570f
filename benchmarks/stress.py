"""What one guest does to the others: guests that stop reading, floods of many kinds, and who loses what.

    .venv/bin/mpiexec -n 4 .venv/bin/python -m mpi4py benchmarks/stress.py [--link dgram] [--stopped 30] [CASE ...]

Runs on at least four ranks of one machine, with the guests of `mvpnet bench`. Each case starts afresh, and ends with a
frame from everybody to everybody. Told are, for each case, what was sent, what came, the round trips of the pair that
only wants its peace, what each rank dropped and why, and the most memory that each rank had (VmHWM of proc(5)).
tests/mpi/test_stress.py asserts what has to hold on any machine, however slow.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mvpnet.bench.messages import Flood, Ping, ReportCounts, Reset
from mvpnet.bench.node import Node
from mvpnet.mpi.world import World
from mvpnet.runtime.signals import StopSignals
from mvpnet.spec.schema import Net, NetKind

Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Stress:
    """One case on rank 0: its node, and the process ids of all guests."""

    node: Node
    guests: list[int]
    seconds: float
    stopped_s: float

    # ── cases ────────────────────────────────────────────────────────────────────────────────────────────────────

    def stopped_guest(self) -> Result:
        """Guest 1 stops, as by SIGSTOP to qemu, while guest 0 floods it and 2 and 3 go on; then it comes back."""
        self.reset()
        quiet = self.do({2: ping(3, self.seconds)})[2]
        os.kill(self.guests[1], signal.SIGSTOP)
        try:
            answers = self.do({0: flood([1], self.stopped_s), 2: ping(3, self.stopped_s)})
        finally:
            os.kill(self.guests[1], signal.SIGCONT)
        came = self.settled()
        self.reset()
        again = self.do({0: flood([1], self.seconds)})[0]
        after = self.settled()
        return {
            "sent_while_stopped": answers[0]["sent"],
            "came_of_it": came[1]["frames"],
            "sent_after": again["sent"],
            "came_after": after[1]["frames"],
            **pings(quiet, answers[2]),
        }

    def three_to_one(self) -> Result:
        """Guests 1, 2 and 3 flood guest 0."""
        self.reset()
        answers = self.do({rank: flood([0], self.seconds) for rank in (1, 2, 3)})
        came = self.settled()[0]
        return {
            "sent": sum(answer["sent"] for answer in answers.values()),
            "came": came["frames"],
            "frames_per_s": came["timed_frames"] / came["seconds"],
        }

    def flood_beside_pings(self) -> Result:
        """Guest 0 floods guest 1 while 2 and 3 have round trips."""
        self.reset()
        quiet = self.do({2: ping(3, self.seconds)})[2]
        answers = self.do({0: flood([1], self.seconds), 2: ping(3, self.seconds)})
        return {"sent": answers[0]["sent"], "came": self.settled()[1]["frames"], **pings(quiet, answers[2])}

    def broadcast(self) -> Result:
        """Guest 0 floods all with broadcasts while 2 and 3 have round trips."""
        self.reset()
        quiet = self.do({2: ping(3, self.seconds)})[2]
        answers = self.do({0: flood(None, self.seconds), 2: ping(3, self.seconds)})
        came = self.settled()
        return {
            "sent": answers[0]["sent"],
            "came": {rank: came[rank]["frames"] for rank in (1, 2, 3)},
            **pings(quiet, answers[2]),
        }

    def ten_thousand(self) -> Result:
        """Guest 0 sends to ten thousand ranks in turn, of which few exist: more than any rank remembers."""
        self.reset()
        sent = 0
        for ranks in (range(1, 5000), range(5000, 10000)):
            sent += self.do({0: flood(list(ranks), self.seconds / 2)})[0]["sent"]
        came = self.settled()
        return {"sent": sent, "came": sum(came[rank]["frames"] for rank in came if rank)}

    # ── steps ────────────────────────────────────────────────────────────────────────────────────────────────────

    def do(self, orders: dict[int, Flood | Ping]) -> dict[int, Result]:
        answers = self.node.ask(orders, max(order.seconds for order in orders.values()))
        return {rank: dataclasses.asdict(answer.outcome) for rank, answer in answers.items()}

    def reset(self) -> None:
        self.node.ask_all(Reset())

    def settled(self) -> dict[int, Result]:
        """The reports of all guests, once nothing has come anywhere for half a second."""
        came, came_at_s = -1, time.monotonic()
        while True:
            answers = self.node.ask_all(ReportCounts())
            reports = {rank: dataclasses.asdict(answer.outcome) for rank, answer in answers.items()}
            frames = sum(report["frames"] for report in reports.values())
            if frames != came:
                came, came_at_s = frames, time.monotonic()
            elif time.monotonic() - came_at_s > 0.5:
                return reports
            self.node.wait(0.05)

    def pairs_reached(self, size: int) -> int:
        """One frame from each to each other; how many came."""
        self.reset()
        others = {rank: [other for other in range(size) if other != rank] for rank in range(size)}
        self.do({rank: flood(to, 0.0) for rank, to in others.items()})
        return sum(report["sources"] for report in self.settled().values())


def flood(to: list[int] | None, seconds: float) -> Flood:
    return Flood(to, 1514, seconds)


def ping(to: int, seconds: float) -> Ping:
    return Ping(to, 64, seconds, gap_s=0.001)


def pings(quiet: Result, disturbed: Result) -> Result:
    """Round trips 1 ms apart, without and with what the case is about."""
    names = ("pings", "lost", "p50_us", "p99_us")
    return {
        "quiet": {name: quiet[name] for name in names},
        "disturbed": {name: disturbed[name] for name in names},
        "p99_ratio": disturbed["p99_us"] / quiet["p99_us"] if disturbed["p99_us"] and quiet["p99_us"] else None,
    }


CASES = {case.__name__: case for case in (
    Stress.stopped_guest, Stress.three_to_one, Stress.flood_beside_pings, Stress.broadcast, Stress.ten_thousand
)}  # fmt: skip


def run(world: World, net: Net, seconds: float, stopped_s: float, case: Callable[[Stress], Result]) -> Result:
    """One case, on every rank; its result on rank 0."""
    node = Node(world, StopSignals(), net)
    guests = world.allgather(node.guest.pid)
    result: Result = {}
    if world.rank == 0:
        stress = Stress(node, guests, seconds, stopped_s)
        try:
            result = case(stress)
            result["pairs_reached"] = stress.pairs_reached(world.size)
        finally:
            node.end()
    else:
        node.follow()
    node.close()
    facts = world.allgather((dict(node.switch.counters.drops), peak_mb()))
    return {**result, "drops": [drops for drops, _ in facts], "peak_mb": [mb for _, mb in facts]}


def peak_mb() -> float:
    """The most resident memory of this process so far."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


@click.command()
@click.option("--link", type=click.Choice([kind.name for kind in NetKind]), default="stream", show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="of each flood")
@click.option("--stopped", "stopped_s", default=30.0, show_default=True, help="seconds that a guest is stopped for")
@click.argument("cases", nargs=-1, type=click.Choice(list(CASES)))
def main(link: str, seconds: float, stopped_s: float, cases: tuple[str, ...]) -> None:
    world = World.start()
    if world.size < 4:
        raise click.UsageError("start it on four ranks or more")
    net = dataclasses.replace(Net(), kind=NetKind[link])
    for name in cases or CASES:
        result = run(world, net, seconds, stopped_s, CASES[name])
        if world.rank == 0:
            sys.stdout.write(json.dumps({"case": name, "link": link, "ranks": world.size, **result}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(standalone_mode=False)
