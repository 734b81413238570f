"""The tables of `mvpnet bench`, one per workload."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from mvpnet.bench.workloads import Result
from mvpnet.dataplane.address import host_name

WIDTH = 110

Column = tuple[str, Callable[[Result], str]]

_LINK: Column = ("link", lambda r: str(r["link"]))
_FRAME: Column = ("frame", lambda r: f"{r['frame_bytes']} B")
_WAY: Column = ("", lambda r: f"{host_name(r['from'])} → {host_name(r['to'])}")
_RATE: Column = ("frames/s", lambda r: f"{r['frames_per_s']:,.0f}")
_GBIT: Column = ("Gbit/s", lambda r: f"{r['gbit_per_s']:.2f}")
_LOST: Column = ("lost", lambda r: _share(r["lost"], r["sent"]))
_MEMORY: Column = ("most memory", lambda r: f"{r['rss_mb']:.0f} MB")
_SLOWEST: Column = ("slowest rank", lambda r: f"{r['slowest_frames_per_s']:,.0f}/s")
_FASTEST: Column = ("fastest", lambda r: f"{r['fastest_frames_per_s']:,.0f}/s")
_CPU_OF_ALL: Column = ("CPU of all", lambda r: f"{r['cpu_percent']:.0f} %")

COLUMNS: dict[str, list[Column]] = {
    "flood": [
        *(_LINK, _WAY, _FRAME, _RATE, _GBIT, _LOST),
        ("CPU of the ranks", lambda r: f"{r['cpu_percent']['from']:.0f} % → {r['cpu_percent']['to']:.0f} %"),
        _MEMORY,
    ],
    "roundtrip": [
        *(_LINK, _WAY),
        ("gap", lambda r: f"{r['gap_ms']:g} ms"),
        ("p50", lambda r: _us(r["p50_us"])),
        ("p99", lambda r: _us(r["p99_us"])),
        ("most", lambda r: _us(r["max_us"])),
        ("lost", lambda r: _share(r["lost"], r["pings"])),
    ],
    "all-to-all": [
        *(_LINK, _FRAME),
        ("pairs", lambda r: f"{r['pairs_reached']} of {r['pairs']}"),
        *(_RATE, _GBIT, _SLOWEST, _FASTEST, _LOST, _CPU_OF_ALL, _MEMORY),
    ],
    "broadcast": [
        *(_LINK, _FRAME, _SLOWEST, _FASTEST),
        ("most lost", lambda r: _share(r["most_lost"], r["sent"])),
        *(_CPU_OF_ALL, _MEMORY),
    ],
}


def tables(results: list[Result]) -> str:
    """Return the results as text, in the order of the workloads."""
    console = Console(width=WIDTH, no_color=True, highlight=False, markup=False)
    with console.capture() as capture:
        for title, table in _tables(results):
            console.print(title)
            console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _tables(results: list[Result]) -> Iterator[tuple[str, Table]]:
    for name, columns in COLUMNS.items():
        rows = [result for result in results if result["workload"] == name]
        if rows:
            table = Table(box=box.SIMPLE_HEAD)
            for heading, _ in columns:
                table.add_column(heading, justify="right")
            for row in rows:
                table.add_row(*(cell(row) for _, cell in columns))
            yield name, table


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)" if part and whole else str(part)


def _us(value: float | None) -> str:
    return "none" if value is None else f"{value:,.0f} us"
