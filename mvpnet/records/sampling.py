"""Sampling of counters: every net.sample_interval_s seconds a rank appends its switch's counters to traffic.jsonl.

A line holds the time (seconds since 1970) and the total counters; rates are computed from differences. Nothing is
written while the counters do not change. After such a gap the time of the last unchanged sample is written first, so
that the gap is not drawn as a slope. A guest without any traffic has no such file.

Lines are buffered for ten samples, to spare a shared file system.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from loguru import logger

from mvpnet.runtime.loop import Loop

if TYPE_CHECKING:
    from mvpnet.dataplane.counters import Counters

SAMPLED = (
    "frames_from_guest",
    "bytes_from_guest",
    "frames_to_guest",
    "bytes_to_guest",
    "broadcast_frames",
    "messages_sent",
    "messages_received",
)
_FLUSH_EVERY = 10  # samples


class Counting(Protocol):
    @property
    def counters(self) -> Counters: ...


class Sampler:
    """Samples the counters of a switch in its rank's loop, until `close`. With `every_s` = 0 it never samples."""

    def __init__(self, loop: Loop, counting: Counting, path: Path, every_s: float) -> None:
        self._loop = loop
        self._counting = counting
        self._path = path
        self._every_s = every_s
        self._file: TextIO | None = None
        self._last: dict[str, Any] = {}
        self._idle_at: float | None = None  # time of the newest sample without a change, which was not written
        self._samples = 0
        self._timer = loop.call_later(0.0, self._take) if every_s else None

    def close(self) -> None:
        """Take the last sample and close the file."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
            self._sample()
        self._end()

    def _take(self) -> None:
        self._sample()
        if self._timer:
            self._timer = self._loop.call_later(self._every_s, self._take)

    def _sample(self) -> None:
        now, counted = time.time(), self._counted()
        if not self._last:
            self._last = counted
        if counted == self._last:
            self._idle_at = now
            return
        try:
            if self._idle_at:
                self._write(self._idle_at, self._last)
            self._write(now, counted)
        except OSError as error:
            logger.warning("{}: {}; no more counters are sampled", self._path, error.strerror)
            self._timer = None
            self._end()
        self._last, self._idle_at = counted, None

    def _counted(self) -> dict[str, Any]:
        counters = self._counting.counters
        return {**{name: getattr(counters, name) for name in SAMPLED}, "drops": dict(counters.drops)}

    def _write(self, at: float, counted: dict[str, Any]) -> None:
        if self._file is None:
            self._file = self._path.open("w")
        self._file.write(json.dumps({"t": round(at, 3), **counted}) + "\n")
        self._samples += 1
        if self._samples % _FLUSH_EVERY == 0:
            self._file.flush()

    def _end(self) -> None:
        file, self._file = self._file, None
        try:
            if file:
                file.close()
        except OSError as error:  # no room for the buffered lines
            logger.warning("{}: {}", self._path, error.strerror)
