"""A guest's serial console, shared by all that are attached to it: each sees all output, and each may type.

qemu listens on a socket that takes one client, and writes all output into a log file of its own too. While nobody is
attached nothing is connected there, and the guest's output costs this rank nothing. While somebody is, all that comes
is read at once, for a guest whose console is not read would stand still: a client that is behind loses output, is told
how much, and finds it in the log.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mvpnet.control.protocol import TYPED_AHEAD_BYTES, Message, data_text
from mvpnet.runtime.loop import Loop

UNTAKEN_BYTES: Final = 256 * 1024  # of output, on the way to one client
_READ_BYTES: Final = 16 * 1024
_RECENT_LINES: Final = 24  # a screen
_RECENT_BYTES: Final = 16 * 1024
_SETTLE_S: Final = 0.05  # for qemu to take the connection; until then, output goes into the log alone


class _Attached:
    """One client, by the number of its request."""

    def __init__(self) -> None:
        self.untaken_bytes = 0
        self.lost_bytes = 0
        self.typed: list[bytes] = []
        self.shows = False  # the recent output was sent, what comes is to follow


class Console:
    """`send(number, message)` brings a message to a client; it must not call back into here."""

    def __init__(self, loop: Loop, path: Path, log: Path | None, send: Callable[[int, Message], object]) -> None:
        self._loop = loop
        self._path = path
        self._log = log
        self._send = send
        self._attached: dict[int, _Attached] = {}
        self._socket: socket.socket | None = None
        self._waits_to_write = False
        self._early = bytearray()  # came from qemu before the first client was shown the recent output

    def attach(self, number: int) -> str | None:
        """Let a client take part; what is wrong, if it cannot. Its first data is the recent output."""
        if self._socket is None and (problem := self._connect()):
            return problem
        self._attached[number] = _Attached()
        self._loop.call_later(_SETTLE_S, lambda: self._show_recent(number))
        return None

    @property
    def count(self) -> int:
        """How many are attached."""
        return len(self._attached)

    def type(self, number: int, data: bytes) -> None:
        """Pass on what a client typed, as the guest takes it. Too much at once ends the client's part."""
        client = self._attached.get(number)
        if client is None:
            return
        if sum(map(len, client.typed)) + len(data) > 2 * TYPED_AHEAD_BYTES:
            self._end(number, "more was typed than the guest takes")
            return
        client.typed.append(data)
        self._write()

    def took(self, number: int, size_bytes: int) -> None:
        """A client has so much of its output."""
        if client := self._attached.get(number):
            client.untaken_bytes -= size_bytes

    def leave(self, number: int) -> None:
        """A client is gone; with the last one the connection to qemu ends."""
        if self._attached.pop(number, None) and not self._attached:
            self._disconnect()

    def close(self, why: str) -> None:
        """End everybody's part."""
        for number in list(self._attached):
            self._end(number, why)

    # -- qemu ----------------------------------------------------------------------------------------------------------

    def _connect(self) -> str | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect(str(self._path))
        except BlockingIOError:
            connection.close()
            return f"its console, {self._path}, is in use by other programs"
        except OSError as error:
            connection.close()
            return f"it has no console now ({self._path}: {error.strerror})"
        self._socket = connection
        self._loop.watch(connection.fileno(), self._read)
        return None

    def _disconnect(self) -> None:
        connection, self._socket = self._socket, None
        self._waits_to_write = False
        self._early.clear()
        if connection is not None:
            self._loop.unwatch(connection.fileno())
            connection.close()

    def _read(self) -> None:
        data = self._receive()
        if data is None:
            self.close("the guest's console was closed")
        else:
            self._hand_out(data)

    def _hand_out(self, data: bytes) -> None:
        """To all that are shown what comes; without any it is kept for the first."""
        shown = [(number, client) for number, client in self._attached.items() if client.shows]
        if not shown:
            self._early = (self._early + data)[-UNTAKEN_BYTES // 2 :]
        for number, client in shown:
            self._show(number, client, data)

    def _receive(self) -> bytes | None:
        """What is there; None at the end."""
        if self._socket is None:
            return b""
        try:
            return self._socket.recv(_READ_BYTES) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def _write(self) -> None:
        """Pass on what was typed, client by client; the rest when qemu takes more."""
        if self._socket is None:
            return
        try:
            for number, client in self._attached.items():
                while client.typed:
                    sent = self._socket.send(client.typed[0])
                    client.typed[0] = client.typed[0][sent:]
                    if not client.typed[0]:
                        client.typed.pop(0)
                    self._send(number, {"typed": sent})
        except BlockingIOError:
            if not self._waits_to_write:
                self._loop.watch(self._socket.fileno(), self._write, write=True)
            self._waits_to_write = True
            return
        except OSError:
            self.close("the guest's console was closed")
            return
        if self._waits_to_write:  # and no more
            self._waits_to_write = False
            self._loop.unwatch(self._socket.fileno())
            self._loop.watch(self._socket.fileno(), self._read)

    # -- clients -------------------------------------------------------------------------------------------------------

    def _show_recent(self, number: int) -> None:
        client = self._attached.get(number)
        if client is None:
            return
        while data := self._receive():
            self._hand_out(data)
        client.shows = True
        early, self._early = bytes(self._early), bytearray()
        self._show(number, client, joined(recent(self._log), early))

    def _show(self, number: int, client: _Attached, data: bytes) -> None:
        for at in range(0, len(data), _READ_BYTES):
            self._show_piece(number, client, data[at : at + _READ_BYTES])

    def _show_piece(self, number: int, client: _Attached, data: bytes) -> None:
        if client.untaken_bytes + len(data) > UNTAKEN_BYTES:
            client.lost_bytes += len(data)
            return
        if client.lost_bytes:
            self._send(number, {"lost": client.lost_bytes})
            client.lost_bytes = 0
        client.untaken_bytes += len(data)
        self._send(number, {"data": data_text(data)})

    def _end(self, number: int, why: str) -> None:
        self._send(number, {"end": why})
        self.leave(number)


def recent(log: Path | None) -> bytes:
    """The last lines of a console log."""
    if log is None:
        return b""
    with contextlib.suppress(OSError), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _RECENT_BYTES))
        return b"".join(file.read().splitlines(keepends=True)[-_RECENT_LINES:])
    return b""


def joined(logged: bytes, fresh: bytes) -> bytes:
    """What the log ends with and what came from qemu since, where the log may hold the beginning of that too."""
    for overlap in range(min(len(logged), len(fresh)), 0, -1):
        if logged.endswith(fresh[:overlap]):
            return logged + fresh[overlap:]
    return logged + fresh
