"""What cannot work is refused before any guest starts, or ends the boot with a table that says why."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from support import Finished, RunningJob, poll_until
from whole_jobs.conftest import Bench, nothing_left, record
from whole_jobs.test_ways_to_stop import pid_of_rank


def refused(job: RunningJob, end: Finished, code: int, *says: str) -> None:
    """One message, without a traceback, and no guest was started."""
    assert end.code == code, end
    for text in says:
        assert text in end.stderr, end
    assert "Traceback" not in end.stderr, end
    assert end.stderr.count("mvpnet: ") == 1, end
    assert "guests up" not in end.stderr, end
    nothing_left(job)


def test_a_config_error_is_told_once_and_ends_all_ranks(bench: Bench) -> None:
    job, end = bench.run("vm.acel=kvm", ranks=4)
    refused(job, end, 2, "vm.acel", "did you mean vm.accel")
    assert not (job.cwd / "run/job.json").exists()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("image.user=a/b", ["image.user", "'a/b'"]),
        ("cloud_init.ssh_authorized_keys=[~/.ssh/id.pub]", ["cloud_init.ssh_authorized_keys[0]", "is no public key"]),
        ("cloud_init.network_config={config: disabled}", ["cloud_init.network_config", "without a network"]),
        ("cloud_init.user_data={network: {}}", ["cloud_init.user_data.network", "cloud_init.network_config"]),
        ("+app={kind: guest, command: date, collect: ['$HOME/x']}", ["app.collect", "'~/x'"]),
        ("+app={kind: guest, command: date, push: {in/: 'no*thing'}}", ["app.push.in/", "no*thing"]),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_recorded(bench: Bench, option: str, says: list[str]) -> None:
    job, end = bench.run(option, ranks=1)
    refused(job, end, 2, *says)
    assert [path for path in (job.cwd / "run").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("option", "code", "says"),
    [
        ("qemu.binary=qemu-system-x86_65", 3, ["qemu.binary", "qemu-system-x86_65"]),
        ("image.path=nowhere.qcow2", 4, ["image.path", "nowhere.qcow2"]),
        ("net.tftp_dir=nowhere", 3, ["net.tftp_dir", "nowhere"]),
        ("net.domains=[a/b]", 2, ["net.domains", "a/b"]),
        ("cloud_init.path=nowhere", 4, ["cloud_init.path", "nowhere"]),
        ("image.drives=[nowhere.img]", 4, ["image.drives[0]", "nowhere.img"]),
        ("image.kernel=nowhere", 2, ["image.kernel", "nowhere"]),
        ("vm.firmware=nowhere.fd", 4, ["vm.firmware", "nowhere.fd"]),
        ("+ranks.some={on: last, vm: {firmware: nowhere.fd}}", 4, ["vm.firmware", "nowhere.fd", "n0002"]),
    ],
)
def test_what_is_not_there_is_named(bench: Bench, option: str, code: int, says: list[str]) -> None:
    job, end = bench.run(option, ranks=3)
    refused(job, end, code, *says)
    assert record(job)["verdict"]["code"] == code


@pytest.mark.parametrize("network", ["10.1.0.0/16", "192.168.5.7/24", "fd00::/64", "home"])
def test_a_user_network_that_cannot_be(bench: Bench, network: str) -> None:
    job, end = bench.run(f'net.user_network="{network}"', ranks=2)
    refused(job, end, 2, "net.user_network", network)


def test_a_ulimit_that_qemu_cannot_start_with(bench: Bench) -> None:
    """A rank, with its MPI, takes less address space than 3 GiB, and a guest of so much takes more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, hard))
    try:
        refused(*bench.run("vm.memory=3G"), 3, "ulimit -v allows 3 GiB", "ulimit -v unlimited before mpirun")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_tiny_image_that_cannot_be_built(bench: Bench) -> None:
    job, end = bench.run("image.kind=tiny", f"image.cache_dir={bench.disk}/below-a-file")
    refused(job, end, 4, "image=tiny cannot be built", "image=file")
    assert end.stderr.count("cannot be built") == 1


def test_a_socket_folder_that_is_not_there(bench: Bench) -> None:
    refused(*bench.run("net.socket=path", "net.socket_dir=nowhere"), 3, "net.socket_dir", "nowhere")


def test_a_log_folder_that_cannot_be_made(bench: Bench) -> None:
    bench.disk.with_name("file").write_text("")
    job, end = bench.run(f"logging.dir={bench.disk.with_name('file')}/logs")
    assert end.code == 3, end
    assert str(bench.disk.with_name("file")) in end.stderr
    nothing_left(job)


def test_a_socket_path_that_is_too_long(bench: Bench) -> None:
    deep = bench.disk.with_name("x" * 90)
    deep.mkdir()
    refused(*bench.run("net.socket=path", f"net.socket_dir={deep}"), 3, "net.socket_dir", "107")
    refused(*bench.run(f"job.scratch_dir={deep}", "hydra.run.dir=other"), 3, "job.scratch_dir", "107")


@pytest.fixture
def full_disk() -> Iterator[Path]:
    """A small file system without room."""
    with mounted("64k") as folder:
        with (folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))
        yield folder


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A small file system with room for a run folder, and for little more."""
    with mounted("512k") as folder:
        yield folder


@contextmanager
def mounted(size: str) -> Iterator[Path]:
    """A file system of this size, by a path that leaves room for those of sockets."""
    with TemporaryDirectory(prefix="mvd", dir="/tmp") as folder:
        if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "test", folder]).returncode:
            pytest.skip("mounting takes root")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def test_a_full_scratch_disk(bench: Bench, full_disk: Path) -> None:
    _, end = bench.run("image.use=overlay", f"job.scratch_dir={full_disk}")
    assert end.code in (3, 4), end
    assert str(full_disk) in end.stderr and "No space left on device" in end.stderr, end
    assert "Traceback" not in end.stderr
    assert not [path for path in full_disk.rglob("*") if path.name not in ("filler", f"mvpnet-{os.getuid()}")]


def test_a_run_folder_that_holds_another_run(bench: Bench) -> None:
    job, end = bench.run('app.command=["true"]')
    assert end.code == 0, end
    before = contents(job.cwd / "run")
    assert {".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "job.json"} <= before.keys()
    refused(*bench.run('app.command=["true"]', "vm.cpus=2"), 2, "holds another run")
    assert contents(job.cwd / "run") == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("options", [["hydra.run.dir=blank.raw/run"], ["-m", "hydra.sweep.dir=blank.raw/run"]])
def test_a_run_folder_that_cannot_be_made(bench: Bench, options: list[str]) -> None:
    key = options[-1].partition("=")[0]
    refused(*bench.run(*options), 3, f"{key}: cannot make", "blank.raw/run: ", "blank.raw: File exists")


def test_a_file_in_the_place_of_the_run_folder(bench: Bench) -> None:
    refused(*bench.run("hydra.run.dir=blank.raw"), 3, "hydra.run.dir: cannot make", "blank.raw: Not a directory")


def test_a_taken_ssh_port_is_passed_over(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        job, end = bench.run(f"net.ssh_port={port}", 'app.command=["true"]', ranks=1)
        if port + 100 > 65535:
            refused(job, end, 3, "net.ssh_port")
        else:
            assert end.code == 0, end
            port_line = next(line for line in (job.cwd / "run/ssh_config").read_text().splitlines() if "Port" in line)
            assert (int(port_line.split()[1]) - port) % 100 == 0 and int(port_line.split()[1]) > port
    nothing_left(job)


def test_a_port_that_is_taken_between_check_and_start(bench: Bench) -> None:
    """Nobody holds the port meanwhile: here the program in qemu's place takes it, just before qemu would."""
    take = (
        "import re, socket\n"
        "found = re.search(r'hostfwd=tcp:127.0.0.1:([0-9]+)-', argv)\n"
        "if found and 'mac=52:55:00:00:00:01' in argv:\n"
        "    taken = socket.create_server(('127.0.0.1', int(found[1]))); taken.set_inheritable(True)"
    )
    job, end = bench.run(f"qemu.binary={bench.program('taker', take)}")
    assert end.code == 5, end
    assert "n0001 did not come up: qemu ended with exit code 1" in end.stderr
    table = end.stderr[end.stderr.index("reached") :]
    assert "the ssh port is taken by another program on this host; set net.ssh_port" in " ".join(table.split())
    nothing_left(job)


def test_a_monwrap_that_is_not_there(bench: Bench) -> None:
    job, end = bench.run("qemu.monwrap=/nonexistent/monwrap")
    assert end.code == 5, end
    assert "monwrap could not be started: /nonexistent/monwrap" in end.stderr
    assert "see the key qemu.monwrap" in end.stderr
    nothing_left(job)


def test_a_qemu_that_dies_at_once(bench: Bench) -> None:
    message = "-netdev user: Could not set up host forwarding rule 'tcp:127.0.0.1:2200-:22'"
    job, end = bench.run(behaviour="1:die", env={"STANDIN_MESSAGE": message}, ranks=2)
    assert end.code == 5, end
    assert "n0001 did not come up" in end.stderr
    assert "ssh port is taken" in end.stderr
    assert "starting" in end.stderr
    assert [guest["how"] for guest in record(job)["guests"]] == ["stopped", "crashed"]
    nothing_left(job)


def test_a_guest_that_never_answers(bench: Bench) -> None:
    job, end = bench.run(
        "boot.timeout_s=10",
        behaviour="1:mute-ssh,0:normal,2:normal",
        env={"STANDIN_CONSOLE": "Kernel panic - not syncing: no root"},
        ranks=3,
    )
    assert end.code == 5, end
    assert "not all guests were up after 10 s: n0001 (booting)" in end.stderr
    table = end.stderr[end.stderr.index("reached") :]
    assert "n0001" in table
    assert "Kernel panic" in table
    assert "kernel panicked" in table
    assert "n0000" not in table and "n0002" not in table
    assert record(job)["verdict"]["code"] == 5
    nothing_left(job)


def test_a_qemu_that_is_no_program(bench: Bench) -> None:
    script = bench.disk.with_name("broken")
    script.write_text("#!/nonexistent/interpreter\n")
    script.chmod(0o755)
    job, end = bench.run(f"qemu.binary={script}")
    assert end.code == 3, end
    assert "qemu.binary" in end.stderr
    nothing_left(job)


def test_a_run_folder_in_which_the_ways_in_cannot_be_written(bench: Bench) -> None:
    """The ranks have agreed to start by then: they start, and are stopped."""
    (bench.disk.parent / "run/ssh_config").mkdir(parents=True)
    job, end = bench.run('app.command=["true"]', ranks=3)
    assert end.code == 3, end
    assert f"stopping: cannot write {job.cwd}/run/ssh_config: Is a directory" in end.stderr
    assert "Traceback" not in end.stderr
    assert record(job)["verdict"]["code"] == 3
    assert not (job.cwd / "run/app.log").exists()
    nothing_left(job)


def test_a_record_that_cannot_be_written_is_a_warning(bench: Bench) -> None:
    job = bench.up('app.command=["sleep", "1"]')
    (job.cwd / "run/stats.json").mkdir()
    end = job.finish(60)
    assert end.code == 0, end
    assert f"warning: cannot write {job.cwd}/run/stats.json" in end.stderr
    nothing_left(job)


def test_warnings_are_told(bench: Bench) -> None:
    _, end = bench.run('+ranks.far={on: "7", vm: {cpus: 2}}', 'app.command=["true"]')
    assert end.code == 0, end
    assert "warning: ranks.far.on: no rank of this world of 2" in end.stderr


def test_an_image_that_two_ranks_would_write(bench: Bench) -> None:
    refused(*bench.run("image.use=direct"), 2, "image.path", "rank 0", "rank 1")


def test_help_and_config_are_printed_once(bench: Bench) -> None:
    _, end = bench.run("--help", ranks=3)
    assert end.code == 0, end
    assert end.stdout.count("configuration groups") == 1
    _, end = bench.run("--cfg", "job", ranks=3)
    assert end.code == 0, end
    assert end.stdout.count("\nvm:\n") == 1


def test_a_verb_that_does_not_exist(bench: Bench) -> None:
    end = bench.start_mvpnet("plann", ranks=None).finish(30)
    assert end.code == 2
    assert "Did you mean 'plan'" in end.stderr


def test_rank_overrides_take_effect_on_their_ranks(bench: Bench) -> None:
    job, end = bench.run(
        "ranks=[console_on_zero]",
        '+ranks.loud={on: "1-2", logging: {wrapper: true, file: false}}',
        "logging.console=false",
        'app.command=["true"]',
        ranks=3,
    )
    assert end.code == 0, end
    written = {rank: {path.name for path in (job.cwd / f"run/rank-{rank:04d}").iterdir()} for rank in range(3)}
    assert written == {
        0: {"console.log", "mvpnet.log", "qemu.log"},
        1: {"monwrap.log", "qemu.log"},
        2: {"monwrap.log", "qemu.log"},
    }
    nothing_left(job)


def test_a_run_folder_that_fills_up(bench: Bench, small_disk: Path) -> None:
    job, end = bench.run('app.command=[sh,-c,"yes | head -n 1000000; exit 4"]', f"hydra.run.dir={small_disk}/run")
    assert end.code == 4, end
    assert f"{small_disk}/run/app.log: No space left on device; no more of the app's output is kept" in end.stderr
    assert f"warning: cannot write {small_disk}/run/stats.json: No space left on device" in end.stderr
    assert "Traceback" not in end.stderr
    assert (small_disk / "run/app.log").read_bytes().startswith(b"y\ny\n")
    assert not list((small_disk / "run").glob(".job.json.*"))
    nothing_left(job)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_unforeseen_error_on_one_rank_ends_all(bench: Bench, rank: int) -> None:
    """A rank that may open nothing any more, while its guest boots: its next look at the ssh port is an error."""
    job = bench.start(behaviour=f"{rank}:no-ssh", ranks=3)
    job.wait_for("2/3 guests up")
    job.wait_for("(booting)")
    open_no_more(pid_of_rank(job, rank))
    end = job.finish(60)
    assert end.code != 0, end
    assert f"mvpnet: rank {rank} on " in end.stderr and "Too many open files" in end.stderr, end
    assert end.stderr.count("Traceback") == 1, end
    poll_until(lambda: not job.processes(), 30, "all processes to end")
    assert "the guest is gone" in (job.cwd / f"run/rank-{rank:04d}/mvpnet.log").read_text()


def open_no_more(pid: int) -> None:
    """Below its first free descriptor; not lower, for poll(2) refuses more descriptors than the limit (EINVAL)."""
    taken = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    free = next(fd for fd in count() if fd not in taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, free))
