"""Detects when the guest's ssh server answers.

A connection alone tells nothing: qemu's user network takes it at once, hangs up when nothing listens in the guest, and
keeps it for many seconds when the guest has no network yet. So the probe waits for the server's identification,
a line that starts with "SSH-" (RFC 4253, section 4.2). Tries overlap, as one that began too early may hang although
the next would be answered; few at once, as an ssh server turns away who has too many connections without a login
(dropbear: a sixth from one address), and would turn away the first login after us.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable

from mvpnet.runtime.loop import Loop, Timer

FIRST_PAUSE_S = 0.25  # between two tries
LAST_PAUSE_S = 1.0
PAUSE_GROWTH = 1.3
LOADED_PAUSE_S = 5.0  # a guest that goes on from a save takes every connection, if slowly
TRY_S = 10.0  # a loaded host under TCG takes some seconds from connection to banner
SPACING_S = TRY_S / 4  # between tries of which the first still waits for its answer: not more than four do
PREAMBLE_BYTES = 8192  # of other lines, which RFC 4253 lets a server send first


class BootProbe:
    """Tries 127.0.0.1:`port` until a banner comes, which `on_banner` is then called with, once. Never blocks."""

    def __init__(
        self,
        loop: Loop,
        port: int,
        on_banner: Callable[[str], None],
        *,
        try_s: float = TRY_S,
        pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._loop = loop
        self._address = ("127.0.0.1", port)
        self._on_banner = on_banner
        self._try_s = try_s
        self._pause_s = pause_s
        self._last_pause_s = max(pause_s, LAST_PAUSE_S)
        self._next: Timer | None = None
        self._began_s = 0.0  # the last try
        self._tries: set[_Try] = set()

    def start(self) -> None:
        """Begin; the first try is made at once."""
        self._next = self._loop.call_later(0.0, self._try)

    def cancel(self) -> None:
        """End all tries; nothing is reported any more."""
        if self._next:
            self._next.cancel()
        for attempt in list(self._tries):
            attempt.close()

    def _try(self) -> None:
        self._next = self._loop.call_later(self._pause_s, self._try)
        if self._tries and time.monotonic() - self._began_s < SPACING_S:
            return
        self._began_s = time.monotonic()
        self._pause_s = min(self._pause_s * PAUSE_GROWTH, self._last_pause_s)
        attempt = _Try(self._loop, self._try_s, self._ended)
        self._tries.add(attempt)
        attempt.connect(self._address)

    def _ended(self, attempt: _Try) -> None:
        self._tries.discard(attempt)
        if attempt.banner is not None:
            self.cancel()
            self._on_banner(attempt.banner)


class _Try:
    """One connection."""

    def __init__(self, loop: Loop, try_s: float, on_end: Callable[[_Try], None]) -> None:
        self.banner: str | None = None
        self._loop = loop
        self._on_end = on_end
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._heard = b""
        self._open = True
        self._timeout = loop.call_later(try_s, self.close)

    def connect(self, address: tuple[str, int]) -> None:
        if self._socket.connect_ex(address) not in (0, errno.EINPROGRESS):
            self.close()
        else:
            self._loop.watch(self._socket.fileno(), self._on_readable)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._timeout.cancel()
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._on_end(self)

    def _on_readable(self) -> None:
        """Also when the connection was refused or has ended."""
        try:
            data = self._socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._heard += data
        self.banner = ssh_banner(self._heard)
        if self.banner is not None or not data or len(self._heard) > PREAMBLE_BYTES:
            self.close()


def ssh_banner(heard: bytes) -> str | None:
    """The first complete line that starts with "SSH-"; None as long as there is none."""
    lines = heard.split(b"\n")[:-1]
    return next((line.decode("ascii", "replace").rstrip("\r") for line in lines if line.startswith(b"SSH-")), None)
