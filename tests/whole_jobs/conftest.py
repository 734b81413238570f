"""Jobs under mpiexec with the stand-in in qemu's place: everything of a job is real but the guest."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import Finished, RunningJob, poll_until

STANDIN = Path(__file__).parent.parent / "standin.py"
SSH_PORT = 10_000 + os.getpid() % 200 * 100  # jobs of another test run on this machine take theirs elsewhere


@dataclass
class Bench:
    """Starts jobs of stand-ins in a folder of the test's own."""

    folder: Path  # the stand-ins' STANDIN_DIR
    disk: Path
    start_mvpnet: Callable[..., RunningJob]

    def start(self, *options: str, ranks: int | None = 2, behaviour: str = "normal", **how: Any) -> RunningJob:
        env = {"STANDIN_DIR": str(self.folder), "STANDIN_BEHAVIOUR": behaviour, **how.pop("env", {})}
        usual = [
            "image=file",
            f"image.path={self.disk}",
            "image.use=readonly",
            f"qemu.binary={STANDIN}",
            "vm.accel=tcg",
            "hydra.run.dir=run",
            f"net.ssh_port={SSH_PORT}",
        ]
        return self.start_mvpnet(*usual, "boot.timeout_s=60", *options, ranks=ranks, env=env, **how)

    def run(
        self, *options: str, ranks: int | None = 2, timeout_s: float = 90, **how: Any
    ) -> tuple[RunningJob, Finished]:
        job = self.start(*options, ranks=ranks, **how)
        return job, job.finish(timeout_s)

    def up(self, *options: str, ranks: int = 2, **how: Any) -> RunningJob:
        job = self.start(*options, ranks=ranks, **how)
        job.wait_for(f"{ranks}/{ranks} guests up", 90)
        return job

    def program(self, name: str, first: str) -> Path:
        """A qemu.binary that runs some Python, with qemu's arguments in `argv`, and goes on as the stand-in."""
        path = self.folder / name
        path.write_text(
            f"#!{sys.executable}\nimport os, sys\nargv = ' '.join(sys.argv)\n{first}\n"
            f"os.execv({str(STANDIN)!r}, sys.argv)\n"
        )
        path.chmod(0o755)
        return path

    def tell(self, name: str, text: str = "") -> None:
        """Put a file in the stand-ins' folder, whole at once."""
        (self.folder / "new").write_text(text)
        (self.folder / "new").rename(self.folder / name)


@pytest.fixture
def bench(short_dir: Path, tmp_path: Path, start_mvpnet: Callable[..., RunningJob]) -> Bench:
    folder = tmp_path / "standins"
    folder.mkdir()
    disk = tmp_path / "blank.raw"
    disk.write_bytes(bytes(512))
    return Bench(folder, disk, start_mvpnet)


# For guests that do not heed what they are asked for; the others have all the time that a busy machine takes.
IMPATIENT = ["shutdown.powerdown_s=1", "shutdown.term_s=1"]


def record(job: RunningJob, run: str = "run") -> dict[str, Any]:
    return json.loads((job.cwd / run / "job.json").read_text())


def nothing_left(job: RunningJob) -> None:
    """No process, no scratch folder, no socket, no lock."""
    poll_until(lambda: not job.processes(), 30, "all processes to end")
    assert scratch_files(job) == []


def scratch_files(job: RunningJob) -> list[Path]:
    """All that mvpnet has in TMPDIR; Open MPI keeps things of its own there, and leaves them when it is killed."""
    return sorted(
        path for path in job.scratch.rglob("*") if not path.relative_to(job.scratch).parts[0].startswith("ompi")
    )
