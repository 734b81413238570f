"""A Slurm cluster of the distribution's packages: a login host with slurmctld, and two nodes with a slurmd each.

The three are network namespaces with a name and an address each, so that a slurmd takes itself for the only one on its
machine. All of it runs from a folder of its own, with its own munge, and ends with the tests. It takes root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

import netns
from netns import Host
from support import poll_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "scontrol", "sinfo")
CONFIG = """
ClusterName=mvpnet
SlurmctldHost={login.name}({login.address})
SlurmUser=root
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_interval=2
PartitionName=all Nodes=ALL Default=YES
"""
NODE = "NodeName={host.name} NodeAddr={host.address} CPUs=16 RealMemory=32000\n"
START_S = 90.0


@dataclass(frozen=True)
class Slurm:
    """The cluster, as somebody on its login host uses it."""

    folder: Path
    login: Host
    nodes: list[Host]

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
        """Run a command on the login host; its output. AssertionError where it fails."""
        done = subprocess.run(
            [*self.login.entered(), *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, **self.environment, **(env or {})},
            timeout=120,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def logs(self) -> str:
        """The last that Slurm itself has said."""
        ends = {path.name: path.read_text(errors="replace")[-800:] for path in self.folder.glob("*.log")}
        return "\n".join(f"--- {name}\n{text}" for name, text in ends.items())

    def clear(self) -> None:
        """Cancel what still runs, and wait until it has ended."""
        if self.run("squeue", "--noheader"):
            self.run("scancel", "--user=root")
            poll_until(lambda: not self.run("squeue", "--noheader"), START_S, "the last jobs to end")


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    missing = [program for program in PROGRAMS if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")]
    if why := netns.why_not():
        pytest.skip(why)
    if missing:
        pytest.skip(
            f"not installed: {', '.join(missing)}; Debian's slurmctld, slurmd, slurm-client, munge, libpmix-dev"
        )
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="mvtslurm", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        *nodes, login = stack.enter_context(netns.joined_hosts(3, f"mvs{os.getpid()}"))
        slurm = Slurm(folder, login, nodes)
        write_config(slurm)
        start(stack, slurm, "munged", None, *munge_options(folder))
        poll_until((folder / "munge.sock").exists, START_S, "munged")
        start(stack, slurm, "slurmctld", login, "-D", "-c")
        for node in nodes:
            start(stack, slurm, f"slurmd.{node.name}", node, "-D", "-N", node.name)
        stack.callback(slurm.clear)

        def idle() -> bool:
            done = subprocess.run(
                [*login.entered(), "sinfo", "--noheader", "--format=%D %T"],
                capture_output=True,
                text=True,
                env={**os.environ, **slurm.environment},
            )
            return done.stdout.split() == ["2", "idle"]

        try:
            poll_until(idle, START_S, "both nodes to be idle")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{slurm.logs()}") from None
        yield slurm


def write_config(slurm: Slurm) -> None:
    folder = slurm.folder
    nodes = "".join(NODE.format(host=node) for node in slurm.nodes)
    (folder / "slurm.conf").write_text(CONFIG.format(login=slurm.login, folder=folder) + nodes)
    (folder / "mpi.conf").write_text(f"PMIxCliTmpDirBase={folder}/pmix\n")
    for name in ("state", "pmix", *(f"{kind}.{node.name}" for kind in ("spool", "pmix") for node in slurm.nodes)):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)


def munge_options(folder: Path) -> list[str]:
    files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "munged.log", "seed-file": "seed"}
    # --force: it is root who runs it
    return ["--foreground", "--force", *(f"--{option}={folder}/munge.{end}" for option, end in files.items())]


def start(stack: ExitStack, slurm: Slurm, name: str, host: Host | None, *options: str) -> None:
    """A daemon, until the stack ends. Each slurmd sees a folder of its own where PMIx keeps files for the node."""
    program = shutil.which(name.split(".")[0], path=f"{os.environ['PATH']}:/usr/sbin")
    assert program
    command = [*(host.entered() if host else []), program, *options]
    if name.startswith("slurmd."):
        assert host
        own = ["sh", "-c", 'mount --bind "$1" "$2"; shift 2; exec "$@"', "sh"]
        folders = [str(slurm.folder / f"pmix.{host.name}"), str(slurm.folder / "pmix")]
        command = [*host.entered(), "unshare", "--mount", *own, *folders, program, *options]
    with (slurm.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **slurm.environment},
            start_new_session=True,
        )

    def end() -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)
