"""mvpnet for Python programs: read what jobs left. `import mvpnet` has all of it under its names.

run = mvpnet.open_run("runs/2026-11-24/13-01-52-demo")
print(run.manifest.verdict, run.metrics, run.counters.traffic_bytes)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path

from mvpnet.paths import RunFolder, jobs_of_sweep
from mvpnet.records.manifest import read_manifest
from mvpnet.records.run import Run as Record
from mvpnet.records.run import read_json
from mvpnet.records.typed import Counters, Manifest, Result, ResultTimes, Verdict, read_as
from mvpnet.spec.codec import job_spec
from mvpnet.spec.model import JobSpec
from mvpnet.sweep.model import SweepJob


@dataclass(frozen=True)
class TableRow:
    """One job of a sweep."""

    folder: Path | None
    """Its run folder; None for a job that was refused or not run."""
    overrides: Mapping[str, str | None]
    """The keys in which the sweep's jobs differ, with this job's values; of a single run all keys that were typed."""
    repeat: int
    verdict: Verdict | None
    """None for a job that has no end."""
    times: ResultTimes
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """A run folder, or the folder of a sweep. Each file in it is read once, when it is asked for first.

    Attributes:
        paths: Where the run keeps what, by name.
    """

    paths: RunFolder

    @cached_property
    def manifest(self) -> Manifest:
        """What ran, on what, made from which files, and how it ended.

        Raises:
            ConfigError: The manifest is broken, or this is the folder of a sweep.
        """
        return self._record.manifest

    @cached_property
    def spec(self) -> JobSpec:
        """The resolved spec of the job.

        Raises:
            ConfigError: The recorded spec has keys or values that this version does not know, or this is the folder
                of a sweep.
        """
        return job_spec(self._record.content["spec"], str(self.paths.manifest))

    @cached_property
    def result(self) -> Result | None:
        """How the job ended; None for one that has no end.

        Raises:
            ConfigError: result.json is broken.
        """
        content = read_json(self.paths.result_json)
        return read_as(Result, content, str(self.paths.result_json)) if content else None

    @cached_property
    def metrics(self) -> Mapping[str, float]:
        """What the app measured, by name; empty where it measured nothing.

        Raises:
            ConfigError: result.json is broken, or a metric in it is no number.
        """
        return self._record.metrics()

    @cached_property
    def counters(self) -> Counters:
        """What the ranks counted; without ranks where the job has no end, or with `logging.stats=false`.

        Raises:
            ConfigError: stats.json is broken.
        """
        return read_as(Counters, self._record.stats(), str(self.paths.stats_json))

    @cached_property
    def jobs(self) -> tuple[Run, ...]:
        """The runs of a sweep, in their order; empty where this is a single run."""
        return tuple(Run(RunFolder(folder)) for folder in jobs_of_sweep(self.paths.root)) if self.is_sweep else ()

    @property
    def is_sweep(self) -> bool:
        """Whether this is the folder of a sweep."""
        return not self.paths.job_json.exists() and bool(jobs_of_sweep(self.paths.root))

    def table(self) -> list[TableRow]:
        """Return a row for each job of the sweep; of a single run the one row.

        Raises:
            ConfigError: A file of the sweep or of one of its runs is broken.
        """
        if not self.is_sweep:
            return [self._row()]
        path = self.paths.root / "results.json"
        content = read_json(path)
        if content is None:  # its jobs were copied without it
            return [job._row() for job in self.jobs]
        found = read_as(_Results, content, str(path))
        return [job.row(self.paths.root) for job in found.jobs]

    @cached_property
    def _record(self) -> Record:
        return Record(self.paths, read_manifest(self.paths))

    def _row(self) -> TableRow:
        settings = SweepJob(self.manifest.typed).settings()
        result = self.result
        return TableRow(
            folder=self.paths.root,
            overrides=settings,
            repeat=result.repeat if result else 1,
            verdict=self.manifest.verdict,
            times=result.times if result else ResultTimes(),
            metrics=self.metrics,
        )


@dataclass(frozen=True)
class _ResultsJob:
    """A job in the results.json of a sweep."""

    folder: str | None
    keys: dict[str, str | None]
    repeat: int
    verdict: str | None
    exit_code: int | None
    times: ResultTimes
    metrics: dict[str, float]

    def row(self, root: Path) -> TableRow:
        return TableRow(
            folder=root / self.folder if self.folder else None,
            overrides=self.keys,
            repeat=self.repeat,
            verdict=None if self.verdict is None else Verdict(self.verdict, self.exit_code),
            times=self.times,
            metrics=self.metrics,
        )


@dataclass(frozen=True)
class _Results:
    """The results.json of a sweep."""

    jobs: tuple[_ResultsJob, ...]


def open_run(folder: str | PathLike[str]) -> Run:
    """Open a run folder, or the folder of a sweep.

    Args:
        folder: `runs/DATE/TIME-JOB`, or the folder of a sweep's jobs 0, 1, and so on.

    Raises:
        ConfigError: There is no run, or one that was cut short in its first moments.
    """
    run = Run(RunFolder(Path(folder)))
    if not run.is_sweep:
        _ = run.manifest
    return run
