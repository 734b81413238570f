"""Hands on a job of real guests: the walk of docs/hands-on.md."""

from __future__ import annotations

import json
import os

import pytest

from boot.conftest import ResumeGuests
from boot.test_guests import nothing_left
from control.verbs import PATIENCE_S, hands, is_raw, jobs_listed, on_a_terminal, read_until, said
from support import poll_until

pytestmark = pytest.mark.timeout(400)


def test_look_in_type_log_in_and_stop(resume_guests: ResumeGuests) -> None:
    job = resume_guests(2, "job.name=walk")
    assert [(one["name"], one["phase"]) for one in jobs_listed()] == [("walk", "running")]

    with on_a_terminal("console", "1") as (process, terminal):
        poll_until(lambda: is_raw(terminal), PATIENCE_S, "the verb to take keys as they are typed")
        os.write(terminal, b"\r")  # a guest that goes on from a save has shown its prompt before
        read_until(terminal, "# ")
        os.write(terminal, b"echo typed-$((6 * 7))\r")
        assert "echo typed-$((6 * 7))" in read_until(terminal, "typed-42"), "the guest's terminal echoes"
        os.write(terminal, b"\x1d")
        assert process.wait(PATIENCE_S) == 0
    assert "typed-42" in (job.cwd / "run/rank-0001/console.log").read_text(errors="replace")
    assert "piped-42" in said("console", "0", stdin="echo piped-$((6 * 7))\n")
    assert "piped-42" in said("logs", "0")

    assert said("ssh", "1", "hostname") == "n0001\n"
    assert hands("ssh", "walk", "n0001", "exit 7").returncode == 7
    assert "virtio-net-pci" in said("monitor", "1", "--hmp", "info network")
    assert "3 packets received" in said("ssh", "0", "ping", "-c", "3", "n0001")
    ranks = json.loads(said("status", "--json"))["ranks"]
    assert all(rank["state"] == "running" and rank["counters"]["frames_from_guest"] >= 3 for rank in ranks)

    assert hands("powerdown", "1").returncode == 0
    poll_until(lambda: json.loads(said("status", "--json"))["ranks"][1]["state"] == "gone", 90, "the guest to be gone")
    assert json.loads(said("status", "--json"))["ranks"][1]["end"]["how"] == "powered_off"

    assert hands("stop").returncode == 0
    assert job.finish(120).code == 0
    nothing_left(job)
    assert jobs_listed() == []
