"""The table of a sweep's jobs, for people."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from mvpnet.mpi.launcher import launched_size
from mvpnet.sweep.model import SweepJob, metric_names, swept_keys
from mvpnet.sweep.results import row
from mvpnet.util.tables import PLAIN_WIDTH, table_text

_METRICS_SHOWN = 6  # on the terminal; all are in the files
_VERDICT_SHOWN = 40  # characters


def table(jobs: Sequence[SweepJob]) -> str:
    """Return the table of these jobs, plain where standard output is no terminal.

    Under a launcher standard output counts as none. Open MPI gives ranks a terminal of its own that has no size, and
    what is written to it may end in a file.
    """
    from rich import box
    from rich.table import Table

    keys, metrics = swept_keys(jobs), metric_names(jobs)
    repeats = any(job.repeat > 1 for job in jobs)
    shown = Table(box=box.SIMPLE_HEAD)
    for name in ("job", *keys, *(["repeat"] if repeats else []), "verdict", "seconds", *metrics[:_METRICS_SHOWN]):
        shown.add_column(name, overflow="fold")
    for one in (row(job, jobs) for job in jobs):
        numbers = [one["times"].get("total_s"), *(one["metrics"].get(name) for name in metrics[:_METRICS_SHOWN])]
        shown.add_row(
            _text(one["number"]),
            *(_text(one["keys"][key]) for key in keys),
            *([str(one["repeat"])] if repeats else []),
            _verdict(one),
            *map(_text, numbers),
        )
    terminal = sys.stdout is not None and sys.stdout.isatty() and launched_size(os.environ) is None
    width = None if terminal else PLAIN_WIDTH
    text = table_text(shown, width=width, force_terminal=terminal)
    more = len(metrics) - _METRICS_SHOWN
    return text + (f"{more} more metrics are in results.csv\n" if more > 0 else "")


def _verdict(one: dict[str, Any]) -> str:
    if one["exit_code"] is None:
        return "not run"
    if one["exit_code"] == 0:
        return "ok"
    text = one["verdict"]
    return f"{one['exit_code']}: {text if len(text) <= _VERDICT_SHOWN else text[:_VERDICT_SHOWN] + '…'}"


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
