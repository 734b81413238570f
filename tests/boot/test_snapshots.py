"""Two real guests that are saved and go on twice, with their memory, disks and network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from boot.test_guests import ssh, stopped, up
from support import RunningJob, poll_until

pytestmark = pytest.mark.timeout(600)

MARK = "hello > /run/marker; (while :; do echo x >> /run/count; sleep 0.1; done) > /dev/null 2>&1 &"
WRITE = "dd of=/dev/vda bs=512 conv=sync 2> /dev/null"
LOOK = (
    "cat /run/marker; dd if=/dev/vda bs=512 count=1 2> /dev/null | head -n 1; ping -c 2 {0} | grep -o '2 packets r.*ed'"
)


def verb(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mvpnet", *words]
    return subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)


def saved(name: str) -> None:
    done = verb("save", name)
    assert done.returncode == 0, done
    assert f"mvpnet resume={name}" in done.stderr


def logged_in(job: RunningJob, run: str) -> None:
    """Wait until both take a login: an ssh server turns away who comes while it has many others, as the boot probe's
    on a busy host, that have not logged in or left yet."""

    def takes(rank: int) -> bool:
        command = ["ssh", "-F", f"{run}/ssh_config", f"n{rank:04d}", "true"]
        return subprocess.run(command, cwd=job.cwd, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0

    for rank in range(2):
        poll_until(lambda rank=rank: takes(rank), 120, f"n{rank:04d} to take a login")


def look(job: RunningJob, run: str, rank: int) -> list[str]:
    """The marker in memory, what is on the disk, whether the other guest answers, and what it is called there."""
    other = f"n{1 - rank:04d}"
    script = f"{LOOK.format(other)}; ssh {other} hostname; wc -l < /run/count"
    *seen, counted = ssh(job, rank, script, config=f"{run}/ssh_config").splitlines()
    assert int(counted) > 0
    return seen


def test_a_job_goes_on_from_a_save(start_mvpnet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = tmp_path / "saves"
    monkeypatch.setenv("MVPNET_SAVES", str(saves))
    disk = tmp_path / "disk.raw"
    disk.touch()
    os.truncate(disk, 2**24)
    job = up(start_mvpnet, 2, f"image.path={disk}")
    logged_in(job, "run")
    for rank in range(2):
        ssh(job, rank, f"echo {MARK} echo of rank {rank} | {WRITE}")
    saved("up")
    ssh(job, 0, "echo later > /run/marker; ping -c 1 n0001")  # the job itself goes on, and leaves the save as it is
    assert stopped(job).code == 0

    for turn, name in enumerate(("up", "up", "again")):
        run = f"again{turn}"
        job = start_mvpnet(f"resume={name}", f"hydra.run.dir={run}", ranks=2)
        job.wait_for("2/2 guests up", 300)
        logged_in(job, run)
        for rank in range(2):
            on_disk = f"of rank {rank}" if name == "up" else f"once more {rank}"
            assert look(job, run, rank) == ["hello", on_disk, "2 packets received", f"n{1 - rank:04d}"]
            if turn == 1:
                ssh(job, rank, f"echo once more {rank} | {WRITE}", config=f"{run}/ssh_config")
        if turn == 1:
            saved("again")
        assert stopped(job).code == 0
    assert sorted(path.name for path in saves.iterdir()) == ["again", "up"]
    assert verb("saves", "rm", "again", "up").returncode == 0
    assert list(saves.iterdir()) == []
