"""The demo's app: log in to guest 0, and from there reach guest 1 in three ways. Prints a table of what was measured.

Runs on rank 0's host while the guests run; everything it needs comes from the environment that mvpnet gives an app.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

SSH_CONFIG = Path(os.environ["MVPNET_RUNDIR"]) / "ssh_config"
COPY = """
set -e
dd if=/dev/urandom of=/tmp/there bs=1024 count=1024 2>/dev/null
ssh n0001 'cat > /tmp/megabyte' < /tmp/there
ssh n0001 'cat /tmp/megabyte' > /tmp/back
sha256sum < /tmp/there
ssh n0001 'sha256sum < /tmp/megabyte'
sha256sum < /tmp/back
"""


def on_guest_0(script: str) -> str:
    """What a shell script prints on guest 0; ends the demo when it fails."""
    command = ["ssh", "-F", str(SSH_CONFIG), "n0000", script]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False)
    if done.returncode:
        sys.exit(f"demo: on guest 0 this failed ({done.returncode}): {script.strip()}\n{done.stdout}{done.stderr}")
    return done.stdout


def ping() -> str:
    said = on_guest_0("ping -c 5 n0001")
    times = re.search(r"= ([\d.]+)/([\d.]+)/([\d.]+)", said)
    if times is None or "5 packets received" not in said:
        sys.exit(f"demo: guest 1 did not answer every ping:\n{said}")
    return f"{times[2]} ms (least {times[1]}, most {times[3]})"


def copy() -> str:
    digests = [line.split()[0] for line in on_guest_0(COPY).splitlines()]
    if len(digests) != 3 or len(set(digests)) != 1:
        sys.exit(f"demo: a megabyte changed on its way: {digests}")
    return f"SHA-256 the same three times: {digests[0][:16]}…"


def throughput() -> str:
    said = on_guest_0("ssh n0001 'iperf3 -s -1 -D' && sleep 1 && iperf3 -c n0001 -t 3 -J")
    return f"{json.loads(said)['end']['sum_received']['bits_per_second'] / 1e6:.0f} Mbit/s"


def main() -> None:
    table = Table("guest 0 to guest 1, Ethernet carried in MPI messages", "", box=box.SIMPLE_HEAD)
    table.add_row("host names", on_guest_0("hostname; ssh n0001 hostname").replace("\n", " ").strip())
    table.add_row("ping, 5 times, mean round trip", ping())
    table.add_row("a megabyte over ssh, there and back", copy())
    table.add_row("iperf3, TCP for 3 s", throughput())
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
