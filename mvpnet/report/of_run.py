"""Report about one run: spec, outcome, times, traffic and metrics."""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mvpnet.records.run import Run
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
        head(f"Job {run.manifest['job']}", _run_line(run), run.verdict),
        *_run_sections(run, pictures),
        section("What ran", table(None, facts(run.manifest))),
        section("Hosts", table(*hosts(run.manifest))),
        section("Inputs", table(*inputs(run.manifest))),
    ]
    return Page(f"mvpnet: job {run.manifest['job']}", "\n".join(sections), pictures)


def _run_sections(run: Run, pictures: list[Picture]) -> Iterator[str]:
    charts, begun = load_charts(), run.manifest.get("times", {}).get("begun", 0.0)
    if metrics := run.metrics():
        yield section("Metrics", table(("metric", "value"), [(name, number(v)) for name, v in metrics.items()]))
    states = {int(rank): one["states"] for rank, one in run.manifest.get("ranks", {}).items() if one.get("states")}
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
    times, hosts = run.manifest.get("times", {}), run.manifest["hosts"]
    took = f", {times['ended'] - times['begun']:.0f} s" if "ended" in times and "begun" in times else ""
    size = run.world_size
    return (
        f"{size} guest{'s' * (size != 1)} on {max(1, len(hosts))} host{'s' * (len(hosts) > 1)}, "
        f"begun {date(times.get('begun'))}{took}"
    )


def facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    software, times = manifest["software"], manifest.get("times", {})
    mvpnet = software.get("mvpnet", {})
    commit = f", commit {mvpnet['commit'][:12]}" if mvpnet.get("commit") else ""
    dirty = " with changes" if mvpnet.get("dirty") else ""
    replayed = manifest.get("replays")
    phases = [(name, times[name] - times["begun"]) for name in ("prepared", "up", "stopping", "ended") if name in times]
    facts = [
        ("spec digest", manifest["digest"]),
        ("overrides", " ".join(manifest.get("typed", [])) or "none"),
        ("recipe", manifest.get("recipe") or "none"),
        ("repeats", replayed["run"] if replayed else "no other run"),
        ("mvpnet", f"{mvpnet.get('version', 'unknown')}{commit}{dirty}"),
        ("qemu", f"{(software.get('qemu') or {}).get('version') or 'unknown'}"),
        ("accelerator", ", ".join(sorted({one["accel"] for one in manifest.get("ranks", {}).values()})) or "unknown"),
        ("MPI", software.get("mpi", "unknown")),
        ("Python", software.get("python", "unknown")),
        ("packages", ", ".join(f"{name} {version}" for name, version in software.get("packages", {}).items())),
        ("phases", ", ".join(f"{name} after {after:.1f} s" for name, after in phases) or "unknown"),
    ]
    return facts + [(name, value) for name, value in manifest.get("batch_system", {}).items()]


def hosts(manifest: Mapping[str, Any]) -> Cells:
    rows = [
        (
            name,
            one.get("ranks", ""),
            f"{one.get('cpu') or one.get('machine')}, {one.get('cpus_allowed')} of {one.get('cpus')} CPUs",
            f"{one.get('memory_bytes', 0) / 2**30:.1f} GiB",
            f"{one.get('os') or 'unknown'}, {one.get('kernel')}",
        )
        for name, one in manifest["hosts"].items()
    ]
    return ("host", "ranks", "CPU", "memory", "system"), rows


def inputs(manifest: Mapping[str, Any]) -> Cells:
    rows = [(one["key"], one["ranks"], one["path"] or "", one["sha256"] or one["by"]) for one in manifest["inputs"]]
    return ("key", "ranks", "file", "sha256"), rows
