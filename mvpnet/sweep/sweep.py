"""A sweep's jobs: which there are, which are done, how they ended; and the table of them all.

A job is told by the digest of its spec and the number of its repeat, not by its own number: so a sweep that was cut
short is taken up by any later launch that asks for the same.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvpnet.errors import ConfigError
from mvpnet.logs import say, write_quietly
from mvpnet.mpi.launcher import launched_size
from mvpnet.records.result import read_result
from mvpnet.util.files import write_json, write_whole
from mvpnet.util.hydra_options import is_inspecting
from mvpnet.util.tables import PLAIN_WIDTH, table_text
from mvpnet.util.text import duration

FORMAT = 1
_TIMES = ("started", "boot_s", "app_s", "total_s")
_METRICS_SHOWN = 6  # on the terminal; all are in the files
_VERDICT_SHOWN = 40  # characters


@dataclass
class SweepJob:
    """One combination of a sweep, in one of its repeats."""

    overrides: tuple[str, ...]
    repeat: int = 1
    digest: str | None = None  # of its spec, where that is known before it runs
    number: int | None = None  # Hydra's, once it ran or was found
    folder: Path | None = None  # its run folder, once that is its own
    result: dict[str, Any] | None = None
    problem: tuple[str, int] | None = None  # what was told and the exit code, where there is no result

    @property
    def done(self) -> bool:
        """It ran to its end, and without a failure."""
        return self.result is not None and self.result["exit_code"] == 0

    def settings(self) -> dict[str, str]:
        """Key and value of each override."""
        pairs = (text.partition("=") for text in self.overrides if "=" in text)
        return {key.lstrip("+"): value for key, _, value in pairs if not key.startswith(("hydra.", "sweep."))}


@dataclass
class Sweep:
    """All jobs of a sweep, as far as they are known; `current` is the one that runs."""

    argv: tuple[str, ...]  # what was typed, for whoever takes the sweep up again
    resuming: bool = False
    folder: Path | None = None
    jobs: list[SweepJob] = field(default_factory=list)
    current: SweepJob | None = None
    _took_s: list[float] = field(default_factory=list)
    _began_s: float = 0.0

    def plan(self, folder: Path, jobs: Iterable[SweepJob]) -> list[SweepJob]:
        """Add jobs, and find out which of them ended well in this folder before; all of them, in order.

        Raises ConfigError for a folder with another sweep, unless this is to take it up.
        """
        if self.folder is None and not self.resuming and (folder / "results.json").exists():
            raise ConfigError(
                f"hydra.sweep.dir: {folder} holds another sweep",
                hint="name a new folder, or sweep.resume=FOLDER to run what is missing there",
            )
        is_first, self.folder = self.folder is None, folder
        added = list(jobs)
        ended = {(result.get("digest"), result.get("repeat")): (path, result) for path, result in results_in(folder)}
        for job in added:
            if found := ended.get((job.digest, job.repeat)):
                job.folder, job.result = found
                job.number = int(job.folder.name) if job.folder.name.isdigit() else None
        self.jobs += added
        if self.resuming:
            ready = sum(job.done for job in added)
            say(f"sweep: {ready} of {len(added)} jobs are done already in {folder}")
        elif is_first:
            say(f"sweep: {len(added)} jobs in {folder}; should it be cut short, sweep.resume={folder} runs the rest")
        self._write()
        return added

    def begin(self, job: SweepJob) -> None:
        self.current, job.number = job, next_number(self.folder)
        job.folder = job.result = job.problem = None
        say(self._progress(job))
        self._began_s = time.monotonic()

    def failed(self, message: str, code: int) -> None:
        """The current job was refused, or did not come up."""
        assert self.current
        self.current.problem = (message, code)

    def end(self) -> None:
        """The current job has ended, whatever way."""
        job, self.current = self.current, None
        assert job
        self._took_s.append(time.monotonic() - self._began_s)
        job.result = read_result(job.folder) if job.folder else None
        self._write()

    def tell(self) -> None:
        """The table of all jobs, on standard output."""
        if self.jobs and self.folder:
            write_quietly(sys.stdout, table(self.jobs).encode())
            say(f"sweep: results.csv and results.json are in {self.folder}; mvpnet report {self.folder} draws them")

    def _progress(self, job: SweepJob) -> str:
        """`sweep: job 3 of 12 (vm.memory=1G, net=dgram), about 4 min left`."""
        keys = [f"{key}={value}" for key, value in job.settings().items() if key in swept_keys(self.jobs)]
        keys += [f"repeat {job.repeat}"] if any(one.repeat > 1 for one in self.jobs) else []
        what = f" ({', '.join(keys)})" if keys else ""
        place = next(at for at, one in enumerate(self.jobs, 1) if one is job)
        to_do = sum(not one.done for one in self.jobs[place - 1 :])
        mean_s = sum(self._took_s) / len(self._took_s) if self._took_s else None
        left = "" if mean_s is None else f", about {duration(mean_s * to_do)} left"
        return f"sweep: job {place} of {len(self.jobs)}{what}{left}"

    def _write(self) -> None:
        """results.json and results.csv; a full disk does not end the sweep."""
        assert self.folder
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "results.json", self.as_dict())
            write_whole(self.folder / "results.csv", csv_text(self.jobs))
        except OSError as error:
            say(f"warning: cannot write the results into {self.folder}: {error.strerror}")

    def as_dict(self) -> dict[str, Any]:
        """What results.json holds."""
        return {
            "format": FORMAT,
            "argv": list(self.argv),
            "keys": swept_keys(self.jobs),
            "metrics": metric_names(self.jobs),
            "jobs": [_row(job, self.jobs) for job in self.jobs],
        }


def results_in(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The run folders below a sweep folder whose jobs ended well, with their results."""
    found = ((path.parent, read_result(path.parent)) for path in sorted(folder.glob("*/result.json")))
    return [(path, result) for path, result in found if result and result.get("exit_code") == 0]


def next_number(folder: Path | None) -> int:
    """The first job number that no job in the folder has or had."""
    taken = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder and folder.is_dir() else []
    return max(taken, default=-1) + 1


def resumed(argv: Sequence[str]) -> list[str]:
    """The command line, made to take up the sweep that sweep.resume=FOLDER names where it does; with -m where needed.

    Where nothing else is asked for, it is what the sweep was started with. A command line that only looks at the config
    is left alone. Raises ConfigError when it is no sweep.
    """
    if is_inspecting(argv):
        return list(argv)
    folder = next((word.partition("=")[2].strip("'\"") for word in argv if word.startswith("sweep.resume=")), None)
    if not folder:
        repeats = any(word.startswith("sweep.repeat=") for word in argv)
        return ["-m", *argv] if repeats and not _multirun(argv) else list(argv)
    if any(word.startswith("hydra.sweep.dir=") for word in argv):
        raise ConfigError("sweep.resume: names the sweep folder, and so does hydra.sweep.dir", hint="leave one out")
    path = Path(folder).expanduser().resolve()
    try:
        found = json.loads((path / "results.json").read_bytes())
        before = [str(word) for word in found["argv"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = "there is no results.json in it" if isinstance(error, FileNotFoundError) else error
        raise ConfigError(
            f"sweep.resume: {folder} holds no sweep: {why}", hint="name the folder that has the jobs' folders 0, 1, …"
        ) from None
    rest = [word for word in argv if not word.startswith("sweep.resume=") and word not in ("-m", "--multirun")]
    quoted = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return ["-m", *(rest or before), f"sweep.resume='{quoted}'", f"hydra.sweep.dir='{quoted}'"]


def _multirun(argv: Sequence[str]) -> bool:
    return any(word in ("-m", "--multirun") for word in argv)


def remembered(argv: Sequence[str]) -> tuple[str, ...]:
    """Of a command line, what a later launch needs to ask for the same sweep."""
    ours = ("sweep.resume=", "hydra.sweep.dir=")
    return tuple(word for word in argv if not word.startswith(ours) and word not in ("-m", "--multirun"))


def swept_keys(jobs: Sequence[SweepJob]) -> list[str]:
    """The keys in which the jobs differ, in the order in which they were given."""
    settings = [job.settings() for job in jobs]
    keys = list(dict.fromkeys(key for one in settings for key in one))
    return [key for key in keys if len({one.get(key) for one in settings}) > 1]


def metric_names(jobs: Iterable[SweepJob]) -> list[str]:
    return list(dict.fromkeys(name for job in jobs if job.result for name in job.result["metrics"]))


def _row(job: SweepJob, jobs: Sequence[SweepJob]) -> dict[str, Any]:
    settings, result = job.settings(), job.result
    verdict, code = (result["verdict"], result["exit_code"]) if result else job.problem or (None, None)
    return {
        "number": job.number,
        "folder": job.folder.name if job.folder else None,
        "keys": {key: settings.get(key) for key in swept_keys(jobs)},
        "repeat": job.repeat,
        "digest": result["digest"] if result else job.digest,
        "verdict": verdict if verdict is None else verdict.splitlines()[0],
        "exit_code": code,
        "times": result["times"] if result else {},
        "metrics": result["metrics"] if result else {},
    }


def csv_text(jobs: Sequence[SweepJob]) -> str:
    """results.csv (RFC 4180): a line a job, its swept keys, how it ended, its times, its metrics."""
    keys, metrics = swept_keys(jobs), metric_names(jobs)
    head = ["job", *keys, "repeat", "verdict", "exit_code", *_TIMES]
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow([*head, *(f"metric.{name}" if name in head else name for name in metrics)])
    for row in (_row(job, jobs) for job in jobs):
        lines.writerow(
            [
                row["number"],
                *(row["keys"][key] for key in keys),
                row["repeat"],
                row["verdict"],
                row["exit_code"],
                *(row["times"].get(name) for name in _TIMES),
                *(row["metrics"].get(name) for name in metrics),
            ]
        )
    return text.getvalue()


def table(jobs: Sequence[SweepJob]) -> str:
    """The same for people, plain where standard output is no terminal.

    Under a launcher it is none, whatever it looks like: Open MPI gives ranks one of its own, with no size, and what is
    written to it may end in a file.
    """
    from rich import box
    from rich.table import Table

    keys, metrics = swept_keys(jobs), metric_names(jobs)
    repeats = any(job.repeat > 1 for job in jobs)
    shown = Table(box=box.SIMPLE_HEAD)
    for name in ("job", *keys, *(["repeat"] if repeats else []), "verdict", "seconds", *metrics[:_METRICS_SHOWN]):
        shown.add_column(name, overflow="fold")
    for row in (_row(job, jobs) for job in jobs):
        numbers = [row["times"].get("total_s"), *(row["metrics"].get(name) for name in metrics[:_METRICS_SHOWN])]
        shown.add_row(
            _text(row["number"]),
            *(_text(row["keys"][key]) for key in keys),
            *([str(row["repeat"])] if repeats else []),
            _verdict(row),
            *map(_text, numbers),
        )
    terminal = sys.stdout is not None and sys.stdout.isatty() and launched_size(os.environ) is None
    width = None if terminal else PLAIN_WIDTH
    text = table_text(shown, width=width, force_terminal=terminal)
    more = len(metrics) - _METRICS_SHOWN
    return text + (f"{more} more metrics are in results.csv\n" if more > 0 else "")


def _verdict(row: dict[str, Any]) -> str:
    if row["exit_code"] is None:
        return "not run"
    if row["exit_code"] == 0:
        return "ok"
    text = row["verdict"]
    return f"{row['exit_code']}: {text if len(text) <= _VERDICT_SHOWN else text[:_VERDICT_SHOWN] + '…'}"


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
