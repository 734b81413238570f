"""Measure between two real guests: the job's Ethernet beside qemu's own netdev joined straight to qemu's.

    .venv/bin/python benchmarks/guests.py [--rounds 5] [--kind stream --kind dgram] [--mtu 1500 --mtu 9000] [--json]

For each kind and MTU a job of two tiny guests is started under mpiexec, and beside it the same two guests again: the
job's own qemu command lines, but with the two ends of one socket pair as their netdevs, so no rank, no MPI. That is
the limit of what any switch between them can reach. While one pair is measured the other is stopped (SIGSTOP). The
two are measured in turn, round after round; the figures are medians, and ratios of medians from one run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

BOOT_S = 120.0
PINGS = {"ping 100 ms apart": (20, 0.1), "ping 2 ms apart": (400, 0.002)}  # how many, how far apart in seconds
THROUGHPUT = "TCP (iperf3)"


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two running guests: where their ssh ports are, the key that opens them, and their qemus."""

    ports: tuple[int, int]
    key: Path
    qemus: tuple[int, int]

    def on(self, rank: int, script: str) -> str:
        """What a shell script prints on a guest. Raises CalledProcessError when it fails there."""
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes"]
        command = ["ssh", "-i", str(self.key), "-p", str(self.ports[rank])]
        command += [word for option in options for word in ("-o", option)]
        done = subprocess.run(
            [*command, "root@127.0.0.1", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90
        )
        done.check_returncode()
        return done.stdout

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        for pid in self.qemus:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in self.qemus:
                os.kill(pid, signal.SIGCONT)


# ── the job ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def job(folder: Path, kind: str, mtu: int, overrides: tuple[str, ...]) -> Iterator[Pair]:
    """Two tiny guests as a job under mpiexec."""
    name, run = f"bench{os.getpid()}", folder / "run"
    argv = [str(Path(sys.executable).with_name("mpiexec")), "-n", "2", sys.executable, "-m", "mvpnet"]
    argv += ["image=tiny", "vm=small", f"net={kind}", f"net.mtu={mtu}", f"job.name={name}", f"hydra.run.dir={run}"]
    argv += [f"net.ssh_port={20000 + 100 * (os.getpid() % 400)}"]  # out of the way of other jobs that start just now
    log = folder / "job.log"
    with log.open("wb") as out:
        process = subprocess.Popen([*argv, *overrides], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder)
    try:
        wait_for(lambda: "2/2 guests up" in log.read_text(), process, log)
        ports = [int(port) for port in re.findall(r"^ *Port (\d+)", (run / "ssh_config").read_text(), re.M)]
        qemus = [qemu_of(f"{name}.n{rank:04d}") for rank in (0, 1)]
        yield Pair((ports[0], ports[1]), next(p for p in run.iterdir() if is_private_key(p)), (qemus[0], qemus[1]))
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for(condition, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + BOOT_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise click.ClickException(f"the job did not come up:\n{log.read_text()}")
        time.sleep(0.1)


def is_private_key(path: Path) -> bool:
    return path.is_file() and path.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY")


def qemu_of(name: str) -> int:
    """The process id of the qemu whose -name this is."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "qemu" in Path(words[0]).name and name in words:
                return int(folder.name)
    raise click.ClickException(f"there is no qemu named {name}")


# ── the same guests, joined straight to each other ───────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def direct(folder: Path, kind: str, like: Pair) -> Iterator[Pair]:
    """The guests of a running job once more, their netdevs the two ends of one socket pair."""
    with ExitStack() as stack:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM if kind == "stream" else socket.SOCK_DGRAM)
        qemus, ports = [], []
        for rank, end in enumerate(ends):
            stack.enter_context(end)
            _, qemus_monitor = (stack.enter_context(s) for s in socket.socketpair())
            ports.append(free_port())
            argv = rewired(
                cmdline(like.qemus[rank]),
                kind,
                end.fileno(),
                qemus_monitor.fileno(),
                ports[-1],
                folder / f"direct.{rank}",
            )
            log = stack.enter_context((folder / f"direct.{rank}.log").open("wb"))
            fds = (end.fileno(), qemus_monitor.fileno())
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=fds)
            stack.callback(end_process, process)
            qemus.append(process.pid)
        for end in ends:
            end.close()
        pair = Pair((ports[0], ports[1]), like.key, (qemus[0], qemus[1]))
        for rank in (0, 1):
            wait_for_ssh(pair, rank)
        yield pair


def cmdline(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")


def rewired(argv: list[str], kind: str, link_fd: int, monitor_fd: int, port: int, stem: Path) -> list[str]:
    """A job's qemu command line for another qemu beside it: other descriptors, port and console files."""
    link = (
        f"stream,id=mvpnet,addr.type=fd,addr.str={link_fd}"
        if kind == "stream"
        else f"dgram,id=mvpnet,local.type=fd,local.str={link_fd}"
    )

    def changed(word: str) -> str:
        if re.match(r"(stream|dgram),id=mvpnet,", word):
            return link
        if word.startswith("socket,id=qmp,"):
            return f"socket,id=qmp,fd={monitor_fd}"
        if word.startswith("socket,id=console,"):
            return f"socket,id=console,path={stem}.sock,server=on,wait=off,logfile={stem}.console"
        return re.sub(r"(hostfwd=tcp:127\.0\.0\.1:)\d+-", rf"\g<1>{port}-", word)

    return [changed(word) for word in argv]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_ssh(pair: Pair, rank: int) -> None:
    deadline = time.monotonic() + BOOT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.CalledProcessError, subprocess.TimeoutExpired):
            pair.on(rank, "true")
            return
        time.sleep(0.2)
    raise click.ClickException("the guests joined straight to each other did not come up")


def end_process(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def throughput(pair: Pair, seconds: float) -> float:
    """TCP from guest 0 to guest 1 in Mbit/s, as guest 1 received it."""
    said = json.loads(pair.on(0, f"iperf3 -c n0001 -t {seconds:g} -J"))
    return said["end"]["sum_received"]["bits_per_second"] / 1e6


def ping(pair: Pair, count: int, gap_s: float) -> float:
    """The median round trip in ms. It is written to a file first: ssh's own packets would disturb it."""
    said = pair.on(0, f"ping -c {count} -i {gap_s:g} n0001 > /tmp/ping; cat /tmp/ping")
    times = [float(text) for text in re.findall(r"time=([\d.]+)", said)]
    if len(times) < 0.9 * count:  # a guest that did not get its core for long loses some by itself
        raise click.ClickException(f"{count} pings, {len(times)} answers: {said[-200:]}")
    return statistics.median(times)


def one_round(pair: Pair, seconds: float) -> dict[str, float]:
    return {THROUGHPUT: throughput(pair, seconds)} | {name: ping(pair, *how) for name, how in PINGS.items()}


def measure(kind: str, mtu: int, rounds: int, seconds: float, overrides: tuple[str, ...]) -> list[dict[str, object]]:
    """A row a figure, for one kind and MTU."""
    found: dict[str, list[dict[str, float]]] = {"mvpnet": [], "direct": []}
    folder = Path(tempfile.mkdtemp(prefix="mvg", dir="/tmp"))
    try:
        with job(folder, kind, mtu, overrides) as through, direct(folder, kind, through) as straight:
            pairs = {"mvpnet": through, "direct": straight}
            for pair in pairs.values():
                pair.on(1, "iperf3 -s -D")
                one_round(pair, 1)  # warm: code not translated yet costs more than what is measured
            for number in range(rounds):
                for name in sorted(pairs, reverse=bool(number % 2)):
                    other = next(pair for other_name, pair in pairs.items() if other_name != name)
                    with quiet(), other.stopped():
                        found[name].append(one_round(pairs[name], seconds))
                    print(f"{kind} {mtu} round {number + 1} {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    rows = []
    for figure in [THROUGHPUT, *PINGS]:
        ours, theirs = (statistics.median(r[figure] for r in found[name]) for name in ("mvpnet", "direct"))
        rows.append({"kind": kind, "mtu": mtu, "figure": figure, "mvpnet": ours, "direct": theirs})
    return rows


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold BENCH_LOCK, a file that whoever measures on this machine locks (flock(1)), if the environment names one."""
    path = os.environ.get("BENCH_LOCK")
    if path is None:
        yield
        return
    with Path(path).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def table(rows: list[dict[str, object]]) -> Table:
    shown = Table("netdev", "MTU", "", "direct", "mvpnet", "ratio", box=box.SIMPLE_HEAD)
    for row in rows:
        unit, digits = ("Mbit/s", 0) if row["figure"] == THROUGHPUT else ("ms", 2)
        values = [f"{row[name]:.{digits}f} {unit}" for name in ("direct", "mvpnet")]
        ratio = row["mvpnet"] / row["direct"]  # type: ignore[operator]
        shown.add_row(str(row["kind"]), str(row["mtu"]), str(row["figure"]), *values, f"{ratio:.2f}")
    return shown


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="of iperf3 a round")
@click.option("--kind", "kinds", multiple=True, default=["stream", "dgram"], show_default=True)
@click.option("--mtu", "mtus", multiple=True, type=int, default=[1500, 9000], show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.argument("overrides", nargs=-1)
def main(
    rounds: int,
    seconds: float,
    kinds: tuple[str, ...],
    mtus: tuple[int, ...],
    as_json: bool,
    overrides: tuple[str, ...],
) -> None:
    """OVERRIDES are the job's, such as net.max_spin_us=0."""
    rows = [row for kind in kinds for mtu in mtus for row in measure(kind, mtu, rounds, seconds, overrides)]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        Console(width=110).print(table(rows))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    main()
