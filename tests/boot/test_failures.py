"""Real guests that fail: their kernel panics, with and without the panic device."""

from __future__ import annotations

import json

import pytest

from boot.test_guests import nothing_left, ssh, up
from support import poll_until

pytestmark = pytest.mark.timeout(400)


def test_panics_are_told_from_a_power_off(start_mvpnet) -> None:
    job = up(start_mvpnet, 3)
    ssh(job, 1, "lsmod | grep pvpanic_mmio")  # else the next would prove nothing
    ssh(job, 2, "rmmod pvpanic_mmio pvpanic; ! lsmod | grep pvpanic")
    for rank in (1, 2):
        ssh(job, rank, "echo c > /proc/sysrq-trigger", last_words=True)
    for rank in (1, 2):
        log = job.cwd / f"run/rank-{rank:04d}/mvpnet.log"
        poll_until(lambda log=log: "panicked (kernel panic): sysrq triggered crash" in log.read_text(), 60, "the panic")
    ssh(job, 0, "poweroff", last_words=True)
    end = job.finish(120)
    assert end.code == 5, end
    guests = json.loads((job.cwd / "run/job.json").read_text())["guests"]
    assert [guest["how"] for guest in guests] == ["powered_off", "panicked", "panicked"]
    assert "---[ end Kernel panic" not in (job.cwd / "run/rank-0001/console.log").read_text(), "told by its device"
    assert "---[ end Kernel panic" in (job.cwd / "run/rank-0002/console.log").read_text(), "told by its console"
    nothing_left(job)
