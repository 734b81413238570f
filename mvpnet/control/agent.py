"""Handling of control requests on one rank: execute them on the rank's own guest, and reply to rank 0."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from mvpnet.control.console import Console
from mvpnet.control.interfaces import QmpGuest, Reply, SaveAgent
from mvpnet.control.protocol import Message, data_in
from mvpnet.control.rank_messages import (
    Answer,
    AnswerEnd,
    AnswerPart,
    AttachRequest,
    LeaveRequest,
    QmpRequest,
    RankReply,
    RankRequest,
    SaveRequest,
    StatusRequest,
    TakenRequest,
    TypeRequest,
)

PART_CHARACTERS: Final = 24 * 1024  # quoting at most doubles the length; a control message takes 64 KiB


class ControlAgent:
    """Executes rank 0's control requests on this rank.

    Args:
        machine: Returns the current guest. It is called for each request, because a guest may be restarted.
        facts: Returns the rank's current status.
        console: The guest's shared console.
        save_agent: Executes the steps of a save.
        tell: Sends a reply to the request of a number.
    """

    def __init__(
        self,
        *,
        machine: Callable[[], QmpGuest],
        facts: Callable[[], dict[str, Any]],
        console: Console,
        save_agent: SaveAgent,
        tell: Callable[[int, RankReply], object],
    ) -> None:
        self._machine = machine
        self._facts = facts
        self._console = console
        self._save_agent = save_agent
        self._tell = tell

    def hear(self, number: int, request: RankRequest) -> None:
        """Execute a request of rank 0; the replies carry its number."""
        match request:
            case StatusRequest():
                self._answer(number, {"ok": self._facts()})
            case QmpRequest(command):
                self._machine().qmp(command, lambda reply: self._answer(number, _outcome(reply)))
            case SaveRequest():
                self._save_agent.hear(request, lambda answer: self._answer(number, answer))
            case AttachRequest():
                self._answer(number, self._attach(number))
            case TypeRequest():
                self._console.type(number, data_in({"data": request.data}))
            case TakenRequest(size_bytes):
                self._console.took(number, size_bytes)
            case LeaveRequest():
                self._console.leave(number)

    def _attach(self, number: int) -> Message:
        if problem := self._console.attach(number):
            return {"error": {"message": f"{problem}; the guest is {self._facts()['state']}"}}
        return {"ok": {"others": self._console.count - 1}}

    def _answer(self, number: int, answer: Message) -> None:
        text = json.dumps(answer)
        if len(text) <= PART_CHARACTERS:
            self._tell(number, Answer(answer))
            return
        for at in range(0, len(text), PART_CHARACTERS):
            self._tell(number, AnswerPart(text[at : at + PART_CHARACTERS]))
        self._tell(number, AnswerEnd())


def _outcome(reply: Reply) -> Message:
    """Return the answer for a QMP reply."""
    if "error" in reply:
        return {"error": {"message": reply["error"]["desc"]}}
    return {"ok": reply["return"]}
