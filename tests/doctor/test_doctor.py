"""The verb as a user types it: alone, under mpiexec, and where the launch itself is wrong."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import mvpnet
from support import Finished, RunMvpnet, mpiexec_command

STANDIN = Path(__file__).parent.parent / "standin.py"
PORT = 30_000 + os.getpid() % 200 * 100  # what another test run on this machine looks at is elsewhere
BLANK = "blank.raw"

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def job(tmp_path: Path) -> list[str]:
    """Overrides of a job that this host can take."""
    (tmp_path / BLANK).write_bytes(bytes(512))
    own = [f"qemu.binary={STANDIN}", "vm.accel=tcg", f"net.ssh_port={PORT}", "vm.memory=1M"]
    return [*own, "image=file", f"image.path={BLANK}", "image.use=readonly", "job.name=j"]


def lines_of(end: Finished) -> list[dict[str, Any]]:
    """The JSON, in which nothing else is mixed."""
    lines = json.loads(end.stdout)
    assert all(set(line) == {"host", "ranks", "check", "level", "seen", "todo"} for line in lines)
    assert all(line["level"] == "ok" or line["todo"] for line in lines), lines
    return lines


def line_of(end: Finished, check: str) -> dict[str, Any]:
    """The only line of a check."""
    [line] = [line for line in lines_of(end) if line["check"] == check]
    return line


@pytest.mark.parametrize(("ranks", "options", "about"), [(None, ["-n", "3"], 3), (None, [], 1), (4, [], 4), (1, [], 1)])
def test_a_host_that_can(
    run_mvpnet: RunMvpnet, job: list[str], tmp_path: Path, ranks: int | None, options: list[str], about: int
) -> None:
    end = run_mvpnet("doctor", "--json", *options, *job, ranks=ranks)
    assert end.code == 0, end
    lines = lines_of(end)
    assert {line["host"] for line in lines} == {socket.gethostname()}
    assert {tuple(line["ranks"]) for line in lines if line["check"] != "cpus"} >= {tuple(range(about))}, lines
    assert not [line for line in lines if line["level"] == "failure"]
    assert line_of(end, "mvpnet")["seen"] == mvpnet.__version__
    assert line_of(end, "netdev")["seen"] == "stream (net.kind)"
    assert [path.name for path in tmp_path.iterdir() if path.name != BLANK] == [], "it leaves nothing"


def test_a_table_for_people(run_mvpnet: RunMvpnet, job: list[str]) -> None:
    end = run_mvpnet("doctor", *job, ranks=2)
    assert end.code == 0, end
    assert end.stdout.count("host ") == 1 and end.stdout.count("scratch") >= 1, end
    assert end.stdout.splitlines()[-1].endswith(("warning", "warnings", "nothing is in the way")), end


def script(folder: Path, text: str) -> Path:
    path = folder / "qemu-system-x86_64"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


OLD = (
    'case $1 in --version) echo "QEMU emulator version 6.2.0 (Debian 1:6.2)";; '
    "*) printf 'Available netdev backend types:\\nsocket\\nhubport\\nuser\\n';; esac"
)


def test_an_old_qemu(run_mvpnet: RunMvpnet, job: list[str], short_dir: Path) -> None:
    end = run_mvpnet("doctor", "--json", *job, f"qemu.binary={script(short_dir, OLD)}", ranks=2)
    assert end.code == 3, end
    qemu, netdev = line_of(end, "qemu"), line_of(end, "netdev")
    assert (qemu["level"], qemu["ranks"]) == ("failure", [0, 1]) and "6.2.0, is old" in qemu["seen"]
    assert netdev["level"] == "failure" and "no -netdev stream" in netdev["seen"]


@pytest.mark.parametrize(
    ("options", "check", "seen"),
    [
        (["qemu.binary=qemu-system-x86_65"], "qemu", "no program 'qemu-system-x86_65'"),
        (["vm.memory=100T"], "memory", "102400 GiB (vm.memory), and this host has"),
        (["job.scratch_dir=" + "x" * 90], "sockets", "job.scratch_dir: the socket path"),
        ([f"job.scratch_dir={BLANK}/below"], "scratch", "job.scratch_dir: cannot make a folder in"),
        (["image.path=nowhere.raw"], "image", "image.path: there is no"),
        (["image.arch=aarch64", "qemu.binary=qemu-system-x86_64"], "image", "image.arch: the image is for aarch64"),
        (["vm.firmware=nowhere.fd"], "firmware", "vm.firmware: there is no"),
        (["vm.firmware=auto", "vm.machine=microvm"], "firmware", "vm.firmware: there is no UEFI firmware for x86_64"),
        (["image.kernel=nowhere"], "image", "image.kernel: there is no file"),
        (["net.tftp_dir=nowhere"], "settings", "net.tftp_dir: "),
        (["net.ssh_port=65535", "vm.cpus=1"], "ssh ports", "no port for ssh is free"),
    ],
)
def test_failures_alone(run_mvpnet: RunMvpnet, job: list[str], options: list[str], check: str, seen: str) -> None:
    end = run_mvpnet("doctor", "-n", "2", "--json", *job, *options, ranks=None)
    assert end.code == 3, end
    failed = [line for line in lines_of(end) if line["level"] == "failure" and line["check"] == check]
    assert failed and seen in failed[0]["seen"], end


def test_failures_of_some_ranks_under_mpiexec(run_mvpnet: RunMvpnet, job: list[str]) -> None:
    """Rank overrides: what only one rank asks for is told of that rank."""
    far = "+ranks.far={on: last, vm: {memory: 100T}, image: {path: nowhere.raw}, qemu: {binary: nowhere}}"
    end = run_mvpnet("doctor", "--json", *job, far, ranks=4)
    assert end.code == 3, end
    failed = {line["check"]: line["ranks"] for line in lines_of(end) if line["level"] == "failure"}
    assert failed == {"qemu": [3], "netdev": [3], "image": [3], "memory": [0, 1, 2, 3]}, end


def test_a_busy_port(run_mvpnet: RunMvpnet, job: list[str]) -> None:
    with socket.create_server(("127.0.0.1", PORT + 1)):
        end = run_mvpnet("doctor", "--json", *job, ranks=2)
    assert end.code == 0, end
    taken = [line for line in lines_of(end) if line["check"] == "ssh ports" and line["level"] == "warning"]
    assert [line["ranks"] for line in taken] == [[1]], end
    assert f"{PORT + 1} is taken; the job would take " in taken[0]["seen"]


def test_images_that_are_not_here_yet_are_not_fetched(run_mvpnet: RunMvpnet, job: list[str], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for image, seen in (
        (["image=centos9"], "is not in the store"),
        (["image=debian12-built"], "not built here yet"),
    ):
        own = [word for word in job if not word.startswith(("image", "qemu.binary"))]
        end = run_mvpnet("doctor", "--json", *own, *image, f"image.cache_dir={cache}", ranks=None)
        assert seen in line_of(end, "image")["seen"], end
    assert not cache.exists()


def test_more_than_a_disk_has_room_for(run_mvpnet: RunMvpnet, job: list[str], tmp_path: Path) -> None:
    with (tmp_path / BLANK).open("wb") as disk:
        disk.truncate(2**43)  # a hole: it takes no room
    end = run_mvpnet("doctor", "-n", "2", "--json", *job, "image.use=overlay", ranks=None)
    line = line_of(end, "disk")
    assert line["level"] == "warning" and "the guests may write 16384 GiB" in line["seen"], end


# -- what is asked wrongly ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "options", "says"),
    [
        (None, ["vm.memroy=1G"], "did you mean vm.memory"),
        (3, ["vm.memroy=1G"], "did you mean vm.memory"),
        (2, ["-n", "4"], "-n 4: is for one host without mpirun"),
        (None, ["-n", "0"], "0 is not in the range"),
        (2, ["--jsn"], "--json"),
        (2, ["image=nope"], "there is no option 'nope'"),
        (2, ["image.use=direct"], "would be written by rank 0 while rank 1 uses it"),
        (
            2,
            ["image.drives=['blank.raw,mvpctl=c']", "image.copy_dir=copies"],
            "would be written by rank 0 while rank 1",
        ),
    ],
)
def test_mistakes_are_told_once(
    run_mvpnet: RunMvpnet, job: list[str], ranks: int | None, options: list[str], says: str
) -> None:
    end = run_mvpnet("doctor", *job, *options, ranks=ranks)
    assert end.code == 2, end
    assert says in end.stderr and end.stdout == "" and end.stderr.count("mvpnet: ") == 1, end
    assert "Traceback" not in end.stderr


def test_what_has_no_effect_is_said(run_mvpnet: RunMvpnet, job: list[str]) -> None:
    end = run_mvpnet("doctor", "--json", *job, "+ranks.far={on: '9'}", ranks=None)
    assert end.code == 0 and "warning: ranks.far.on" in end.stderr, end
    assert lines_of(end)


# -- a launch that is wrong itself -------------------------------------------------------------------------------------


def split(rank: int) -> dict[str, str]:
    """As Open MPI's mpirun leaves the ranks of a program."""
    return {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": str(rank)}


with_mpich = pytest.mark.skipif("openmpi" in mpiexec_command()[0], reason="it is Open MPI's library that is here")


@with_mpich
@pytest.mark.parametrize(
    ("env", "seen"),
    [
        (split(0), "started by Open MPI's mpirun, and mpi4py's library is of another MPI: MPICH"),
        ({"PMI_SIZE": "4", "PMI_RANK": "0"}, "the launcher started 4 ranks, but each is alone"),
    ],
)
def test_a_launcher_of_another_mpi(run_mvpnet: RunMvpnet, job: list[str], env: dict[str, str], seen: str) -> None:
    end = run_mvpnet("doctor", "--json", *job, ranks=None, env=env)
    assert end.code == 3, end
    line = line_of(end, "mpi")
    assert line["level"] == "failure" and seen in line["seen"]
    assert "use the mpiexec of that MPI" in line["todo"] and "MPI4PY_LIBMPI" in line["todo"]
    assert {line["check"] for line in lines_of(end)} >= {"qemu", "memory", "image"}, (
        "the rest is looked at all the same"
    )


@with_mpich
@pytest.mark.parametrize("options", [["doctor", "--json"], []])
def test_the_other_ranks_of_such_a_launch_are_silent(run_mvpnet: RunMvpnet, job: list[str], options: list[str]) -> None:
    end = run_mvpnet(*options, *job, ranks=None, env=split(1))
    assert (end.code, end.stdout, end.stderr) == (0, "", ""), end


@with_mpich
@pytest.mark.skipif(shutil.which("mpiexec.openmpi") is None, reason="Open MPI is not installed")
@pytest.mark.parametrize("options", [["doctor"], []])
def test_open_mpis_mpiexec_with_mpichs_library(run_mvpnet: RunMvpnet, job: list[str], options: list[str]) -> None:
    """The very thing: an mpirun that comes first on the PATH, and the library from PyPI."""
    launch = ["mpiexec.openmpi", "--allow-run-as-root", "--oversubscribe", "-n", "3", sys.executable, "-m", "mvpnet"]
    end = run_mvpnet(*options, *job, ranks=None, program=launch)
    assert end.code == 3, end
    said = " ".join((end.stdout + end.stderr).split())
    assert said.count("started by Open MPI's mpirun") == 1 and "MPI4PY_LIBMPI" in said, end


def test_no_mpi_at_all(run_mvpnet: RunMvpnet, job: list[str]) -> None:
    end = run_mvpnet("doctor", "--json", *job, ranks=None, env={"MPI4PY_LIBMPI": "/nowhere/libmpi.so"})
    line = line_of(end, "mpi")
    assert (end.code, line["level"]) == (3, "failure") and "no usable MPI library" in line["seen"], end


def as_if(line: str) -> list[str]:
    """mvpnet after a line of Python that changes what this rank sees."""
    return [sys.executable, "-c", f"import mvpnet, socket, sys, time\n{line}\nfrom mvpnet.__main__ import main\nmain()"]


def beside(line: str, *arguments: str) -> list[str]:
    """What makes rank 1 of the launch, behind the command of rank 0: mpiexec takes several programs."""
    return [*arguments, ":", "-n", "1", *as_if(line), *arguments]


@pytest.mark.mpi
def test_ranks_of_two_versions(run_mvpnet: RunMvpnet, job: list[str]) -> None:
    end = run_mvpnet(*beside("mvpnet.__version__ = '0.0.1'", "doctor", "--json", *job), ranks=1)
    assert end.code == 3, end
    assert [(line["check"], line["level"], line["ranks"]) for line in lines_of(end)] == [
        ("mvpnet", "ok", [0]),
        ("mvpnet", "failure", [1]),
    ]


def test_a_job_refuses_ranks_of_two_versions(run_mvpnet: RunMvpnet, job: list[str], tmp_path: Path) -> None:
    end = run_mvpnet(*beside("mvpnet.__version__ = '0.0.1'", *job), ranks=1)
    assert end.code == 3, end
    assert "runs mvpnet 0.0.1, and rank 0" in end.stderr and end.stderr.count("mvpnet: ") == 1, end
    assert not (tmp_path / "runs").exists()


def test_clocks_that_are_apart(run_mvpnet: RunMvpnet, job: list[str]) -> None:
    """A second host whose clock is an hour behind."""
    other = "socket.gethostname = lambda: 'host2'\nnow = time.time\ntime.time = lambda: now() - 3600"
    end = run_mvpnet(*beside(other, "doctor", "--json", *job), ranks=1)
    assert end.code == 0, end
    here, there = (line for line in lines_of(end) if line["check"] == "clock")
    assert (here["ranks"], here["level"]) == ([0], "ok")
    assert (there["host"], there["ranks"], there["level"]) == ("host2", [1], "warning")
    assert 3500_000 < float(there["seen"].split()[0]) < 3700_000 and "ms behind" in there["seen"], end


# -- what a job looks at by itself -------------------------------------------------------------------------------------


def test_a_job_refuses_memory_that_cannot_be(run_mvpnet: RunMvpnet, job: list[str]) -> None:
    end = run_mvpnet(*job, "vm.memory=100T", "hydra.run.dir=run", ranks=2)
    assert end.code == 3, end
    assert "memory: a guest is to get 102400 GiB" in end.stderr and "2 ranks, n0000 first" in end.stderr, end
    assert end.stderr.count("mvpnet: ") == 1 and "guests up" not in end.stderr, end


def test_a_job_warns_in_one_line_a_host(run_mvpnet: RunMvpnet, job: list[str]) -> None:
    busy = len(os.sched_getaffinity(0)) + 1
    options = [*job, f"vm.cpus={busy}", "hydra.run.dir=run", 'app.command=["true"]', "shutdown.powerdown_s=2"]
    end = run_mvpnet(*options, ranks=2)
    assert end.code == 0, end
    [line] = [line for line in end.stderr.splitlines() if line.startswith("warning: ")]
    assert f"cpus: the guests ask for {2 * busy} CPUs" in line and line.endswith("; see mvpnet doctor"), end
