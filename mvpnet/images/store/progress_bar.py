"""A progress bar on standard error. It needs rich, and is imported where there is a terminal to show it on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


@contextmanager
def shown(what: str, total_bytes: int | None, done_bytes: int) -> Iterator[Callable[[int], None]]:
    """The bar while inside; what it gives is called with the bytes that came since."""
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
