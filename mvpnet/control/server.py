"""Control server on rank 0: accepts requests of clients, asks the ranks, and returns their answers.

Everything runs in callbacks of rank 0's loop, and none of them blocks. Without clients it does no work.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from loguru import logger

from mvpnet import __version__
from mvpnet.control.interfaces import SaveCoordinator
from mvpnet.control.protocol import MAX_LINE_BYTES, PROTOCOL, Lines, Message, data_in, data_text, packed, peer_of
from mvpnet.control.rank_messages import (
    Answer,
    AnswerEnd,
    AnswerPart,
    AttachRequest,
    ConsoleOutput,
    LeaveRequest,
    QmpRequest,
    RankReply,
    RankRequest,
    StatusRequest,
    TakenRequest,
    TypeRequest,
)
from mvpnet.dataplane.address import host_name
from mvpnet.runtime.loop import Loop, Timer

MAX_COMMAND_BYTES: Final = 4000  # of a QMP command: monwrap takes 4096, including its own command word and a number
ANSWER_S: Final = 10.0  # limit for the answer of a rank and its qemu
_MAX_BRACKETS: Final = 200  # deeper nesting could exceed Python's recursion limit where nothing catches it
_ACCEPT_AGAIN_S: Final = 1.0  # pause after a failure for lack of descriptors
_READ_BYTES: Final = 64 * 1024

OnAnswer = Callable[[Message], None]


class Server:
    """Serves the clients of one job.

    Args:
        loop: Rank 0's event loop.
        listening: The control socket, which listens already.
        world_size: Number of ranks.
        tell: Sends a request with its number to a rank; returns False when the rank cannot be reached any more.
        overview: Returns what rank 0 knows of the job without asking other ranks.
    """

    def __init__(
        self,
        loop: Loop,
        listening: socket.socket,
        world_size: int,
        *,
        tell: Callable[[int, int, RankRequest], bool],
        overview: Callable[[], Message],
    ) -> None:
        self.overview = overview
        self.world_size = world_size
        self.loop = loop
        self._listening = listening
        self._tell = tell
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._streams: dict[int, Callable[[Message], None]] = {}
        self._clients: set[_Client] = set()
        self.save_coordinator: SaveCoordinator | None = None  # makes the saves that clients ask for
        loop.watch(listening.fileno(), self._accept)

    def close(self) -> None:
        """Close all connections and stop accepting new ones."""
        self.loop.unwatch(self._listening.fileno())
        for client in list(self._clients):
            client.send({"end": "the job is over"})
            client.close()

    def heard(self, number: int, reply: RankReply) -> None:
        """Handle a rank's reply to the request of a number."""
        if waiting := self._waiting.get(number):
            match reply:
                case AnswerPart(text):
                    waiting.parts.append(text)
                case AnswerEnd():
                    self._answered(number, json.loads("".join(waiting.parts)))
                case Answer(content):
                    self._answered(number, content)
        elif isinstance(reply, ConsoleOutput) and (stream := self._streams.get(number)):
            stream(reply.content)

    def ask(self, rank: int, request: RankRequest, on_answer: OnAnswer, within_s: float | None = None) -> int:
        """Send a request to one rank.

        Args:
            rank: The rank.
            request: The request.
            on_answer: Called with the rank's answer, or with an error when there is none in time.
            within_s: The time limit; None means ANSWER_S.

        Returns:
            The number of the request.
        """
        within_s = within_s or ANSWER_S
        number = next(self._numbers)
        late = f"{host_name(rank)} did not answer in {within_s:g} s; is its qemu, or its host, stopped?"
        timer = self.loop.call_later(within_s, lambda: self._answered(number, _error("guest", late)))
        self._waiting[number] = _Waiting(on_answer, timer)
        if not self._tell(rank, number, request):
            self.loop.call_later(0.0, lambda: self._answered(number, _error("job", "the job is ending")))
        return number

    def ask_all(
        self, request: RankRequest, on_answers: Callable[[list[Message]], None], within_s: float | None = None
    ) -> None:
        """Send a request to every rank; `on_answers` is called with all answers, in order of rank."""
        answers: dict[int, Message] = {}

        def one(rank: int, answer: Message) -> None:
            answers[rank] = answer
            if len(answers) == self.world_size:
                on_answers([answer for _, answer in sorted(answers.items())])

        for rank in range(self.world_size):
            self.ask(rank, request, lambda answer, rank=rank: one(rank, answer), within_s)  # type: ignore[misc]

    def follow(self, number: int, stream: Callable[[Message], None]) -> None:
        """Pass messages that a rank sends after its answer to this request to `stream`."""
        self._streams[number] = stream

    def say(self, rank: int, number: int, request: RankRequest) -> None:
        """Send a rank a follow-up to a request that it knows."""
        self._tell(rank, number, request)

    def forget(self, number: int) -> None:
        """Ignore further replies to this request."""
        self._streams.pop(number, None)

    def gone(self, client: _Client) -> None:
        self._clients.discard(client)

    def _answered(self, number: int, answer: Message) -> None:
        if waiting := self._waiting.pop(number, None):
            waiting.timer.cancel()
            waiting.on_answer(answer)

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except BlockingIOError:
            return
        except OSError as error:
            logger.warning("the control socket takes nobody for a while: {}", error.strerror)
            fd = self._listening.fileno()
            self.loop.unwatch(fd)
            self.loop.call_later(_ACCEPT_AGAIN_S, lambda: self.loop.watch(fd, self._accept))
            return
        pid, uid = peer_of(connection)
        if not may_ask(uid):
            logger.warning("refused process {} of user {} on the control socket", pid, uid)
            connection.close()
            return
        self._clients.add(_Client(self, connection))


class _Waiting:
    def __init__(self, on_answer: OnAnswer, timer: Timer) -> None:
        self.on_answer = on_answer
        self.timer = timer
        self.parts: list[str] = []


class _Client:
    """One client's connection."""

    def __init__(self, server: Server, connection: socket.socket) -> None:
        self._server = server
        self._socket = connection
        self._socket.setblocking(False)
        self._lines = Lines(MAX_LINE_BYTES)
        self._unsent = bytearray()
        self._on_sent: list[tuple[int, Callable[[], None]]] = []  # end in `_unsent`, and a callback once it is sent
        self._waits_to_write = False
        self._console: tuple[int, int] | None = None  # rank, and number of the request
        self._give_up: Callable[[], None] | None = None  # cancels the save that this client began
        server.loop.watch(connection.fileno(), self._read)

    def send(self, message: Message, on_sent: Callable[[], None] | None = None) -> None:
        """Send a message; call `on_sent` once the socket has taken it."""
        if self._closed:
            return
        self._unsent += packed(message)
        if on_sent:
            self._on_sent.append((len(self._unsent), on_sent))
        self._write()

    def close(self) -> None:
        if self._closed:
            return
        self._server.loop.unwatch(self._socket.fileno())
        self._socket.close()
        self._server.gone(self)
        self._leave_console()
        if self._give_up:
            self._give_up()

    @property
    def _closed(self) -> bool:
        return self._socket.fileno() < 0

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            for message in self._lines.feed(data):
                self._obey(message)
        except (ValueError, KeyError, TypeError) as error:
            self.send(_error("job", f"this is no request: {error!r}"))
            self.close()

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._unsent) if self._unsent else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._unsent[:sent]
        marks, self._on_sent = self._on_sent, []
        for at, on_sent in marks:
            if at <= sent:
                on_sent()
            else:
                self._on_sent.append((at - sent, on_sent))
        self._wait_to_write(bool(self._unsent))

    def _wait_to_write(self, waits: bool) -> None:
        fd, loop = self._socket.fileno(), self._server.loop
        if fd < 0 or waits == self._waits_to_write:
            return
        self._waits_to_write = waits
        if waits:
            loop.watch(fd, self._write, write=True)
        else:
            loop.unwatch(fd)
            loop.watch(fd, self._read)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _obey(self, message: Message) -> None:
        if self._console:
            self._server.say(*self._console, TypeRequest(data_text(data_in(message))))
            return
        if message["protocol"] != PROTOCOL:
            ours = f"this job was started by mvpnet {__version__}, which speaks protocol {PROTOCOL}"
            self.send(_error("job", f"{ours}, and not {message['protocol']!r}"))
            return
        match message["do"]:
            case "job":
                self.send({"ok": self._server.overview()})
            case "status":
                self._server.ask_all(StatusRequest(), self._status)
            case "qmp":
                rank = self._rank(message)
                if rank is not None:
                    self._ask_qemu(rank, qmp_command(message["command"]))
            case "console":
                rank = self._rank(message)
                if rank is not None:
                    self._attach(rank)
            case "save" if self._server.save_coordinator:
                self._give_up = self._server.save_coordinator.begin(message, self.send)
            case verb:
                self.send(_error("job", f"mvpnet {__version__}, which runs this job, knows no request {verb!r}"))

    def _rank(self, message: Message) -> int | None:
        """Return the rank that a request names; send the client an error and return None if there is none."""
        rank, size = message["rank"], self._server.world_size
        if isinstance(rank, int) and 0 <= rank < size:
            return rank
        self.send(_error("job", f"there is no rank {rank}: {ranks_of(size)}"))
        return None

    def _status(self, answers: list[Message]) -> None:
        self.send({"ok": {**self._server.overview(), "ranks": answers}})

    def _ask_qemu(self, rank: int, command: Message) -> None:
        self._server.ask(rank, QmpRequest(command), lambda answer: self.send(_named(rank, answer)))

    def _attach(self, rank: int) -> None:
        def attached(answer: Message) -> None:
            self.send(_named(rank, answer))
            if "error" in answer or self._closed:
                self._server.say(rank, number, LeaveRequest())
                return
            self._console = rank, number
            self._server.follow(number, lambda message: self._output(rank, number, message))

        number = self._server.ask(rank, AttachRequest(), attached)

    def _output(self, rank: int, number: int, message: Message) -> None:
        told: Message = {key: message[key] for key in ("data", "typed", "lost", "end") if key in message}
        took: Callable[[], None] | None = None
        if "data" in told:
            size_bytes = len(data_in(told))

            def took() -> None:
                self._server.say(rank, number, TakenRequest(size_bytes))

        self.send(told, took)
        if "end" in told:
            self._leave_console()

    def _leave_console(self) -> None:
        console, self._console = self._console, None
        if console:
            rank, number = console
            self._server.forget(number)
            self._server.say(rank, number, LeaveRequest())


def may_ask(uid: int) -> bool:
    """Whether a user may send requests: only the job's own. The folder's mode already excludes others."""
    return uid == os.getuid()


def qmp_command(asked: Message) -> Message:
    """Return a client's QMP command in the form that monwrap passes on.

    Raises:
        ValueError: It is not a QMP command, or it is too large.
    """
    name, arguments = asked["execute"], asked.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError("a QMP command is an object with execute, a name, and perhaps arguments, an object")
    command = {"execute": name, "arguments": arguments}
    text = json.dumps(command)
    if len(text) > MAX_COMMAND_BYTES:
        raise ValueError(f"a QMP command of more than {MAX_COMMAND_BYTES} bytes")
    if text.count("[") + text.count("{") > _MAX_BRACKETS:
        raise ValueError(f"a QMP command with more than {_MAX_BRACKETS} brackets")
    return command


def ranks_of(world_size: int) -> str:
    return f"this job has ranks 0 to {world_size - 1}" if world_size > 1 else "this job has rank 0 alone"


def _error(kind: str, message: str) -> Message:
    return {"error": {"kind": kind, "message": message}}


def _named(rank: int, answer: Message) -> dict[str, Any]:
    """Return a rank's answer, with the rank's name added to an error."""
    if "error" not in answer or "kind" in answer["error"]:
        return answer
    return _error("guest", f"{host_name(rank)}: {answer['error']['message']}")
