"""What is said on a job's control socket: JSON objects, a line each.

A client sends a request, and gets one answer, `{"ok": …}` or `{"error": {"kind": …, "message": …, "hint": …}}`:

    {"protocol": 1, "do": "job"}                                    what rank 0 knows: phase, hosts, states
    {"protocol": 1, "do": "status"}                                 the same, and each rank's own account
    {"protocol": 1, "do": "qmp", "rank": 1, "command": {…}}         a QMP command, {"execute": …, "arguments": …}
    {"protocol": 1, "do": "console", "rank": 1}                     attach to a console
    {"protocol": 1, "do": "save", "folder": "/…"}                   save all guests; {"progress": "…"} before the answer

After the answer to `console` both sides send what they have, bytes in base64, until the connection ends:

    server   {"data": …}  output of the guest      {"typed": 12}  so many bytes were passed on to the guest
             {"lost": 300}  bytes of output left out, as the client was behind      {"end": "why"}
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
MAX_LINE_BYTES: Final = 2 * TYPED_AHEAD_BYTES  # of a request, or of what is typed; answers may be longer
_UCRED: Final = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED

Message = dict[str, Any]


def packed(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"


def data_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_in(message: Message) -> bytes:
    """Raises ValueError for what is not base64."""
    return base64.b64decode(message["data"], validate=True)


class Lines:
    """Cuts what comes into messages."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        self._limit_bytes = limit_bytes
        self._unread = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete by now. Raises ValueError for what is none, or too long."""
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
    """Process id and user id at the other end of a unix socket, as the kernel knows them."""
    pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return pid, uid
