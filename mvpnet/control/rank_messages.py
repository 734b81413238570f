"""Messages between rank 0's control server and the ranks' agents.

Each request has a number, which its replies carry. An answer that is too long for one control message is split into
parts. `job.messages` encodes all of these messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mvpnet.control.protocol import Message


@dataclass(frozen=True)
class StatusRequest:
    """Report the status of the guest."""


@dataclass(frozen=True)
class QmpRequest:
    """Execute a QMP command."""

    command: Mapping[str, Any]  # {"execute": NAME, "arguments": {…}}


@dataclass(frozen=True)
class AttachRequest:
    """Attach a client to the guest's console."""


@dataclass(frozen=True)
class TypeRequest:
    """Type into the console."""

    data: str  # as protocol.data_text writes bytes


@dataclass(frozen=True)
class TakenRequest:
    """Acknowledge console output that the client has received."""

    size_bytes: int


@dataclass(frozen=True)
class LeaveRequest:
    """Detach the client from the console."""


@dataclass(frozen=True)
class SaveRequest:
    """One step of a save; see `snapshot.agent`."""

    step: str
    id: str
    part: str  # the folder while the save is made
    folder: str  # its final name


RankRequest = StatusRequest | QmpRequest | AttachRequest | TypeRequest | TakenRequest | LeaveRequest | SaveRequest


@dataclass(frozen=True)
class Answer:
    """A complete answer: {"ok": …} or {"error": {"message": …}}."""

    content: Message


@dataclass(frozen=True)
class AnswerPart:
    """A piece of an answer's JSON text."""

    text: str


@dataclass(frozen=True)
class AnswerEnd:
    """The end of an answer that was sent in parts."""


@dataclass(frozen=True)
class ConsoleOutput:
    """An event of the console that a client is attached to: {"data" | "typed" | "lost" | "end": …}."""

    content: Message


RankReply = Answer | AnswerPart | AnswerEnd | ConsoleOutput


@dataclass(frozen=True)
class ControlRequest:
    """A request of rank 0 with its number."""

    number: int
    what: RankRequest


@dataclass(frozen=True)
class ControlReply:
    """A rank's reply to the request of a number."""

    number: int
    what: RankReply


TYPES: tuple[type, ...] = (
    StatusRequest,
    QmpRequest,
    AttachRequest,
    TypeRequest,
    TakenRequest,
    LeaveRequest,
    SaveRequest,
    Answer,
    AnswerPart,
    AnswerEnd,
    ConsoleOutput,
    ControlRequest,
    ControlReply,
)
