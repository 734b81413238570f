"""What monwrap tells, decoded; and a client whose monwrap is another program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mvpnet.guest import monwrap_client
from mvpnet.guest.monwrap_client import (
    CommandRefused,
    Event,
    FolderLeft,
    GuestLaunch,
    LadderStep,
    MonwrapClient,
    QemuExited,
    QemuNotStarted,
    QemuStarted,
    QmpEvent,
    QmpReady,
    QmpReply,
    Reply,
    decode,
)
from mvpnet.runtime.loop import Loop
from waiting import run_until


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ('{"event": "started", "pid": 123}', QemuStarted(123)),
        ('{"event": "failed", "part": "log", "reason": "full"}', QemuNotStarted("log", "full")),
        ('{"event": "qmp-ready", "version": "7.2.0", "status": "running"}', QmpReady("7.2.0")),
        ('{"event": "qmp", "name": "RESUME", "data": {}}', QmpEvent("RESUME", {})),
        ('{"event": "reply", "id": 3, "return": {"a": 1}}', QmpReply(3, {"return": {"a": 1}})),
        ('{"event": "reply", "id": 4, "error": {"desc": "no"}}', QmpReply(4, {"error": {"desc": "no"}})),
        ('{"event": "refused", "command": "dance", "reason": "no"}', CommandRefused("dance", "no")),
        ('{"event": "stopping", "step": "eof", "why": "asked to"}', LadderStep("eof")),
        ('{"event": "left", "folder": "/f", "reason": "busy"}', FolderLeft("/f", "busy")),
        ('{"event": "exited", "code": null, "signal": 9}', QemuExited(None, 9)),
        ('{"event": "of a later version"}', None),
    ],
)
def test_events(line: str, event: Event | None) -> None:
    assert decode(line) == event


@pytest.mark.parametrize("line", ["", "Traceback", "[]", "3", "{}", '{"event": "started"}', '{"event": []}'])
def test_lines_that_are_no_events(line: str) -> None:
    with pytest.raises(ValueError, match=r"is no event|Expecting"):
        decode(line)


@pytest.fixture
def wrong_program(tmp_path: Path) -> GuestLaunch:
    """In monwrap's place: tells of one event, says something else, and ends when its standard input does."""
    program = tmp_path / "monwrap"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        """print('{"event": "started", "pid": 1}\\nwho is that?', flush=True)\n"""
        "sys.stdin.read()\n"
        "sys.exit(3)\n"
    )
    program.chmod(0o755)
    return GuestLaunch(qemu_argv=("qemu",), ssh_port=1, qemu_log=tmp_path / "log", monwrap=str(program))


def test_a_life_of_a_client(wrong_program: GuestLaunch) -> None:
    loop, events, codes, replies = Loop(), list[Event](), list[int](), list[Reply]()
    client = MonwrapClient(loop, wrong_program, events.append, codes.append)
    assert not client.send("stop") and client.pid is None
    client.start()
    run_until(loop, lambda: client.stray, what="what is no event")
    assert (events, client.stray) == ([QemuStarted(1)], "who is that?")
    client.ask("qmp", {"execute": "cont"}, replies.append)
    assert client.send("reset") and not client.send("x" * monwrap_client.COMMAND_BYTES)
    client.close()
    client.close()
    assert codes == [3] and replies == []
    client.fail_replies("it is gone")
    client.ask("qmp", {"execute": "cont"}, replies.append)
    assert [reply["error"]["desc"] for reply in replies] == [
        "it is gone",
        "the guest is gone, or the command too long",
    ]
