"""A real guest's qemu: in its sandbox, listening on loopback alone, with no secret on its command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boot.test_guests import SMALL, nothing_left, ssh
from support import poll_until
from whole_jobs.test_security import listening, private_lines

pytestmark = pytest.mark.timeout(400)


def test_qemu_is_shut_in(start_mvpnet) -> None:
    job = start_mvpnet(*SMALL, ranks=None)
    job.wait_for("1/1 guests up", 300)
    [qemu] = [process for process in job.processes("qemu-system") if "monwrap" not in process.command]
    status = Path(f"/proc/{qemu.pid}/status").read_text()
    assert "Seccomp:\t2" in status, "a filter is in force (proc(5))"
    port = json.loads((job.cwd / "run/manifest.json").read_text())["ranks"]["0"]["ssh_port"]
    assert listening({qemu.pid}) == {f"0100007F:{port:04X}"}, "127.0.0.1, in hex as proc(5) has it"
    assert not any(line in qemu.command for line in private_lines(job))
    ssh(job, 0, "poweroff", last_words=True)
    assert job.finish(120).code == 0
    nothing_left(job)
    poll_until(lambda: not job.processes(), 30, "all processes to end")
