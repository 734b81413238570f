"""How far something long is: a bar on a terminal, else a line of plain text every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from mvpnet.util.pace import Pace
from mvpnet.util.text import Say

#: advance(bytes)
Advance = Callable[[int], None]
#: meter(what, total bytes or None, bytes that are there already), a context manager that gives an Advance
Meter = Callable[[str, int | None, int], AbstractContextManager[Advance]]


def default_meter(say: Say) -> Meter:
    """A bar where standard error is a terminal, else lines to `say`."""
    return bar_meter if sys.stderr.isatty() else line_meter(say)


def line_meter(say: Say, clock: Callable[[], float] = time.monotonic) -> Meter:
    """Lines to `say`, the first after two seconds, then one every five: a quick thing needs none."""

    @contextmanager
    def meter(what: str, total: int | None, done: int) -> Iterator[Advance]:
        pace = Pace(clock)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if pace.is_due():
                say(f"{what}: {done / 2**20:.0f}{f' of {total / 2**20:.0f}' if total else ''} MiB")

        yield advance

    return meter


@contextmanager
def bar_meter(what: str, total: int | None, done: int) -> Iterator[Advance]:
    """A bar on standard error."""
    from mvpnet.images.store import progress_bar

    with progress_bar.shown(what, total, done) as advance:
        yield advance
