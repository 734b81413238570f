"""Many ranks on one machine: a job starts, every guest reaches every other, and it stops.

benchmarks/scale.py measures the same.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mvpnet.dataplane import address
from support import RunningJob, poll_until
from whole_jobs.conftest import Bench, nothing_left, record

STANDIN_C = Path(__file__).parent.parent.parent / "benchmarks/standin.c"
ETHERTYPE = b"\x88\xb5"

pytestmark = pytest.mark.timeout(400)


def ended(job: RunningJob, ranks: int) -> None:
    """Stop the job; all guests ended in order, and each rank handed its guest a frame of every other."""
    job.signal(signal.SIGTERM)
    done = job.finish(180)
    assert done.code == 0, done
    ways = [guest["how"] for guest in record(job)["guests"]]
    assert len(ways) == ranks and set(ways) <= {"stopped", "powered_off"}, ways
    stats = json.loads((job.cwd / "run/stats.json").read_text())
    assert all(rank["frames_to_guest"] == ranks - 1 and not rank["drops"] for rank in stats["ranks"])
    assert all(len(stats["traffic_bytes"][str(rank)]) == ranks - 1 for rank in range(ranks))
    nothing_left(job)


def test_sixteen_ranks(bench: Bench) -> None:
    ranks = 16
    job = bench.up(ranks=ranks)
    for source in range(ranks):
        frames = [address.mac(to) + address.mac(source) + ETHERTYPE + bytes(46) for to in range(ranks) if to != source]
        bench.tell(f"send.{source}", "\n".join(frame.hex() for frame in frames) + "\n")
    for to in range(ranks):
        wanted = {address.mac(source).hex() for source in range(ranks) if source != to}
        came = bench.folder / f"received.{to}"

        def all_came(came: Path = came, wanted: set[str] = wanted) -> bool:
            return came.exists() and {line[12:24] for line in came.read_text().splitlines()} == wanted

        poll_until(all_came, 60, f"frames of all ranks at rank {to}")
    ended(job, ranks)


@pytest.mark.skipif(shutil.which("cc") is None, reason="the light stand-in is built with cc")
def test_sixty_four_ranks(bench: Bench, tmp_path: Path) -> None:
    """Stand-ins in C, as 64 in Python would take longer to start than what is tested."""
    ranks = 64
    standin = tmp_path / "qemu-standin"
    subprocess.run(["cc", "-O1", "-o", standin, STANDIN_C], check=True)
    job = bench.start(f"qemu.binary={standin}", "boot.timeout_s=200", ranks=ranks)
    job.wait_for(f"{ranks}/{ranks} guests up", 240)
    bench.tell("go")
    poll_until(lambda: len(list(bench.folder.glob("reached.*"))) == ranks, 60, "all to reach all")
    ended(job, ranks)


def test_ranks_above_0_never_import_hydra(bench: Bench) -> None:
    """Not at the start and not later: what each rank has imported is looked at when it is through."""
    program = (
        "import pathlib, sys\n"
        "from mpi4py import MPI\n"
        "from mvpnet.__main__ import run\n"
        "code = run(sys.argv[1:])\n"
        "modules = '\\n'.join(sys.modules)\n"
        "pathlib.Path(f'modules.{MPI.COMM_WORLD.rank}').write_text(modules)\n"
        "sys.exit(code)\n"
    )
    job, done = bench.run("app.command=[sh,-c,exit]", ranks=3, program=[sys.executable, "-c", program])
    assert done.code == 0, done
    imported = [set((job.cwd / f"modules.{rank}").read_text().split()) for rank in range(3)]
    assert {"hydra", "omegaconf"} <= imported[0]
    for modules in imported[1:]:
        assert not {"hydra", "omegaconf", "yaml", "rich", "requests", "click"} & modules
