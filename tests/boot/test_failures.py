"""Real guests that fail: their kernel panics, with and without the panic device."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from boot.test_guests import nothing_left, ssh, up
from support import codes_after_signal, poll_until
from whole_jobs.test_refusals import mounted

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


def test_a_full_disk_and_a_truncated_image(start_mvpnet, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(16 << 20))
    with mounted("3M") as small:
        job = up(start_mvpnet, 2, f"image.drives=[{disk}]", f"job.scratch_dir={small}", "shutdown.powerdown_s=2")
        fill = "dd if=/dev/urandom of=/dev/vda bs=65536 count=200 conv=fsync"
        filling = subprocess.Popen(
            ["ssh", "-F", "run/ssh_config", "n0000", fill], cwd=job.cwd, stdin=subprocess.DEVNULL
        )
        log = job.cwd / "run/rank-0000/mvpnet.log"
        says = "write: No space left on device; qemu has paused the guest"
        poll_until(lambda: says in log.read_text(), 120, "the disk to be full")
        assert "1 packets transmitted" in ssh(job, 1, "ping -c 1 -W 1 n0000 || true"), "the other guest runs on"
        os.truncate(disk, 1 << 20)
        job.signal(signal.SIGTERM)
        end = job.finish(120)
        assert end.code in codes_after_signal(0), end
        filling.wait()
        assert f"the image {disk} has {1 << 20} bytes and had {16 << 20} since the guest started" in end.stderr
        nothing_left(job)
        assert [path for path in small.rglob("*") if path.is_file()] == []
