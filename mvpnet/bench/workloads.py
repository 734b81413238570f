"""Workloads of `mvpnet bench`, step by step. They run on rank 0, which sends orders to all guests; see `node`.

Every workload yields results: plain dictionaries, for JSON and for the tables of `report`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mvpnet.bench.messages import Answer, Counted, Flood, Flooded, Ping, Pinged, ReportCounts, Reset
from mvpnet.dataplane.address import host_name
from mvpnet.spec.schema import Net, NetKind
from mvpnet.util.text import Say

if TYPE_CHECKING:
    from mvpnet.bench.node import Node

WORKLOADS = ("flood", "roundtrip", "all-to-all", "broadcast")
PING_FRAME_BYTES = 64

_LOOK_S = 0.05
_SETTLED_S = 0.5  # without any arrival for this long, missing frames count as lost

Result = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The measurements of a bench."""

    workloads: tuple[str, ...]
    nets: tuple[Net, ...]  # one a kind of link
    frame_bytes: tuple[int, ...]
    gaps_ms: tuple[float, ...]
    seconds: float
    source: int
    to: int

    def steps(self) -> int:
        """Return the number of results of a run."""
        each = {"roundtrip": len(self.gaps_ms)}
        return len(self.nets) * sum(each.get(name, len(self.frame_bytes)) for name in self.workloads)


@dataclass
class Bench:
    """One run of a plan over one kind of link."""

    node: Node
    plan: Plan
    kind: NetKind
    world_size: int
    say: Say
    _cpu_s: dict[int, float] = field(default_factory=dict)

    def results(self) -> Iterator[Result]:
        """Run the workloads in turn and yield their results; raise what `Node.ask` does."""
        runs: dict[str, Callable[[], Iterator[Result]]] = {
            "flood": self._floods,
            "roundtrip": self._roundtrips,
            "all-to-all": self._all_to_alls,
            "broadcast": self._broadcasts,
        }
        for name in self.plan.workloads:
            for result in runs[name]():
                yield {"workload": name, "link": self.kind.name, **result}

    def _floods(self) -> Iterator[Result]:
        source, to = self.plan.source, self.plan.to
        for size in self.plan.frame_bytes:
            self.say(f"flood of {size}-byte frames, {host_name(source)} to {host_name(to)}")
            sent, took, used = self._flood({source: [to]}, [to], size)
            got = counted(used)
            yield {
                "frame_bytes": size,
                "from": source,
                "to": to,
                **_rate(got[to], size),
                "sent": sent[source],
                "lost": sent[source] - got[to].frames,
                "cpu_percent": {"from": took[source], "to": took[to]},
                "rss_mb": max(used[to].rss_mb, self._report()[source].rss_mb),
            }

    def _roundtrips(self) -> Iterator[Result]:
        source, to = self.plan.source, self.plan.to
        for gap_ms in self.plan.gaps_ms:
            self.say(f"round trips {gap_ms:g} ms apart, {host_name(source)} to {host_name(to)} and back")
            order = Ping(to, PING_FRAME_BYTES, self.plan.seconds, gap_s=gap_ms / 1e3)
            pinged = self.node.ask({source: order}, self.plan.seconds)[source].outcome
            assert isinstance(pinged, Pinged)
            yield {"gap_ms": gap_ms, "from": source, "to": to, **asdict(pinged)}

    def _all_to_alls(self) -> Iterator[Result]:
        ranks = range(self.world_size)
        orders: dict[int, list[int] | None] = {rank: [other for other in ranks if other != rank] for rank in ranks}
        for size in self.plan.frame_bytes:
            self.say(f"{size}-byte frames from all {self.world_size} ranks to all others, one of each, then a flood")
            _, _, used = self._flood(orders, list(ranks), size, seconds=0.0)
            met = counted(used)
            sent, took, used = self._flood(orders, list(ranks), size)
            got = counted(used)
            rates = [_rate(got[rank], size)["frames_per_s"] for rank in ranks]
            yield {
                "frame_bytes": size,
                "pairs": self.world_size * (self.world_size - 1),
                "pairs_reached": sum(met[rank].sources for rank in ranks),
                "frames_per_s": sum(rates),
                "gbit_per_s": sum(rates) * size * 8 / 1e9,
                "slowest_frames_per_s": min(rates),
                "fastest_frames_per_s": max(rates),
                "sent": sum(sent.values()),
                "lost": sum(sent.values()) - sum(got[rank].frames for rank in ranks),
                "cpu_percent": sum(took.values()),
                "rss_mb": max(used[rank].rss_mb for rank in ranks),
            }

    def _broadcasts(self) -> Iterator[Result]:
        source = self.plan.source
        others = [rank for rank in range(self.world_size) if rank != source]
        for size in self.plan.frame_bytes:
            self.say(f"broadcast flood of {size}-byte frames, {host_name(source)} to all")
            sent, took, used = self._flood({source: None}, others, size)
            got = counted(used)
            rates = {rank: _rate(got[rank], size)["frames_per_s"] for rank in others}
            slowest = min(others, key=lambda rank: rates[rank])
            yield {
                "frame_bytes": size,
                "from": source,
                "sent": sent[source],
                "slowest": slowest,
                "slowest_frames_per_s": rates[slowest],
                "fastest_frames_per_s": max(rates.values()),
                "most_lost": max(sent[source] - got[rank].frames for rank in others),
                "cpu_percent": sum(took.values()),
                "rss_mb": max(used[rank].rss_mb for rank in others),
            }

    def _flood(
        self, senders: dict[int, list[int] | None], receivers: list[int], size: int, seconds: float | None = None
    ) -> tuple[dict[int, int], dict[int, float], dict[int, Answer]]:
        """Return the frames sent by each sender, the CPU use of each rank in percent of a core, and the answers."""
        seconds = self.plan.seconds if seconds is None else seconds
        before = self.node.ask_all(Reset())
        began_s = time.monotonic()
        orders = {rank: Flood(to, size, seconds) for rank, to in senders.items()}
        answers = {rank: answer.outcome for rank, answer in self.node.ask(orders, seconds).items()}
        sent = {rank: outcome.sent for rank, outcome in answers.items() if isinstance(outcome, Flooded)}
        expected = sum(sent.values()) * (len(receivers) if None in senders.values() else 1)
        after = self._settled(receivers, expected)
        took_s = time.monotonic() - began_s
        took = {rank: 100 * (after[rank].cpu_s - before[rank].cpu_s) / took_s for rank in after}
        return sent, took, after

    def _settled(self, receivers: list[int], expected: int) -> dict[int, Answer]:
        """Return the reports once all sent frames have arrived, or no more arrive."""
        came, came_at_s = -1, time.monotonic()
        while True:
            reports = self._report()
            got = counted(reports)
            frames = sum(got[rank].frames for rank in receivers)
            if frames != came:
                came, came_at_s = frames, time.monotonic()
            if frames >= expected or time.monotonic() - came_at_s > _SETTLED_S:
                return reports
            self.node.wait(_LOOK_S)

    def _report(self) -> dict[int, Answer]:
        return self.node.ask_all(ReportCounts())


def counted(answers: Mapping[int, Answer]) -> dict[int, Counted]:
    """Return the counts in the guests' answers."""
    return {rank: answer.outcome for rank, answer in answers.items() if isinstance(answer.outcome, Counted)}


def _rate(report: Counted, frame_bytes: int) -> dict[str, float]:
    """Return the rate of arrival in frames per second, and in Gbit/s of Ethernet frames."""
    rate = report.timed_frames / report.seconds if report.seconds else 0.0
    return {"frames_per_s": rate, "gbit_per_s": rate * frame_bytes * 8 / 1e9}
