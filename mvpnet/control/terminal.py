"""Terminal side of a console: passes bytes unchanged between terminal and guest, until the escape character.

The terminal is in raw mode meanwhile, so that Ctrl-C and other control characters go to the guest. If standard input
is not a terminal, all of it is typed; after its end the client leaves once the guest has been silent for SILENCE_S.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Any, Final

from mvpnet.control.client import Connection
from mvpnet.control.protocol import TYPED_AHEAD_BYTES, Message, data_in, data_text
from mvpnet.errors import ConfigError, InterruptedJobError
from mvpnet.logs import say

SILENCE_S: Final = 1.0


def escape_byte(text: str) -> bytes | None:
    """Return the byte of an escape character, given as `^]`, `^X` or `x`; None for `none`.

    Raises:
        ConfigError: The text is not a character.
    """
    if text == "none":
        return None
    if len(text) == 2 and text[0] == "^" and "@" <= text[1].upper() <= "_":
        return bytes([ord(text[1].upper()) - ord("@")])
    if len(text) == 1 and text.isascii():
        return text.encode()
    raise ConfigError(f"--escape: {text!r} is no character", hint="write ^] for Ctrl-], a single character, or none")


def attend(connection: Connection, *, escape: bytes | None, reads_stdin: bool) -> str:
    """Connect the terminal with a console until the user leaves or the console ends.

    The terminal's settings are always restored.

    Returns:
        How it ended, in words.

    Raises:
        JobError: The job ended.
        InterruptedJobError: SIGTERM or SIGHUP arrived, or Ctrl-C while it does not go to the guest.
    """
    connection.socket.settimeout(None)
    stdin = sys.stdin.fileno() if reads_stdin and sys.stdin is not None else None
    if stdin is None or not os.isatty(stdin):
        escape = None  # all input from a pipe is typed
    with _raising_signals(), _raw(stdin):
        return _Visit(connection, stdin, escape).run()


class _Visit:
    def __init__(self, connection: Connection, stdin: int | None, escape: bytes | None) -> None:
        self._connection = connection
        self._stdin = stdin
        self._escape = escape
        self._is_terminal = stdin is not None and os.isatty(stdin)
        self._ahead_bytes = 0  # typed and not passed on to the guest yet
        self._typed_all = False
        self._heard_s = time.monotonic()
        self._end: str | None = None

    def run(self) -> str:
        while self._end is None:
            ready, _, _ = select.select(self._wanted(), [], [], self._patience_s())
            if self._connection.socket in ready:
                for message in self._connection.receive():
                    self._hear(message)
            if self._stdin in ready:
                self._type()
            if self._silent():
                return "left, at the end of the input"
        return self._end

    def _wanted(self) -> list[Any]:
        takes = self._stdin is not None and not self._typed_all and (self._room_bytes() > 0 or self._is_terminal)
        return [self._connection.socket, *([self._stdin] if takes else [])]

    def _room_bytes(self) -> int:
        return TYPED_AHEAD_BYTES - self._ahead_bytes

    def _patience_s(self) -> float | None:
        return max(0.0, self._heard_s + SILENCE_S - time.monotonic()) if self._leaving() else None

    def _leaving(self) -> bool:
        return self._typed_all and not self._ahead_bytes

    def _silent(self) -> bool:
        return self._leaving() and time.monotonic() >= self._heard_s + SILENCE_S

    def _hear(self, message: Message) -> None:
        if "data" in message:
            self._heard_s = time.monotonic()
            _put(data_in(message))
        elif "typed" in message:
            self._ahead_bytes -= message["typed"]
            self._heard_s = time.monotonic()
        elif "lost" in message:
            _put(f"\r\n[mvpnet: {message['lost']} bytes of output left out; the console log has them]\r\n".encode())
        elif "end" in message:
            self._end = message["end"]

    def _type(self) -> None:
        assert self._stdin is not None
        data = os.read(self._stdin, 4096 if self._is_terminal else min(4096, self._room_bytes()))
        if not data:
            self._typed_all = True
            self._heard_s = time.monotonic()
            return
        if self._escape is not None and self._escape in data:
            data = data[: data.index(self._escape)]
            self._end = "left"
        if len(data) > self._room_bytes():  # ring the bell, as a terminal does; the escape still works
            _put(b"\a")
            data = data[: self._room_bytes()]
        if data:
            self._ahead_bytes += len(data)
            self._connection.send({"data": data_text(data)})


def _put(data: bytes) -> None:
    """Write to standard output unchanged; EPIPE ends the program as usual."""
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


@contextlib.contextmanager
def _raw(stdin: int | None) -> Iterator[None]:
    if stdin is None or not os.isatty(stdin):
        yield
        return
    before = termios.tcgetattr(stdin)
    tty.setraw(stdin)
    try:
        yield
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        say("")


@contextlib.contextmanager
def _raising_signals() -> Iterator[None]:
    """Raise an exception on SIGTERM and SIGHUP, so that the terminal is restored."""

    def end(number: int, _: object) -> None:
        raise InterruptedJobError(f"left the console: {signal.Signals(number).name}", exit_code=128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
