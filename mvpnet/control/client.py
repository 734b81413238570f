"""Client of a job's control socket, which turns failures of the connection into errors for people."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from mvpnet import __version__
from mvpnet.control.protocol import PROTOCOL, Lines, Message, packed, peer_of
from mvpnet.control.registry import ANSWERING, PREPARING, JobHandle
from mvpnet.control.server import ANSWER_S
from mvpnet.errors import GuestError, JobError, MvpnetError

ANSWER_WITHIN_S = ANSWER_S + 5.0  # longer than rank 0's limit, so that rank 0 can name the rank that does not answer
GLANCE_S = 5.0  # for requests that rank 0 answers without asking other ranks


class Connection:
    """A connection to one job's control socket; a context manager.

    Raises:
        JobError: The job speaks another protocol, is preparing or ending, or cannot be reached.
    """

    def __init__(self, job: JobHandle) -> None:
        entry = job.entry
        if entry.protocol != PROTOCOL:
            raise JobError(
                f"job {entry.title} was started by mvpnet {entry.version}, which speaks protocol {entry.protocol}; "
                f"this is mvpnet {__version__}, which speaks protocol {PROTOCOL}",
                hint=f"use that one: {entry.python} -m mvpnet …",
            )
        if entry.phase != ANSWERING:
            what = "its guests are not started yet" if entry.phase == PREPARING else "its guests are gone"
            raise JobError(f"job {entry.title} is {entry.phase}: {what}")
        self.title = entry.title
        self._messages: deque[Message] = deque()
        self._lines = Lines()
        try:
            self.socket = job.connect()
        except OSError as error:
            raise self._lost(f"cannot be reached: {error.strerror}") from error
        if peer_of(self.socket)[1] != os.getuid():
            self.socket.close()
            raise JobError(f"the control socket in {job.folder} is another user's")

    def send(self, message: Message) -> None:
        try:
            self.socket.sendall(packed(message))
        except TimeoutError as error:
            raise self._lost("takes no requests") from error
        except OSError as error:
            raise self._lost("has ended") from error

    def ask(
        self,
        request: Message,
        within_s: float = ANSWER_WITHIN_S,
        *,
        on_progress: Callable[[str], object] = lambda line: None,
    ) -> Any:
        """Send a request and return its answer.

        Args:
            request: The request, without the protocol's number.
            within_s: How long to wait for each message of the job.
            on_progress: Called with each progress line that precedes the answer.

        Raises:
            JobError: The job refused the request, did not answer in time, or ended.
            GuestError: The guest could not do what was asked.
        """
        self.socket.settimeout(within_s)
        self.send({"protocol": PROTOCOL, **request})
        while "progress" in (answer := self._next()):
            on_progress(answer["progress"])
        if "error" in answer:
            raise _error(answer["error"])
        if "ok" not in answer:
            raise self._lost("has ended")
        return answer["ok"]

    def _next(self) -> Message:
        while not self._messages:
            self._messages.extend(self.receive())
        return self._messages.popleft()

    def receive(self) -> list[Message]:
        """Wait for data and return the messages that it completes, perhaps none.

        Raises:
            JobError: The connection ended or timed out.
        """
        if self._messages:
            early = list(self._messages)
            self._messages.clear()
            return early
        try:
            data = self.socket.recv(1 << 20)
        except TimeoutError as error:
            raise self._lost(f"did not answer in {self.socket.gettimeout():g} s") from error
        except OSError:
            data = b""
        if not data:
            raise self._lost("has ended")
        return self._lines.feed(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _lost(self, what: str) -> JobError:
        return JobError(f"job {self.title} {what}", hint="mvpnet ls shows which jobs run")


def ask(job: JobHandle, request: Message, within_s: float = ANSWER_WITHIN_S) -> Any:
    """Send one request over a connection of its own and return the answer; raise what `Connection.ask` does."""
    with Connection(job) as connection:
        return connection.ask(request, within_s)


def _error(told: Message) -> MvpnetError:
    kind = GuestError if told["kind"] == "guest" else JobError
    return kind(told["message"], hint=told.get("hint"))
