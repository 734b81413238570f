"""Report about a sweep: the swept keys, the metrics side by side, the jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mvpnet.errors import ConfigError, MvpnetError
from mvpnet.paths import jobs_of_sweep
from mvpnet.records.result import jobs_ran
from mvpnet.records.run import Run, open_run
from mvpnet.records.typed import Verdict
from mvpnet.report.html import head, number, section, table
from mvpnet.report.of_run import facts, hosts, inputs
from mvpnet.report.page import NUMBER, PICTURED_METRICS, Cells, Page, Picture, load_charts
from mvpnet.spec.sizes import parse_size
from mvpnet.util.hydra_quotes import without_quotes


@dataclass(frozen=True)
class Job:
    """One job of a sweep: its swept keys and its outcome."""

    name: str
    settings: Mapping[str, str]
    run: Run
    again: str | None = None  # name of the later attempt that replaces this failed job

    @property
    def failed(self) -> bool:
        return self.run.verdict.code != 0 and not self.again

    @property
    def how(self) -> str:
        return str(self.run.verdict.how) + (f"; run again as {self.again}" if self.again else "")


def of_sweep(root: Path) -> Page:
    """Return the page about a sweep's folder.

    Raises:
        ConfigError: No job of the sweep can be read.
        HostError: matplotlib is missing.
    """
    jobs, broken = _jobs(root)
    if not jobs:
        raise ConfigError(f"{root}: no job of the sweep can be read:\n  " + "\n  ".join(broken))
    swept = _swept([job.settings for job in jobs])
    pictures: list[Picture] = []
    asked_for = [job for job in jobs if not job.again]
    failed = sum(job.failed for job in jobs)
    verdict = Verdict(jobs_ran(len(asked_for), failed), 1 if failed else 0)
    sections = [
        head(f"Sweep {root.resolve().name}", f"over {', '.join(swept) or 'nothing'}", verdict),
        *([section("Not read", table(None, [(line,) for line in broken]))] if broken else []),
        *_metric_sections(jobs, swept, pictures),
        section("Jobs", table(*_job_rows(jobs, swept))),
        section("What ran", table(None, facts(jobs[0].run.manifest))),
        section("Hosts", table(*hosts(jobs[0].run.manifest))),
        section("Inputs of the first job", table(*inputs(jobs[0].run.manifest))),
    ]
    return Page(f"mvpnet: sweep {root.resolve().name}", "\n".join(sections), pictures)


def _jobs(root: Path) -> tuple[list[Job], list[str]]:
    jobs, broken = [], []
    for folder in jobs_of_sweep(root):
        try:
            run = open_run(folder)
            run.metrics()
        except MvpnetError as error:
            broken.append(error.message)
            continue
        typed = (text.lstrip("+").partition("=") for text in run.manifest.typed if "=" in text)
        jobs.append(Job(folder.name, {key: without_quotes(value) for key, _, value in typed}, run))
    ended_well = {_same(job.run): job.name for job in jobs if job.run.verdict.code == 0}
    return [
        job if job.run.verdict.code == 0 else replace(job, again=ended_well.get(_same(job.run))) for job in jobs
    ], broken


def _same(run: Run) -> tuple[str, Any]:
    """Return a key that is equal for attempts at the same job, of which the later replaces the earlier."""
    return run.manifest.digest, run.content["spec"].get("repeat")


def _swept(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the keys whose values differ between the jobs, in the order in which they were typed."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if not key.startswith("sweep.") and len({one.get(key) for one in settings}) > 1]


def _metric_sections(jobs: Sequence[Job], swept: Sequence[str], pictures: list[Picture]) -> Iterator[str]:
    charts = load_charts()
    names = list(dict.fromkeys(name for job in jobs for name in job.run.metrics()))
    if not names:
        yield section("Metrics", "<p>The app measured nothing: no job has metrics in its result.json.</p>")
    key = _axis(jobs, swept)
    for index, name in enumerate(names[:PICTURED_METRICS] if key else ()):
        points = [
            charts.Point(_place(typed), typed, _others(job, swept, key), job.run.metrics()[name])
            for job in jobs
            if name in job.run.metrics() and (typed := job.settings.get(key or "", "-"))
        ]
        caption = f"{name} against {key}: means, each measurement, and the spread from least to most."
        pictures.append(Picture(f"metric-{index + 1}", caption, charts.metric(name, key, points)))
        yield section(name, f"{{{{metric-{index + 1}}}}}")


def _axis(jobs: Sequence[Job], swept: Sequence[str]) -> str | None:
    """Return the key for the horizontal axis: prefer numeric keys, then keys with many values."""

    def rank(key: str) -> tuple[bool, int]:
        values = {job.settings.get(key, "") for job in jobs}
        return all(isinstance(_place(value), float) for value in values), len(values)

    return max(swept, key=rank) if swept else None


def _place(text: str) -> float | str:
    """Return a text as a number, a size such as 512M as its number of MiB, any other text unchanged."""
    if NUMBER.fullmatch(text):
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
        measured = (number(metrics[name]) if name in metrics else "-" for name in names)
        rows.append((job.name, *(job.settings.get(key, "-") for key in swept), job.how, *measured))
    return ("job", *swept, "verdict", *names), rows
