"""Measure how a job grows with its ranks on one machine, with stand-ins for guests (standin.c, built here with cc).

    .venv/bin/python benchmarks/scale.py [--ranks 2 --ranks 64] [--net dgram] [--plot docs/img/scale.png] [--json]

For each number of ranks a whole job runs: it starts, every guest sends a frame to every other and all arrive, it idles
for some seconds, and it stops. Told are the times of these, the memory of a rank and of its monwrap, and the CPU that
all of it takes while idle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
MARK = "MVPNET_SCALE_ID"
PATIENCE_S = 300.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Row:
    ranks: int
    prepared_s: float  # from mpiexec's start until the last rank starts its guest
    up_s: float  # until rank 0 says that all guests are up
    reached_s: (
        float  # from the word to go until every guest has a frame of every other; the word is looked for every 0.1 s
    )
    stopped_s: float  # from SIGTERM until mpiexec has ended
    rank_mb: float  # resident memory of a rank, median; what ranks share is counted for each
    rank_own_mb: float  # the same, shared memory divided by those who share it (PSS)
    monwrap_own_mb: float
    idle_percent: float  # of one core, all ranks and monwraps together


def build_standin(folder: Path) -> Path:
    binary = folder / "qemu-standin"
    subprocess.run(["cc", "-O2", "-o", binary, HERE / "standin.c"], check=True)
    return binary


def measure(ranks: int, net: str, idle_s: float, overrides: tuple[str, ...]) -> Row:
    folder = Path(tempfile.mkdtemp(prefix="mvs", dir="/tmp"))
    try:
        blank = folder / "blank.raw"
        blank.write_bytes(bytes(512))
        options = ["image=file", f"image.path={blank}", "image.use=readonly", f"qemu.binary={build_standin(folder)}"]
        options += ["vm.accel=tcg", f"net={net}", f"hydra.run.dir={folder}/run", "boot.timeout_s=300", *overrides]
        return one_job(folder, ranks, options, idle_s)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def one_job(folder: Path, ranks: int, options: list[str], idle_s: float) -> Row:
    mark = uuid.uuid4().hex
    mpiexec = str(Path(sys.executable).with_name("mpiexec"))
    log = folder / "log"
    began = time.time()
    with log.open("wb") as out:
        job = subprocess.Popen(
            [mpiexec, "-n", str(ranks), sys.executable, "-m", "mvpnet", *options],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=folder,
            env={**os.environ, MARK: mark, "STANDIN_DIR": str(folder)},
        )
    try:
        up_s = wait(lambda: f"{ranks}/{ranks} guests up" in log.read_text(), job, log) - began
        prepared_s = last_start(folder / "run") - began
        went = time.time()
        (folder / "go").touch()
        reached_s = wait(lambda: len(list(folder.glob("reached.*"))) == ranks, job, log) - went
        parts = list(marked(f"{MARK}={mark}"))
        monwraps = [pid for pid in parts if "monwrap" in command(pid)]
        rank_pids = [pid for pid in parts if "-m mvpnet" in command(pid)]
        before, since = cpu_s(rank_pids + monwraps), time.time()
        time.sleep(idle_s)
        idle = (cpu_s(rank_pids + monwraps) - before) / (time.time() - since)
        memory = [memory_mb(pid) for pid in rank_pids]
        wrappers = [memory_mb(pid) for pid in monwraps]
        asked = time.time()
        job.send_signal(signal.SIGTERM)
        job.wait(PATIENCE_S)
        return Row(
            ranks,
            prepared_s,
            up_s,
            reached_s,
            time.time() - asked,
            statistics.median(m["Rss"] for m in memory),
            statistics.median(m["Pss"] for m in memory),
            statistics.median(m["Pss"] for m in wrappers),
            100 * idle,
        )
    finally:
        if job.poll() is None:
            job.kill()
            for pid in marked(f"{MARK}={mark}"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def wait(condition: Callable[[], bool], job: subprocess.Popen[bytes], log: Path) -> float:
    """The time at which the condition came true."""
    deadline = time.time() + PATIENCE_S
    while not condition():
        if job.poll() is not None or time.time() > deadline:
            raise click.ClickException(f"the job failed or took too long:\n{log.read_text()[-4000:]}")
        time.sleep(0.02)
    return time.time()


def last_start(run: Path) -> float:
    """When the last rank started its guest, from the ranks' logs (local time, to the millisecond)."""
    times = []
    for log in run.glob("rank-*/mvpnet.log"):
        found = re.search(r"^(\S+ \S+)\.(\d{3}) .*: starting ", log.read_text(), re.M)
        if found:
            times.append(time.mktime(time.strptime(found[1], "%Y-%m-%d %H:%M:%S")) + int(found[2]) / 1e3)
    return max(times)


def marked(mark: str) -> Iterator[int]:
    """The processes with this in their environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)


def command(pid: int) -> str:
    """The interpreter's arguments, as `-m mvpnet …`, up to the first of the program's own."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return " ".join(words[1:3]) if "python" in words[0] else words[0]


def cpu_s(pids: list[int]) -> float:
    """User and system time so far, of all together: fields 14 and 15 of /proc/PID/stat (proc(5))."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


def memory_mb(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(value.split()[0]) / 1024 for name, value in (line.split(":") for line in lines)}


def table(rows: list[Row]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD)
    for name in (
        "ranks",
        "guests start",
        "all up",
        "all reached",
        "stopped",
        "rank",
        "rank's own",
        "monwrap's",
        "idle",
    ):
        shown.add_column(name, justify="right")
    for row in rows:
        shown.add_row(
            str(row.ranks),
            *(f"{s:.1f} s" for s in (row.prepared_s, row.up_s, row.reached_s, row.stopped_s)),
            *(f"{mb:.0f} MB" for mb in (row.rank_mb, row.rank_own_mb, row.monwrap_own_mb)),
            f"{row.idle_percent:.1f} %",
        )
    return shown


def plot(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (times, memory) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    ranks = [row.ranks for row in rows]
    for name, label in (("up_s", "start until all guests are up"), ("stopped_s", "stop"), ("reached_s", "all to all")):
        times.plot(ranks, [getattr(row, name) for row in rows], "o-", label=label)
    for name, label in (("rank_own_mb", "rank"), ("monwrap_own_mb", "its monwrap")):
        memory.plot(ranks, [getattr(row, name) for row in rows], "o-", label=label)
    times.set(xlabel="ranks", ylabel="seconds", ylim=(0, None), title=f"time, on {os.cpu_count()} cores")
    memory.set(xlabel="ranks", ylabel="MB, shared pages divided", ylim=(0, None), title="memory of each")
    for axes in (times, memory):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=90)


@click.command()
@click.option("--ranks", "sizes", multiple=True, type=int, default=[2, 4, 8, 16, 32, 64], show_default=True)
@click.option("--net", default="stream", show_default=True)
@click.option("--idle", "idle_s", default=10.0, show_default=True, help="seconds")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="write a PNG")
@click.option("--json", "as_json", is_flag=True)
@click.argument("overrides", nargs=-1)
def main(
    sizes: tuple[int, ...],
    net: str,
    idle_s: float,
    plot_path: Path | None,
    as_json: bool,
    overrides: tuple[str, ...],
) -> None:
    """OVERRIDES are the job's, such as net.busy_poll_us=0."""
    rows = []
    for size in sizes:
        rows.append(measure(size, net, idle_s, overrides))
        print(rows[-1], file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    else:
        Console(width=110).print(table(rows))
    if plot_path:
        plot(rows, plot_path)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    main()
