"""results.json and results.csv of a sweep, and the results of jobs that ran in its folder before."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mvpnet.records.result import read_result
from mvpnet.sweep.model import SweepJob, metric_names, swept_keys

FORMAT = 1
_TIMES = ("started", "boot_s", "app_s", "total_s")


def document(argv: Sequence[str], jobs: Sequence[SweepJob]) -> dict[str, Any]:
    """Return what results.json holds.

    Args:
        argv: what was typed, for whoever takes the sweep up again.
        jobs: all that are known.
    """
    return {
        "format": FORMAT,
        "argv": list(argv),
        "keys": swept_keys(jobs),
        "metrics": metric_names(jobs),
        "jobs": [row(job, jobs) for job in jobs],
    }


def row(job: SweepJob, jobs: Sequence[SweepJob]) -> dict[str, Any]:
    """Return what results.json says of a job, and the tables show."""
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
    """Return results.csv (RFC 4180): a line a job, with its swept keys, its end, its times and its metrics."""
    keys, metrics = swept_keys(jobs), metric_names(jobs)
    head = ["job", *keys, "repeat", "verdict", "exit_code", *_TIMES]
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow([*head, *(f"metric.{name}" if name in head else name for name in metrics)])
    for one in (row(job, jobs) for job in jobs):
        lines.writerow(
            [
                one["number"],
                *(one["keys"][key] for key in keys),
                one["repeat"],
                one["verdict"],
                one["exit_code"],
                *(one["times"].get(name) for name in _TIMES),
                *(one["metrics"].get(name) for name in metrics),
            ]
        )
    return text.getvalue()


def results_in(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the run folders below a sweep folder whose jobs ended well, with their results."""
    found = ((path.parent, read_result(path.parent)) for path in sorted(folder.glob("*/result.json")))
    return [(path, result) for path, result in found if result and result.get("exit_code") == 0]


def next_number(folder: Path | None) -> int:
    """Return the first job number that no job in the folder has or had."""
    taken = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder and folder.is_dir() else []
    return max(taken, default=-1) + 1
