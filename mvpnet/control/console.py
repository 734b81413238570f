"""Sharing of a guest's serial console among clients: each client sees all output, and each may type.

qemu listens on a socket that takes one client, and also writes all output into a log file. Without clients there is
no connection to qemu, and the guest's output costs this rank nothing. With clients all output is read immediately,
because a guest whose console is not read stops at its next write. A slow client loses output; it is told how many
bytes, and the log has them.
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

UNTAKEN_BYTES: Final = 256 * 1024  # limit of output that is on its way to one client
_READ_BYTES: Final = 16 * 1024
_RECENT_LINES: Final = 24  # a screen
_RECENT_BYTES: Final = 16 * 1024
_SETTLE_S: Final = 0.05  # for qemu to accept the connection; until then, output goes only into the log


class _Attached:
    """State of one attached client."""

    def __init__(self) -> None:
        self.untaken_bytes = 0
        self.lost_bytes = 0
        self.typed: list[bytes] = []
        self.shows = False  # the recent output was sent, new output follows


class Console:
    """Connects the clients of one guest's console with qemu.

    Args:
        loop: The rank's event loop.
        path: The socket on which qemu listens.
        log: The file into which qemu writes the console's output.
        send: Sends a message to the client of a request number. It must not call this object.
    """

    def __init__(self, loop: Loop, path: Path, log: Path | None, send: Callable[[int, Message], object]) -> None:
        self._loop = loop
        self._path = path
        self._log = log
        self._send = send
        self._attached: dict[int, _Attached] = {}
        self._socket: socket.socket | None = None
        self._waits_to_write = False
        self._early = bytearray()  # output that came from qemu before the first client was sent the recent output

    def attach(self, number: int) -> str | None:
        """Attach a client and send it the recent output first.

        Returns:
            The reason why the console cannot be used; None on success.
        """
        if self._socket is None and (problem := self._connect()):
            return problem
        self._attached[number] = _Attached()
        self._loop.call_later(_SETTLE_S, lambda: self._show_recent(number))
        return None

    @property
    def count(self) -> int:
        """Number of attached clients."""
        return len(self._attached)

    def type(self, number: int, data: bytes) -> None:
        """Queue a client's input for the guest; detach a client that types more than the queue takes."""
        client = self._attached.get(number)
        if client is None:
            return
        if sum(map(len, client.typed)) + len(data) > 2 * TYPED_AHEAD_BYTES:
            self._end(number, "more was typed than the guest takes")
            return
        client.typed.append(data)
        self._write()

    def took(self, number: int, size_bytes: int) -> None:
        """Note that a client has received `size_bytes` of its output."""
        if client := self._attached.get(number):
            client.untaken_bytes -= size_bytes

    def leave(self, number: int) -> None:
        """Detach a client; disconnect from qemu after the last one."""
        if self._attached.pop(number, None) and not self._attached:
            self._disconnect()

    def close(self, why: str) -> None:
        """Detach all clients and tell them why."""
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
        """Send output to all clients that follow it; keep it for the first client if none does."""
        shown = [(number, client) for number, client in self._attached.items() if client.shows]
        if not shown:
            self._early = (self._early + data)[-UNTAKEN_BYTES // 2 :]
        for number, client in shown:
            self._show(number, client, data)

    def _receive(self) -> bytes | None:
        """Return the available output, perhaps none; None at the end of the connection."""
        if self._socket is None:
            return b""
        try:
            return self._socket.recv(_READ_BYTES) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def _write(self) -> None:
        """Write the queued input, client by client; continue when qemu takes more."""
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
        if self._waits_to_write:  # all is written
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
    """Return the last lines of a console log."""
    if log is None:
        return b""
    with contextlib.suppress(OSError), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _RECENT_BYTES))
        return b"".join(file.read().splitlines(keepends=True)[-_RECENT_LINES:])
    return b""


def joined(logged: bytes, fresh: bytes) -> bytes:
    """Join the end of the log with the output that came from qemu, without what both hold."""
    for overlap in range(min(len(logged), len(fresh)), 0, -1):
        if logged.endswith(fresh[:overlap]):
            return logged + fresh[overlap:]
    return logged + fresh
