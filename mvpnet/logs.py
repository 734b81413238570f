"""Logging: messages go to the terminal, to the rank's own file, and to a ring of recent ones for a crash.

Loguru carries them. A message's part is the module or package below mvpnet that wrote it (`dataplane`, `guest`,
`job`, …); `logging.levels` sets the level of single parts (`spec.log_parts`).
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from loguru import logger

from mvpnet.paths import RankLogs, doubled_braces
from mvpnet.spec.log_parts import levels_by_part
from mvpnet.spec.schema import Logging
from mvpnet.spec.sizes import parse_size
from mvpnet.util.encoding import AS_BYTES, encoded

if TYPE_CHECKING:
    from loguru import FilterFunction, Record


class LogRing:
    """Keeps the newest messages of every level, up to `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._lines: deque[str] = deque()
        self._held_bytes = 0

    def add(self, line: str) -> None:
        self._lines.append(line)
        self._held_bytes += len(line)
        while self._held_bytes > self.limit_bytes:
            self._held_bytes -= len(self._lines.popleft())

    def write_to(self, path: Path) -> None:
        if self._lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(self._lines), errors=AS_BYTES)


def part_of(module: str) -> str:
    """Return the part that a module belongs to: of `mvpnet.dataplane.switch` it is `dataplane`."""
    return module.split(".")[1] if "." in module else module


def above(level: str, levels: Mapping[str, str]) -> FilterFunction:
    """Return a filter that lets messages pass from `level` on, or from their part's own level."""
    thresholds = {part: logger.level(name).no for part, name in levels_by_part(levels).items()}
    default = logger.level(level).no

    def passes(record: Record) -> bool:
        return record["level"].no >= thresholds.get(part_of(record["name"] or ""), default)

    return passes


@contextlib.contextmanager
def rank_logs(rank: int, settings: Logging, logs: RankLogs) -> Iterator[LogRing]:
    """Log this rank's messages while inside. Recent messages are written out when an error passes through."""
    line = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {name}: {message}"
    recent = LogRing(parse_size(settings.recent, "logging.recent"))
    add = partial(logger.add, level=0, backtrace=False, diagnose=False)
    to_terminal = above(settings.stderr_level, settings.levels)
    sinks = [
        add(
            lambda text: write_quietly(sys.stderr, encoded(text)),
            format=f"n{rank:04d} {{level}}: {{message}}",
            filter=to_terminal,
        )
    ]
    if settings.file:
        logs.folder.mkdir(parents=True, exist_ok=True)
        to_file = above(settings.level, settings.levels)
        path = doubled_braces(str(logs.mvpnet))  # loguru expands {time} in it
        sinks.append(add(path, format=line, filter=to_file, errors=AS_BYTES))
    if recent.limit_bytes:
        sinks.append(add(recent.add, format=line))
    try:
        yield recent
    except BaseException:
        with contextlib.suppress(OSError):
            recent.write_to(logs.recent)
        raise
    finally:
        for sink in sinks:
            logger.remove(sink)


def write_quietly(stream: TextIO | None, data: bytes) -> None:
    """Write to standard output or error in one piece, and never fail.

    A reader that has gone (`mvpnet … | head`) or a full disk must not end a job: the stream is led to /dev/null then.

    Args:
        stream: The stream; None if it was closed at the program's start.
        data: The bytes to write.
    """
    if stream is None:
        return
    try:
        stream.buffer.write(data)
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # buffered data goes there too when Python exits
        os.close(nowhere)


def say(line: str) -> None:
    """Write a line for the person at the terminal, in one write, so that lines of several ranks do not mix."""
    write_quietly(sys.stderr, encoded(f"{line}\n"))


def silence() -> None:
    """Drop loguru's own default sink: nothing is logged before the config says where to."""
    with contextlib.suppress(ValueError):
        logger.remove(0)
