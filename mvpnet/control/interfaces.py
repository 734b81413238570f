"""What the control plane needs of others: a guest that takes QMP commands, and the two sides of a save."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mvpnet.control.protocol import Message
from mvpnet.control.rank_messages import SaveRequest

Reply = dict[str, Any]  # of QMP: {"return": ...} or {"error": {"class": ..., "desc": ...}}


class QmpGuest(Protocol):
    """A guest that QMP commands are executed in: guest.supervisor.Guest."""

    def qmp(self, command: Mapping[str, Any], on_reply: Callable[[Reply], None]) -> None:
        """Execute a command, {"execute": NAME, "arguments": {...}}, and call `on_reply` with what comes of it."""


class SaveAgent(Protocol):
    """One rank's part in saves: snapshot.agent.SnapshotAgent."""

    def hear(self, request: SaveRequest, answer: Callable[[Message], None]) -> None:
        """Do a step that rank 0 asks for, and answer."""


class SaveCoordinator(Protocol):
    """Rank 0's part in saves: snapshot.coordinator.SnapshotCoordinator."""

    def begin(self, request: Message, send: Callable[[Message], None]) -> Callable[[], None]:
        """Begin a save that a client asks for; `send` tells the client. Returns what gives it up."""
        ...
