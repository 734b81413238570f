"""Real guests that fail: their kernel panics, with and without the panic device."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from boot.test_guests import nothing_left, ssh, up
from support import codes_after_signal, poll_until

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


def test_a_guest_that_panicked_is_started_again_on_its_disk(start_mvpnet, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    job = up(start_mvpnet, 2, f"image.drives=[{disk}]", "vm.restart=1")
    ssh(job, 1, "echo kept > /dev/vda; sync; echo c > /proc/sysrq-trigger", last_words=True)
    log = job.cwd / "run/rank-0001/mvpnet.log"
    poll_until(lambda: log.read_text().count("the guest is running") == 2, 240, "the guest to be up again")
    assert ssh(job, 1, "head -c 4 /dev/vda; ping -c 1 n0000 > /dev/null").startswith("kept")
    assert "1 packets received" in ssh(job, 0, "ping -c 1 n0001")
    job.signal(signal.SIGTERM)
    end = job.finish(120)
    assert end.code in codes_after_signal(0), end
    guests = json.loads((job.cwd / "run/job.json").read_text())["guests"]
    assert [(guest["how"], len(guest["restarts"])) for guest in guests] == [("stopped", 0), ("stopped", 1)]
    assert disk.read_bytes() == bytes(1 << 20), "the overlay took what the guest wrote"
    nothing_left(job)
