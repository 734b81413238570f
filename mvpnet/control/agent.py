"""One rank's part in what is asked of a running job: it looks after its own guest, and tells rank 0.

Requests and answers travel as the job's control messages, JSON objects under the key "hands":

    rank 0 → rank   {"hands": 7, "do": "status" | "qmp" | "console" | "type" | "took" | "leave" | "save", …}
    rank → rank 0   {"hands": 7, "answer": {"ok": …} or {"error": …}}, a long one in parts {"hands": 7, "part": "…"}
                    {"hands": 7, "data" | "typed" | "lost" | "end": …}                      of a console
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from mvpnet.control.console import Console
from mvpnet.control.interfaces import QmpGuest, Reply, SaveAgent
from mvpnet.control.protocol import Message, data_in

PART_CHARACTERS: Final = 24 * 1024  # quoted once more it is twice as long at worst; a control message takes 64 KiB


class ControlAgent:
    """`machine` and `facts` are asked whenever they are needed: the guest of a rank may be started again."""

    def __init__(
        self,
        *,
        machine: Callable[[], QmpGuest],
        facts: Callable[[], dict[str, Any]],
        console: Console,
        keeper: SaveAgent,
        tell: Callable[[Message], object],
    ) -> None:
        self._machine = machine
        self._facts = facts
        self._console = console
        self._keeper = keeper
        self._tell = tell

    def hear(self, message: Message) -> None:
        """A request of rank 0's."""
        number: int = message["hands"]
        match message["do"]:
            case "status":
                self._answer(number, {"ok": self._facts()})
            case "qmp":
                self._machine().qmp(message["command"], lambda reply: self._answer(number, _outcome(reply)))
            case "save":
                self._keeper.hear(message, lambda answer: self._answer(number, answer))
            case "console":
                self._answer(number, self._attach(number))
            case "type":
                self._console.type(number, data_in(message))
            case "took":
                self._console.took(number, message["bytes"])
            case "leave":
                self._console.leave(number)

    def _attach(self, number: int) -> Message:
        if problem := self._console.attach(number):
            return {"error": {"message": f"{problem}; the guest is {self._facts()['state']}"}}
        return {"ok": {"others": self._console.count - 1}}

    def _answer(self, number: int, answer: Message) -> None:
        text = json.dumps(answer)
        if len(text) <= PART_CHARACTERS:
            self._tell({"hands": number, "answer": answer})
            return
        for at in range(0, len(text), PART_CHARACTERS):
            self._tell({"hands": number, "part": text[at : at + PART_CHARACTERS]})
        self._tell({"hands": number, "answer": None})  # it is what the parts make


def _outcome(reply: Reply) -> Message:
    """What came of a QMP command, as an answer."""
    if "error" in reply:
        return {"error": {"message": reply["error"]["desc"]}}
    return {"ok": reply["return"]}
