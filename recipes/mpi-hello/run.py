"""The app of mpi-hello: starts the MPI program in guest 0, on all names in /etc/hosts.mpi, and checks its result.

Open MPI is told to use the guests' network alone: qemu's user network gives every guest the same address.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

SSH_CONFIG = Path(os.environ["MVPNET_RUNDIR"]) / "ssh_config"
RANKS = int(os.environ["MVPNET_WSIZE"])
TIMEOUT_S = 300
NETWORK = "10.0.0.0/8"
MPIRUN = (
    f"mpirun --hostfile /etc/hosts.mpi -n {RANKS} --map-by node "
    f"--mca btl tcp,self --mca btl_tcp_if_include {NETWORK} --mca oob_tcp_if_include {NETWORK} "
    "python3 /opt/ring.py"
)


def run() -> dict[str, object]:
    command = ["ssh", "-F", str(SSH_CONFIG), "n0000", MPIRUN]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S)
        result = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except subprocess.TimeoutExpired as late:
        sys.exit(f"mpi-hello: the MPI program was not done after {TIMEOUT_S} s: {late.stdout!r} {late.stderr!r}")
    except (ValueError, IndexError):
        result = None
    if not isinstance(result, dict):
        sys.exit(f"mpi-hello: on guest 0 this failed ({done.returncode}): {MPIRUN}\n{done.stdout}{done.stderr}")
    return result


def main() -> None:
    result = run()
    rounds, block = int(str(result["rounds"])), int(str(result["block_bytes"]))
    sum_of_ranks = RANKS * (RANKS + 1) // 2
    expected = {
        "hosts": [f"n{rank:04d}" for rank in range(RANKS)],
        "total": rounds * sum_of_ranks,
        "everyone": sum_of_ranks,
        "whole": True,
    }
    if wrong := [key for key, value in expected.items() if result[key] != value]:
        sys.exit(f"mpi-hello: {', '.join(wrong)} should be {expected}, and the guests say {result}")
    seconds = float(str(result["seconds"]))
    table = Table(f"{RANKS} guests as one MPI job", "", box=box.SIMPLE_HEAD)
    table.add_row("library", str(result["library"]))
    table.add_row("sum that went round", f"{result['total']}, as it should be")
    table.add_row("blocks of 1 MiB that went round", f"{rounds}, whole")
    table.add_row("a block, from guest to guest", f"{rounds * RANKS * block * 8 / seconds / 1e6:.0f} Mbit/s")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
