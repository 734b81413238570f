"""Messages between ranks come out of the wire as they went in."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from mvpnet.control import rank_messages
from mvpnet.control.rank_messages import (
    Answer,
    AnswerEnd,
    AnswerPart,
    AttachRequest,
    ConsoleOutput,
    ControlReply,
    ControlRequest,
    LeaveRequest,
    QmpRequest,
    SaveRequest,
    StatusRequest,
    TakenRequest,
    TypeRequest,
)
from mvpnet.job import messages
from mvpnet.job.messages import decode, encode

DEATH = {"at": 1.5, "how": "crashed", "reason": "qemu was killed"}
REPORT = messages.GuestReport(3, "h", "crashed", "up", "qemu was killed", "memory", ["the last line"], [DEATH])
OF_JOB = [
    messages.StateChanged("booting"),
    messages.GuestEnded(REPORT),
    messages.Restarting(2),
    messages.StopRequested("SIGTERM received", 143, by_signal=True),
    messages.Heartbeat(),
    messages.Run(),
    messages.Resume(),
    messages.Stop(),
]
REQUESTS = [
    StatusRequest(),
    QmpRequest({"execute": "qom-get", "arguments": {"is": "StateChanged", "what": {"is": 1}, "report": []}}),
    AttachRequest(),
    TypeRequest("bHMK"),
    TakenRequest(7),
    LeaveRequest(),
    SaveRequest("check", "1a", "/saves/.up.part", "/saves/up"),
]
REPLIES = [
    Answer({"ok": {"is": "Stop", "what": None}}),
    AnswerPart('{"ok": "'),
    AnswerEnd(),
    ConsoleOutput({"data": "bG9naW46"}),
]
ALL = [*OF_JOB, *(ControlRequest(7, one) for one in REQUESTS), *(ControlReply(8, one) for one in REPLIES)]


@pytest.mark.parametrize("message", ALL, ids=[repr(one)[:50] for one in ALL])
def test_a_message_is_read_as_it_was_written(message: messages.JobMessage) -> None:
    assert decode(encode(message)) == message


def test_every_type_of_message_is_tried_above() -> None:
    tried = {type(one) for one in [*OF_JOB, *REQUESTS, *REPLIES]} | {ControlRequest, ControlReply}
    assert tried == {*typing.get_args(messages.JobMessage), *rank_messages.TYPES}


def test_messages_do_not_change_once_made() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        messages.Restarting(1).number = 2  # type: ignore[misc]


def test_a_message_of_another_version_is_an_error() -> None:
    with pytest.raises(KeyError):
        decode(b'{"is": "Dance"}')
