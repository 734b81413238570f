"""Show a progress bar on standard error. This module needs rich, and is imported for a terminal only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


@contextmanager
def shown(what: str, total_bytes: int | None, done_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show the bar; call the provided function with the number of bytes since its last call."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total_bytes, completed=done_bytes)
        yield lambda count: progress.advance(task, count)
