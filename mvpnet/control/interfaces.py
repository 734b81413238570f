"""Interfaces of the control plane: a guest that takes QMP commands, and the two sides of a save."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mvpnet.control.protocol import Message
from mvpnet.control.rank_messages import SaveRequest

Reply = dict[str, Any]  # of QMP: {"return": ...} or {"error": {"class": ..., "desc": ...}}


class QmpGuest(Protocol):
    """A guest that executes QMP commands: guest.supervisor.Guest."""

    def qmp(self, command: Mapping[str, Any], on_reply: Callable[[Reply], None]) -> None:
        """Execute a command, {"execute": NAME, "arguments": {...}}, and call `on_reply` with qemu's reply."""


class SaveAgent(Protocol):
    """One rank's part in saves: snapshot.agent.SnapshotAgent."""

    def hear(self, request: SaveRequest, answer: Callable[[Message], None]) -> None:
        """Execute a step that rank 0 requests, and answer."""


class SaveCoordinator(Protocol):
    """Rank 0's part in saves: snapshot.coordinator.SnapshotCoordinator."""

    def begin(self, request: Message, send: Callable[[Message], None]) -> Callable[[], None]:
        """Begin a save that a client requests.

        Args:
            request: The client's request.
            send: Sends a message to the client.

        Returns:
            A function that cancels the save.
        """
        ...
