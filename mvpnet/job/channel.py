"""Control channel between the ranks of a running job: one table of handlers by message type, and the heartbeat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from mvpnet.errors import RanksLostError
from mvpnet.job import messages
from mvpnet.job.heartbeat import Heartbeat
from mvpnet.job.messages import JobMessage
from mvpnet.mpi.world import World
from mvpnet.runtime.loop import Loop
from mvpnet.util.text import count

_HOSTS_NAMED_AT_MOST = 4

M = TypeVar("M")


class ControlChannel:
    """Sends messages to ranks, and passes received messages to the handler of their type.

    `send(rank, payload)` sends a control message and returns whether it could.
    """

    def __init__(self, loop: Loop, world: World, timeout_s: float, send: Callable[[int, bytes], bool]) -> None:
        self._world = world
        self._timeout_s = timeout_s
        self._send = send
        self._handlers: dict[type, Callable[[int, Any], object]] = {}
        self._peers = range(1, world.size) if world.rank == 0 else [0]  # for heartbeats
        self._heartbeat = Heartbeat(loop, timeout_s, self._peers, beat=self._beat, lost=self._ranks_lost)
        self.on(messages.Heartbeat, lambda source, message: None)

    def on(self, kind: type[M], handler: Callable[[int, M], object]) -> None:
        """Register `handler(source rank, message)` for messages of a type."""
        self._handlers[kind] = handler

    def hear(self, source: int, payload: bytes) -> None:
        """Handle a control message from a rank."""
        message = messages.decode(payload)
        self._heartbeat.heard(source)
        if handler := self._handlers.get(type(message)):
            handler(source, message)

    def tell(self, message: JobMessage) -> None:
        """Send a message to rank 0."""
        self.tell_rank(0, message)

    def tell_rank(self, rank: int, message: JobMessage) -> bool:
        """Send a message to one rank; return False if it cannot be reached any more."""
        return self._send(rank, messages.encode(message))

    def tell_all(self, message: JobMessage) -> None:
        """Send a message to every rank, including this one."""
        payload = messages.encode(message)
        for rank in range(self._world.size):
            self._send(rank, payload)

    def _beat(self) -> None:
        for rank in self._peers:
            self.tell_rank(rank, messages.Heartbeat())

    def _ranks_lost(self, ranks: list[int]) -> None:
        hosts = sorted({self._world.hosts[rank] for rank in ranks})
        more = " and more" if hosts[_HOSTS_NAMED_AT_MOST:] else ""
        raise RanksLostError(
            f"{count(len(ranks), 'rank')} on {', '.join(hosts[:_HOSTS_NAMED_AT_MOST])}{more} "
            f"not heard of for {self._timeout_s:g} s: a link is cut, or a host is gone"
        )
