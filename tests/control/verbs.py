"""Verbs as a user types them in another terminal, in a folder that has nothing to do with the job."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE_S = 90.0


def hands(*arguments: str, stdin: str | None = None, env: dict[str, str] | None = None) -> Any:
    """Run a verb to its end."""
    command = [sys.executable, "-m", "mvpnet", *arguments]
    given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        command, cwd="/", capture_output=True, text=True, timeout=PATIENCE_S, env=environment, **given
    )


def said(*arguments: str, **how: Any) -> str:
    done = hands(*arguments, **how)
    assert done.returncode == 0, done
    return done.stdout


def refused(code: int, *arguments: str, **how: Any) -> str:
    done = hands(*arguments, **how)
    assert (done.returncode, done.stdout) == (code, ""), done
    return done.stderr


def jobs_listed() -> list[dict[str, Any]]:
    return json.loads(said("ls", "--json"))


@contextmanager
def on_a_terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A verb on a terminal of its own, and our end of that."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mvpnet", *arguments]
    process = subprocess.Popen(command, cwd="/", stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def is_raw(terminal: int) -> bool:
    """Whether the verb has its terminal in raw mode; what was typed before that is thrown away."""
    return not termios.tcgetattr(terminal)[3] & termios.ICANON


def read_until(terminal: int, text: str, times: int = 1) -> str:
    """What comes on a terminal until it holds the text so many times."""
    shown = ""
    deadline = time.monotonic() + PATIENCE_S
    while shown.count(text) < times:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"waited in vain for {text!r} in {shown!r}"
        try:
            shown += os.read(terminal, 4096).decode(errors="replace")
        except OSError:  # EIO: the other end is closed
            raise AssertionError(f"ended without {text!r}: {shown!r}") from None
    return shown
