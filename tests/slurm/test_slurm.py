"""mvpnet as a Slurm job, by the batch files that are shipped, with stand-ins for the guests."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from slurm.conftest import Slurm
from support import Process, mpiexec_command, poll_until

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "slurm"
STANDIN = Path(__file__).parent.parent / "standin.py"
EXCHANGE = Path(__file__).with_name("exchange.py")
PATIENCE_S = 120.0
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
# Now and then MPICH 5.0.2 hands pmi2 bytes that begin no PMI message, and ends in MPI_Init, before mvpnet has begun.
GARBLED_BY_MPICH = "mpi/pmi2: value not properly terminated in client request"


@dataclass
class Batch:
    """A batch job in a folder of the test's own."""

    slurm: Slurm
    folder: Path
    scratch: Path
    number: str = ""
    facts: dict[str, str] = field(default_factory=dict)

    def submit(self, example: str, *arguments: str, options: tuple[str, ...] = ()) -> None:
        command = ["sbatch", "--parsable", "--time=10", *options, str(EXAMPLES / example), *arguments]
        for _ in range(3):
            self.number = self.slurm.run(*command, cwd=self.folder, env=self.environment())
            self._poll(lambda: self._has_begun() or self.state() in OVER, "the job's begin")
            if self._has_begun() or GARBLED_BY_MPICH not in self.output:
                return

    def _has_begun(self) -> bool:
        return any(self.folder.glob(f"runs/*/*-{self.number}"))

    def environment(self) -> dict[str, str]:
        """Where a user would have loaded the site's MPI and activated an environment."""
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SLURM_MPI_TYPE": "pmix" if "openmpi" in mpiexec_command()[0] else "pmi2",
            "TMPDIR": str(self.scratch),
            "XDG_CONFIG_HOME": str(self.folder / "no-config"),
            "STANDIN_DIR": str(self.folder),
        }

    @property
    def output(self) -> str:
        path = self.folder / f"mvpnet-{self.number}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def state(self) -> str:
        """What Slurm says of it: its state, and its exit code as CODE:SIGNAL."""
        told = self.slurm.run("scontrol", "--oneliner", "show", "job", self.number)
        self.facts = dict(word.split("=", 1) for word in told.split() if "=" in word)
        return self.facts["JobState"]

    def wait_for(self, text: str) -> None:
        def said_or_over() -> bool:
            return text in self.output or self.state() in OVER

        self._poll(said_or_over, repr(text))
        assert text in self.output, f"it ended without saying {text!r}\n{self}"

    def ended(self) -> str:
        """Wait for its end; its state."""
        self._poll(lambda: self.state() in OVER, "the job's end")
        return self.state()

    def _poll(self, condition: Callable[[], bool], what: str) -> None:
        try:
            poll_until(condition, PATIENCE_S, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self}") from None

    def __str__(self) -> str:
        return f"job {self.number}: {self.facts}\n{self.output}\n{self.slurm.logs()}"

    def run_folder(self) -> Path:
        """Named after the time and the job's number."""
        (folder,) = self.folder.glob(f"runs/*/*-{self.number}")
        return folder

    def record(self, name: str) -> Any:
        return json.loads((self.run_folder() / name).read_text())

    def nothing_left(self, leaks: Callable[[], list[Process]]) -> None:
        poll_until(lambda: not leaks(), 60, "all processes to end")
        assert list(self.scratch.glob("mvpnet-*")) == []


@pytest.fixture
def batch(slurm: Slurm, tmp_path: Path, short_dir: Path) -> Batch:
    (tmp_path / "blank.raw").write_bytes(bytes(512))
    return Batch(slurm, tmp_path, short_dir)


def guests(batch: Batch) -> list[str]:
    disk = f"image.path={batch.folder}/blank.raw"
    return ["image=file", disk, "image.use=readonly", f"qemu.binary={STANDIN}", "vm.accel=tcg"]


def app(batch: Batch, *arguments: str) -> str:
    return f"app.command={json.dumps([sys.executable, str(EXCHANGE), str(batch.folder), *arguments])}"


@pytest.mark.mpi
def test_one_guest_a_node(batch: Batch, leaks: Callable[[], list[Process]]) -> None:
    batch.submit("one-guest-a-node.sbatch", *guests(batch), app(batch))
    assert batch.ended() == "COMPLETED", str(batch)
    assert batch.record("job.json")["hosts"] == ["host1", "host2"]
    assert batch.record("result.json")["metrics"] == {"exchanged": 2}
    assert batch.record("manifest.json")["batch_system"]["SLURM_JOB_ID"] == batch.number
    assert "ProxyCommand ssh -W %h:%p host2" in (batch.run_folder() / "ssh_config").read_text()
    batch.nothing_left(leaks)


def test_the_signal_before_the_time_limit_ends_a_job_in_order(batch: Batch, leaks: Callable[[], list[Process]]) -> None:
    signal_early = ("--signal=USR1@50",)
    batch.submit("several-guests-a-node.sbatch", *guests(batch), app(batch, "wait"), options=signal_early)
    batch.wait_for("4/4 guests up")
    poll_until(lambda: "exchanged" in (batch.run_folder() / "app.log").read_text(), PATIENCE_S, "the app's frames")
    batch.slurm.run("scontrol", "update", f"JobId={batch.number}", "TimeLimit=1")
    assert batch.ended() == "FAILED", str(batch)
    assert batch.facts["ExitCode"] == "138:0"
    assert "SIGUSR1 received" in batch.output
    assert batch.record("job.json")["hosts"] == ["host1", "host1", "host2", "host2"]
    assert "told to end" in (batch.run_folder() / "app.log").read_text()
    assert batch.record("result.json")["exit_code"] == 138
    assert batch.record("result.json")["metrics"] == {"exchanged": 12}
    manifest = batch.record("manifest.json")
    assert manifest["status"] == "completed"
    assert [guest["how"] for guest in manifest["guests"]] == ["stopped"] * 4
    batch.nothing_left(leaks)


@pytest.mark.mpi
def test_scancel_leaves_nothing(batch: Batch, leaks: Callable[[], list[Process]]) -> None:
    batch.submit("several-guests-a-node.sbatch", *guests(batch), "net=dgram")
    batch.wait_for("4/4 guests up")
    batch.slurm.run("scancel", batch.number)
    assert batch.ended() == "CANCELLED"
    batch.nothing_left(leaks)
    assert batch.record("result.json")["verdict"] == "SIGTERM received"


@pytest.mark.mpi
def test_srun_without_a_batch_job(batch: Batch, leaks: Callable[[], list[Process]]) -> None:
    command = ["srun", "--nodes=2", "--ntasks=3", "mvpnet", *guests(batch), app(batch), "job.name=mine"]
    for attempt in range(3):
        try:
            batch.slurm.run(*command, cwd=batch.folder, env=batch.environment())
            break
        except AssertionError as error:
            if GARBLED_BY_MPICH not in str(error) or attempt == 2:
                raise
    (folder,) = batch.folder.glob("runs/*/*-mine")
    assert json.loads((folder / "result.json").read_text())["metrics"] == {"exchanged": 6}
    batch.nothing_left(leaks)


@pytest.mark.mpi
def test_mpiexec_in_place_of_srun(batch: Batch, leaks: Callable[[], list[Process]]) -> None:
    command = shlex.join([*mpiexec_command(), "-n", "4", "mvpnet", *guests(batch), app(batch)])
    options = ["--nodes=2", "--ntasks-per-node=2", "--output=mvpnet-%j.out", f"--wrap={command}"]
    batch.number = batch.slurm.run("sbatch", "--parsable", *options, cwd=batch.folder, env=batch.environment())
    assert batch.ended() == "COMPLETED", str(batch)
    assert batch.record("job.json")["hosts"] == ["host1", "host1", "host2", "host2"]
    assert batch.record("result.json")["metrics"] == {"exchanged": 12}
    batch.nothing_left(leaks)


def test_a_rank_that_is_killed_takes_the_job_along(batch: Batch, leaks: Callable[[], list[Process]]) -> None:
    batch.submit("several-guests-a-node.sbatch", *guests(batch))
    batch.wait_for("4/4 guests up")
    ranks = [process for process in leaks() if "bin/mvpnet" in process.command and "srun" not in process.command]
    ranks[-1].kill()
    assert batch.ended() == "FAILED", str(batch)
    poll_until(lambda: not leaks(), 60, "all processes to end")


def test_srun_without_pmi_is_refused_with_what_to_do(batch: Batch) -> None:
    if "openmpi" in mpiexec_command()[0]:
        pytest.skip("Open MPI itself refuses then")
    command = [*batch.slurm.login.entered(), "srun", "--mpi=none", "--ntasks=2", "mvpnet", *guests(batch)]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=batch.folder,
        env={**os.environ, **batch.slurm.environment, **batch.environment()},
        timeout=120,
    )
    assert done.returncode == 3, done.stderr
    assert "each is alone" in done.stderr
    assert "--mpi=pmi2" in done.stderr
