"""What a program prints: kept in a file, shown to the person at the terminal, and looked through line by line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from loguru import logger

from mvpnet.errors import HostError
from mvpnet.logs import write_quietly

_LONGEST_LINE_BYTES = 65536  # a longer one is passed on in pieces


class BehindMark:
    """Passes on what comes behind a mark, and not the mark; what came before it is held."""

    def __init__(self, mark: bytes, pass_on: Callable[[bytes], object]) -> None:
        self.seen = False
        self._mark = mark
        self._pass_on = pass_on
        self._held = b""

    def take(self, data: bytes) -> None:
        if self.seen:
            self._pass_on(data)
            return
        self._held += data
        before, mark, behind = self._held.partition(self._mark)
        if mark:
            self.seen, self._held = True, before
            self._pass_on(behind)

    def let_go(self) -> None:
        """There will be no mark: pass on what was held."""
        if not self.seen:
            self._pass_on(self._held)


class OutputLog:
    """The output of one program on one rank.

    Shown as it comes or, with a `prefix`, in whole lines behind it, so that the lines of several ranks do not mix.
    """

    def __init__(self, path: Path, *, show: bool, prefix: str, on_line: Callable[[bytes], object]) -> None:
        """Raises HostError when the file cannot be written."""
        self._path = path
        self._show = show
        self._prefix = prefix.encode()
        self._on_line = on_line
        self._unfinished = b""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO | None = path.open("wb", buffering=0)
        except OSError as error:
            raise HostError(f"cannot write {path}: {error.strerror}") from error

    def take(self, data: bytes) -> None:
        self._keep(data)
        if self._show and not self._prefix:
            write_quietly(sys.stdout, data)
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        if len(self._unfinished) > _LONGEST_LINE_BYTES:
            lines.append(self._unfinished)
            self._unfinished = b""
        self._pass_on(lines)

    def close(self) -> None:
        """The program has ended; harmless when repeated."""
        if self._unfinished:
            self._pass_on([self._unfinished])
            self._unfinished = b""
        self._close_file()

    def _pass_on(self, lines: list[bytes]) -> None:
        for line in lines:
            self._on_line(line)
        if self._show and self._prefix and lines:
            write_quietly(sys.stdout, b"".join(self._prefix + line + b"\n" for line in lines))

    def _keep(self, data: bytes) -> None:
        """Into the file, as long as there is room: a full disk must not end the job."""
        try:
            if self._file:
                self._file.write(data)
        except OSError as error:
            logger.error("{}: {}; no more of the app's output is kept", self._path, error.strerror)
            self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        with contextlib.suppress(OSError):  # NFS may tell only now that the disk is full
            if file:
                file.close()
