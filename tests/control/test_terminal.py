"""The terminal's side of a console, with a server that takes nothing, and the terminal's settings afterwards."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import termios

import pytest

from control.verbs import PATIENCE_S, read_until
from mvpnet.control.protocol import TYPED_AHEAD_BYTES
from support import poll_until

PROGRAM = """
import socket, sys
from mvpnet.control.terminal import attend
class Connection:
    socket = socket.socket(fileno=int(sys.argv[1]))
    def send(self, message):
        import json
        self.socket.sendall(json.dumps(message).encode() + b"\\n")
    def receive(self):
        import json
        data = self.socket.recv(65536)
        return [json.loads(line) for line in data.splitlines()] or [{"end": "gone"}]
print("ready", flush=True)
print(attend(Connection(), escape=b"\\x1d", reads_stdin=True), flush=True)
"""


@pytest.mark.parametrize("end", ["escape", "server", "signal"])
def test_the_terminal_is_raw_meanwhile_and_as_it_was_after(end: str) -> None:
    ours, theirs = pty.openpty()
    server, client = socket.socketpair()
    before = termios.tcgetattr(theirs)
    asked = [sys.executable, "-c", PROGRAM, str(client.fileno())]
    process = subprocess.Popen(asked, stdin=theirs, stdout=theirs, stderr=theirs, pass_fds=[client.fileno()])
    client.close()
    try:
        read_until(ours, "ready")
        poll_until(lambda: not termios.tcgetattr(theirs)[3] & termios.ICANON, PATIENCE_S, "a raw terminal")
        os.write(ours, b"\x03")  # Ctrl-C is a byte like any other
        assert json.loads(server.recv(1000)) == {"data": "Aw=="}
        server.sendall(b'{"lost": 12}\n{"data": "aGk="}\n')
        assert "12 bytes of output left out" in read_until(ours, "hi")
        if end == "escape":
            for _ in range(2 * TYPED_AHEAD_BYTES // 1024):  # far more than the server passes on
                os.write(ours, b"y" * 1024)
            os.write(ours, b"\x1d")
            read_until(ours, "left")
        elif end == "server":
            server.sendall(b'{"end": "no more"}\n')
            read_until(ours, "no more")
        else:
            process.terminate()
        process.wait(PATIENCE_S)
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        server.close()
        os.close(ours)
        os.close(theirs)
