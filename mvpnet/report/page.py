"""One HTML page about a run or a sweep, with its pictures inside, and the same pictures as PNG files beside it.

    RUN/report/report.html     refers to nothing outside of itself: no network, no script
    RUN/report/*.png

What a run did not leave is left out, and said.
"""

from __future__ import annotations

import base64
import html
import io
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvpnet.errors import ConfigError, HostError, MvpnetError
from mvpnet.paths import jobs_of_sweep
from mvpnet.records.result import jobs_ran
from mvpnet.records.run import Run, open_run
from mvpnet.spec.model import parse_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 144
_SHOWN_DPI = 100  # in the page: sharp on a screen with two dots a pixel
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")
_PICTURED_METRICS = 24

Cells = tuple[tuple[str, ...], Sequence[Sequence[str]]]  # a table's headings and rows

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #2d3748; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin: 2.2rem 0 .4rem }
.lead { color: #4a5568; margin-top: 0 }
.good, .bad, .open { border-radius: 4px; padding: .1rem .5rem; font-weight: 600 }
.good { background: #d7f0df; color: #1c5c39 } .bad { background: #fbdcd5; color: #8c2a16 }
.open { background: #fdf0cf; color: #7a5200 }
table { border-collapse: collapse; margin: .3rem 0 1rem } img { max-width: 100%; height: auto }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #e2e8f0; vertical-align: top }
th { color: #4a5568; font-weight: 600 } td.number { text-align: right; font-variant-numeric: tabular-nums }
code { font-size: .85em; overflow-wrap: anywhere } figure { margin: .3rem 0 } figcaption { color: #4a5568 }
"""


@dataclass(frozen=True)
class Picture:
    """A drawn figure: its file's name without the ending, and what it shows."""

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Page:
    """A report before it is written. `body` is HTML in which {{NAME}} stands for the picture of that name."""

    title: str
    body: str
    pictures: Sequence[Picture]


def write(page: Page, folder: Path) -> Path:
    """Write the page and its pictures; where the page is. Raises HostError when the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        body = page.body
        for picture in page.pictures:
            data = io.BytesIO()
            picture.figure.savefig(data, format="png", dpi=_DPI, bbox_inches="tight", metadata={"Software": "mvpnet"})
            (folder / f"{picture.name}.png").write_bytes(data.getvalue())
            body = body.replace(f"{{{{{picture.name}}}}}", _figure(picture, data.getvalue()))
        title = html.escape(page.title)
        target = folder / "report.html"
        target.write_text(
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
            f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
        )
    except OSError as error:
        raise HostError(f"{folder}: the report cannot be written: {error.strerror}") from error
    return target


def _figure(picture: Picture, png: bytes) -> str:
    """The picture in the page, all at one scale: a PNG begins with its width in pixels (PNG specification, 11.2.1)."""
    data, caption = base64.b64encode(png).decode(), html.escape(picture.caption)
    width = round(int.from_bytes(png[16:20], "big") * _SHOWN_DPI / _DPI)
    image = f'<img alt="{caption}" width="{width}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _charts() -> Any:
    try:
        from mvpnet.report import charts
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("matplotlib"):
            raise
        raise HostError(
            "a report's pictures are drawn by matplotlib, which is not installed", hint="pip install 'mvpnet[report]'"
        ) from error
    return charts


# -- a run ---------------------------------------------------------------------------------------------------------


def of_run(run: Run) -> Page:
    """The page about one run. Raises ConfigError for a broken file in its folder, HostError without matplotlib."""
    pictures: list[Picture] = []
    sections = [
        _head(f"Job {run.manifest['job']}", _run_line(run), run.verdict),
        *_run_sections(run, pictures),
        _section("What ran", _table(None, _facts(run.manifest))),
        _section("Hosts", _table(*_hosts(run.manifest))),
        _section("Inputs", _table(*_inputs(run.manifest))),
    ]
    return Page(f"mvpnet: job {run.manifest['job']}", "\n".join(sections), pictures)


def _run_sections(run: Run, pictures: list[Picture]) -> Iterator[str]:
    charts, begun = _charts(), run.manifest.get("times", {}).get("begun", 0.0)
    if metrics := run.metrics():
        yield _section("Metrics", _table(("metric", "value"), [(name, _number(v)) for name, v in metrics.items()]))
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
        "Frames and bits a second that the guests sent (net.sample_s).",
        samples and (lambda: charts.rates(samples, begun)),
        pictures,
        "Nothing was sent, or nothing was sampled (net.sample_s).",
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
    """A section with a picture, or with the words `without` where there is nothing to draw."""
    if not draw:
        return _section(title, f"<p>{html.escape(without)}</p>")
    pictures.append(Picture(name, caption, draw()))
    return _section(title, f"{{{{{name}}}}}")


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
        f"begun {_date(times.get('begun'))}{took}"
    )


def _facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
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


def _hosts(manifest: Mapping[str, Any]) -> Cells:
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


def _inputs(manifest: Mapping[str, Any]) -> Cells:
    rows = [(one["key"], one["ranks"], one["path"] or "", one["sha256"] or one["by"]) for one in manifest["inputs"]]
    return ("key", "ranks", "file", "sha256"), rows


# -- a sweep -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One job of a sweep: what was swept, and what came of it."""

    name: str
    settings: Mapping[str, str]
    run: Run
    again: str | None = None  # it did not end well, and the job of this name did, which is the same

    @property
    def failed(self) -> bool:
        return self.run.verdict["code"] != 0 and not self.again

    @property
    def how(self) -> str:
        return str(self.run.verdict["how"]) + (f"; run again as {self.again}" if self.again else "")


def of_sweep(root: Path) -> Page:
    """The page about a sweep's folder.

    Raises ConfigError where no job of it can be read, HostError without matplotlib.
    """
    jobs, broken = _jobs(root)
    if not jobs:
        raise ConfigError(f"{root}: no job of the sweep can be read:\n  " + "\n  ".join(broken))
    swept = _swept([job.settings for job in jobs])
    pictures: list[Picture] = []
    asked_for = [job for job in jobs if not job.again]
    failed = sum(job.failed for job in jobs)
    verdict = {"how": jobs_ran(len(asked_for), failed), "code": 1 if failed else 0}
    sections = [
        _head(f"Sweep {root.resolve().name}", f"over {', '.join(swept) or 'nothing'}", verdict),
        *([_section("Not read", _table(None, [(line,) for line in broken]))] if broken else []),
        *_metric_sections(jobs, swept, pictures),
        _section("Jobs", _table(*_job_rows(jobs, swept))),
        _section("What ran", _table(None, _facts(jobs[0].run.manifest))),
        _section("Hosts", _table(*_hosts(jobs[0].run.manifest))),
        _section("Inputs of the first job", _table(*_inputs(jobs[0].run.manifest))),
    ]
    return Page(f"mvpnet: sweep {root.resolve().name}", "\n".join(sections), pictures)


def _jobs(root: Path) -> tuple[list[Job], list[str]]:
    jobs, broken = [], []
    for folder in jobs_of_sweep(root):
        try:
            run = open_run(folder)
            run.metrics()
        except MvpnetError as error:
            broken.append(Exception.__str__(error))
            continue
        typed = (text.lstrip("+").partition("=") for text in run.manifest.get("typed", []) if "=" in text)
        jobs.append(Job(folder.name, {key: value for key, _, value in typed}, run))
    ended_well = {_same(job.run): job.name for job in jobs if job.run.verdict["code"] == 0}
    return [
        job if job.run.verdict["code"] == 0 else replace(job, again=ended_well.get(_same(job.run))) for job in jobs
    ], broken


def _same(run: Run) -> tuple[str, Any]:
    """Equal for jobs that a sweep takes for one, whose later attempt replaces the earlier."""
    return run.manifest["digest"], run.manifest["spec"].get("repeat")


def _swept(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys whose values differ between the jobs, in the order in which they were typed."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if not key.startswith("sweep.") and len({one.get(key) for one in settings}) > 1]


def _metric_sections(jobs: Sequence[Job], swept: Sequence[str], pictures: list[Picture]) -> Iterator[str]:
    charts = _charts()
    names = list(dict.fromkeys(name for job in jobs for name in job.run.metrics()))
    if not names:
        yield _section("Metrics", "<p>The app measured nothing: no job has metrics in its result.json.</p>")
    key = _axis(jobs, swept)
    for index, name in enumerate(names[:_PICTURED_METRICS] if key else ()):
        points = [
            charts.Point(_place(typed), typed, _others(job, swept, key), job.run.metrics()[name])
            for job in jobs
            if name in job.run.metrics() and (typed := job.settings.get(key or "", "-"))
        ]
        caption = f"{name} against {key}: means, each measurement, and the spread from least to most."
        pictures.append(Picture(f"metric-{index + 1}", caption, charts.metric(name, key, points)))
        yield _section(name, f"{{{{metric-{index + 1}}}}}")


def _axis(jobs: Sequence[Job], swept: Sequence[str]) -> str | None:
    """The key to draw against: a numeric one before others, one of many values before one of few."""

    def rank(key: str) -> tuple[bool, int]:
        values = {job.settings.get(key, "") for job in jobs}
        return all(isinstance(_place(value), float) for value in values), len(values)

    return max(swept, key=rank) if swept else None


def _place(text: str) -> float | str:
    """A number, or a size such as 512M in its number of MiB; else the text."""
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        return parse_size(text, "") / 2**20
    except ConfigError:
        return text


def _others(job: Job, swept: Sequence[str], key: str | None) -> str:
    return ", ".join(f"{name}={job.settings.get(name, '-')}" for name in swept if name != key)


def _job_rows(jobs: Sequence[Job], swept: Sequence[str]) -> Cells:
    names = list(dict.fromkeys(name for job in jobs for name in job.run.metrics()))
    rows = []
    for job in jobs:
        metrics = job.run.metrics()
        measured = (_number(metrics[name]) if name in metrics else "-" for name in names)
        rows.append((job.name, *(job.settings.get(key, "-") for key in swept), job.how, *measured))
    return ("job", *swept, "verdict", *names), rows


# -- HTML ----------------------------------------------------------------------------------------------------------


def _head(title: str, line: str, verdict: Mapping[str, Any]) -> str:
    kind = {0: "good", None: "open"}.get(verdict["code"], "bad")
    return (
        f"<h1>{html.escape(title)}</h1>\n<p class=lead>{html.escape(line)}</p>\n"
        f"<p><span class={kind}>{html.escape(str(verdict['how']))}</span></p>"
    )


def _section(title: str, content: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n{content}"


def _table(headings: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> str:
    """Without headings the first cell of a row is one."""
    top = "<tr>" + "".join(f"<th>{html.escape(text)}</th>" for text in headings) + "</tr>\n" if headings else ""
    lines = (
        "".join(
            f"<th>{html.escape(str(cell))}</th>" if not headings and i == 0 else f"<td>{_cell(str(cell))}</td>"
            for i, cell in enumerate(row)
        )
        for row in rows
    )
    return "<table>\n" + top + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table>"


def _cell(text: str) -> str:
    escaped = html.escape(text)
    return f"<code>{escaped}</code>" if "/" in text or len(text) > 40 else escaped


def _number(value: float) -> str:
    return f"{value:,.6g}"


def _date(at: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(at)) if at else "at an unknown time"
