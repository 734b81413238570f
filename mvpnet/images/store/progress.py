"""Show the progress of long steps: a bar on a terminal, else a line of text every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from mvpnet.util.pace import Pace
from mvpnet.util.text import Say

#: advance(bytes)
Advance = Callable[[int], None]
#: meter(what, total bytes or None, bytes done already), a context manager that returns an Advance
Meter = Callable[[str, int | None, int], AbstractContextManager[Advance]]


def default_meter(say: Say) -> Meter:
    """Return a meter that shows a bar where standard error is a terminal, else writes lines to `say`."""
    return bar_meter if sys.stderr.isatty() else line_meter(say)


def line_meter(say: Say, clock: Callable[[], float] = time.monotonic) -> Meter:
    """Return a meter that writes lines to `say`, the first after two seconds, then one every five."""

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
    """Show a bar on standard error."""
    from mvpnet.images.store import progress_bar

    with progress_bar.shown(what, total, done) as advance:
        yield advance
