"""Report about one run: spec, outcome, times, traffic and metrics."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mvpnet.records.run import Run
from mvpnet.records.typed import Manifest
from mvpnet.report.html import date, head, number, section, table
from mvpnet.report.page import Cells, Page, Picture, load_charts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def of_run(run: Run) -> Page:
    """Return the page about one run.

    Raises:
        ConfigError: A file in the run folder is broken.
        HostError: matplotlib is missing.
    """
    pictures: list[Picture] = []
    sections = [
        head(f"Job {run.manifest.job}", _run_line(run), run.verdict),
        *_run_sections(run, pictures),
        section("What ran", table(None, facts(run.manifest))),
        section("Hosts", table(*hosts(run.manifest))),
        section("Inputs", table(*inputs(run.manifest))),
    ]
    return Page(f"mvpnet: job {run.manifest.job}", "\n".join(sections), pictures)


def _run_sections(run: Run, pictures: list[Picture]) -> Iterator[str]:
    charts, begun = load_charts(), run.manifest.times.begun or 0.0
    if metrics := run.metrics():
        yield section("Metrics", table(("metric", "value"), [(name, number(v)) for name, v in metrics.items()]))
    states = {rank: list(one.states) for rank, one in run.manifest.ranks.items() if one.states}
    yield _pictured(
        "The guests over time",
        "boot-timeline",
        "Which state each guest was in.",
        states and (lambda: charts.boot_timeline(states, begun)),
        pictures,
        "No times of the guests' states are recorded.",
    )
    samples = {rank: lines for rank, lines in run.traffic().items() if len(lines) > 1}
    yield _pictured(
        "Traffic over time",
        "traffic-over-time",
        "Frames and bits a second that the guests sent (net.sample_interval_s).",
        samples and (lambda: charts.rates(samples, begun)),
        pictures,
        "Nothing was sent, or nothing was sampled (net.sample_interval_s).",
    )
    stats = run.stats()
    sent = {int(a): {int(b): n for b, n in row.items()} for a, row in stats.get("traffic_bytes", {}).items()}
    yield _pictured(
        "Who sent to whom",
        "traffic-matrix",
        "Bytes of unicast Ethernet frames from guest to guest.",
        sent and (lambda: charts.traffic_matrix(sent, run.world_size)),
        pictures,
        "No unicast frame was sent, or there is no stats.json.",
    )
    dropped = _dropped(stats)
    nothing = "No frame was dropped." if stats else "There is no stats.json."
    yield _pictured(
        "Drops",
        "drops",
        "Frames that were dropped, by reason (docs/records.md says what each means).",
        dropped and (lambda: charts.drops(dropped)),
        pictures,
        nothing,
    )


def _pictured(
    title: str,
    name: str,
    caption: str,
    draw: Callable[[], Figure] | Any,
    pictures: list[Picture],
    without: str,
) -> str:
    """Return a section with a picture, or with the text `without` if there is nothing to draw."""
    if not draw:
        return section(title, f"<p>{html.escape(without)}</p>")
    pictures.append(Picture(name, caption, draw()))
    return section(title, f"{{{{{name}}}}}")


def _dropped(stats: Mapping[str, Any]) -> dict[str, dict[int, int]]:
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for rank, counters in enumerate(stats.get("ranks", [])):
        for reason, count in counters.get("drops", {}).items():
            if count:
                found[reason][rank] = count
    return dict(sorted(found.items(), key=lambda item: -sum(item[1].values())))


def _run_line(run: Run) -> str:
    times, hosts = run.manifest.times, run.manifest.hosts
    took = f", {times.ended - times.begun:.0f} s" if times.ended is not None and times.begun is not None else ""
    size = run.world_size
    return (
        f"{size} guest{'s' * (size != 1)} on {max(1, len(hosts))} host{'s' * (len(hosts) > 1)}, "
        f"begun {date(times.begun)}{took}"
    )


def facts(manifest: Manifest) -> list[tuple[str, str]]:
    software, begun = manifest.software, manifest.times.begun
    mvpnet, qemu = software.mvpnet, software.qemu
    commit = f", commit {mvpnet.commit[:12]}" if mvpnet and mvpnet.commit else ""
    dirty = " with changes" if mvpnet and mvpnet.dirty else ""
    times = [(name, getattr(manifest.times, name)) for name in ("prepared", "up", "stopping", "ended")]
    phases = [(name, at - begun) for name, at in times if at is not None and begun is not None]
    found = [
        ("spec digest", manifest.digest),
        ("overrides", " ".join(manifest.typed) or "none"),
        ("recipe", manifest.recipe or "none"),
        ("repeats", manifest.replays.run if manifest.replays else "no other run"),
        ("mvpnet", f"{mvpnet.version if mvpnet else 'unknown'}{commit}{dirty}"),
        ("qemu", (qemu.version if qemu else None) or "unknown"),
        ("accelerator", ", ".join(sorted({one.accel for one in manifest.ranks.values()})) or "unknown"),
        ("MPI", software.mpi or "unknown"),
        ("Python", software.python or "unknown"),
        ("packages", ", ".join(f"{name} {version}" for name, version in software.packages.items())),
        ("phases", ", ".join(f"{name} after {after:.1f} s" for name, after in phases) or "unknown"),
    ]
    return [*found, *manifest.batch_system.items()]


def hosts(manifest: Manifest) -> Cells:
    rows = [
        (
            name,
            one.ranks or "",
            f"{one.cpu or one.machine}, {one.cpus_allowed} of {one.cpus} CPUs",
            f"{(one.memory_bytes or 0) / 2**30:.1f} GiB",
            f"{one.os or 'unknown'}, {one.kernel}",
        )
        for name, one in manifest.hosts.items()
    ]
    return ("host", "ranks", "CPU", "memory", "system"), rows


def inputs(manifest: Manifest) -> Cells:
    rows = [(one.key, one.ranks, one.path or "", one.sha256 or str(one.by)) for one in manifest.inputs]
    return ("key", "ranks", "file", "sha256"), rows
