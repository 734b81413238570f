"""Protocol of a job's control socket: JSON objects, one per line.

A client sends a request and gets one answer, `{"ok": …}` or `{"error": {"kind": …, "message": …, "hint": …}}`:

    {"protocol": 1, "do": "job"}                                    the job's phase, hosts and states, from rank 0
    {"protocol": 1, "do": "status"}                                 the same, and the status of each rank
    {"protocol": 1, "do": "qmp", "rank": 1, "command": {…}}         a QMP command, {"execute": …, "arguments": …}
    {"protocol": 1, "do": "console", "rank": 1}                     attach to a console
    {"protocol": 1, "do": "save", "folder": "/…"}                   save all guests; {"progress": "…"} before the answer

After the answer to `console` both sides send data, bytes in base64, until the connection ends:

    server   {"data": …}  output of the guest      {"typed": 12}  number of bytes passed on to the guest
             {"lost": 300}  bytes of output left out for a slow client      {"end": "why"}
    client   {"data": …}  typed, at most TYPED_AHEAD_BYTES more than were passed on
"""

from __future__ import annotations

import base64
import json
import socket
import struct
from typing import Any, Final

PROTOCOL: Final = 1
TYPED_AHEAD_BYTES: Final = 16 * 1024
MAX_LINE_BYTES: Final = 2 * TYPED_AHEAD_BYTES  # of a request or of input; answers may be longer
_UCRED: Final = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED

Message = dict[str, Any]


def packed(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"


def data_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_in(message: Message) -> bytes:
    """Return the bytes in a message's data.

    Raises:
        ValueError: The data is not base64.
    """
    return base64.b64decode(message["data"], validate=True)


class Lines:
    """Splits a byte stream into messages."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._unread = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Add received bytes and return the messages that they complete.

        Raises:
            ValueError: A line is not a message, or is too long.
        """
        self._unread += data
        *lines, self._unread = self._unread.split(b"\n")
        longest = max(map(len, (*lines, self._unread)))
        if self._limit_bytes is not None and longest > self._limit_bytes:
            raise ValueError(f"a line of more than {self._limit_bytes} bytes")
        try:
            messages = [json.loads(line) for line in lines]
        except RecursionError:
            raise ValueError("too many brackets in brackets") from None
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("not a JSON object")
        return messages


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return process id and user id of a unix socket's peer, as the kernel reports them."""
    pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid
