"""boot.wait_for=cloud_init in whole jobs, with the stand-in in qemu's place and another in ssh's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from whole_jobs.conftest import Bench, nothing_left, record

WAIT = "boot.wait_for=cloud_init"
# Says what is in the file of its port's last digit, when that is there; the ports of ranks differ by one.
SSH = """#!/bin/sh
while [ $# -gt 1 ]; do [ "$1" = -p ] && port=$2; shift; done
file="$STANDIN_DIR/said.${port#${port%?}}"
while [ ! -e "$file" ]; do sleep 0.05; done
cat "$file"
! grep -q error "$file"
"""
DONE, ERROR = "status: done\n", "status: error\ndetail:\nno package nosuch\n"


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with the other ssh in front."""
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    return f"{ssh.parent}{os.pathsep}{os.environ['PATH']}"


def test_guests_are_up_when_cloud_init_is_done_in_all(bench: Bench, path: str) -> None:
    job = bench.start(WAIT, 'app.command=["true"]', env={"PATH": path})
    job.wait_for("n0000 (configuring), n0001 (configuring)")
    bench.tell("said.1", DONE)
    job.wait_for("1/2 guests up, waiting for n0000 (configuring)")
    bench.tell("said.0", DONE)
    end = job.finish()
    assert end.code == 0 and "2/2 guests up" in end.stderr, end
    nothing_left(job)


def test_a_guest_whose_cloud_init_fails_fails_the_boot(bench: Bench, path: str) -> None:
    bench.tell("said.0", DONE)
    bench.tell("said.1", ERROR)
    job, end = bench.run(WAIT, env={"PATH": path})
    assert end.code == 5, end
    assert "n0001 did not come up: cloud-init in the guest failed: no package nosuch" in end.stderr, end
    assert record(job)["guests"][1]["phase"] == "configuring"
    nothing_left(job)


def test_cloud_init_that_is_never_done_does_not_hang_the_job(bench: Bench, path: str) -> None:
    bench.tell("said.0", DONE)
    job, end = bench.run(WAIT, "boot.timeout_s=12", env={"PATH": path})
    assert end.code == 5, end
    assert "not all guests were up after 12 s: n0001 (configuring)" in end.stderr, end
    nothing_left(job)


def test_a_host_without_ssh_is_refused(bench: Bench, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("ssh-keygen", "python3", "sh", "env"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    job, end = bench.run(WAIT, ranks=None, env={"PATH": str(tools)})
    assert end.code == 3 and "boot.wait_for: there is no program 'ssh'" in end.stderr, end
    nothing_left(job)
