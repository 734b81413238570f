"""Waiting for what comes when it comes: by polling with a deadline, or by running a rank's loop meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mvpnet.runtime.loop import Loop
from support import poll_until

PATIENCE_S = 30.0  # far beyond what anything here takes, on a machine that is busy with other things


def eventually(predicate: Callable[[], Any], timeout_s: float = PATIENCE_S, what: str = "it") -> Any:
    """The predicate's first true value; AssertionError when none comes in time."""
    return poll_until(predicate, timeout_s, what)


def run_until(loop: Loop, predicate: Callable[[], Any], timeout_s: float = PATIENCE_S, what: str = "it") -> Any:
    """Run the loop until the predicate is true, and return its value; AssertionError when it is not in time."""
    deadline = time.monotonic() + timeout_s

    def check() -> None:
        if predicate() or time.monotonic() > deadline:
            loop.stop()
        else:
            loop.call_later(0.01, check)

    check_at_once = loop.call_later(0.0, check)
    loop.run()
    check_at_once.cancel()
    value = predicate()
    assert value, f"waited {timeout_s:g} s in vain for {what}"
    return value
