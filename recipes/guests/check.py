"""The app of the recipes that show a cloud image: looks at every guest from inside, and prints what it found.

Runs on rank 0's host while the guests run, once cloud-init is done in all of them. Ends with 1 when anything is not as
it should be. Guest n logs in to guest n + 1, and the last one to the first. Its own arguments are commands that have to
end well in every guest too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from mvpnet.dataplane.address import host_name, ipv4_text

SSH_CONFIG = Path(os.environ["MVPNET_RUNDIR"]) / "ssh_config"
RANKS = int(os.environ["MVPNET_WSIZE"])
TIMEOUT_S = 600  # for all that is asked of a guest
MARK = "--- mvpnet check"
LOOK = """
. /etc/os-release; echo "$PRETTY_NAME"
uname -r
df -P / | awk 'NR == 2 { printf "%.1f GB\\n", $2 / 1e6 }'
"""


def on_guest(rank: int, scripts: list[str]) -> list[tuple[bool, str]]:
    """Whether each shell script ended well on a guest, and what it printed. One login for all: logins take the time."""
    lines = [f'({script}\n) 2>&1; echo "{MARK} $?"' for script in scripts]
    command = ["ssh", "-F", str(SSH_CONFIG), host_name(rank), "\n".join(lines)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return [(False, f"no answer in {TIMEOUT_S} s")] * len(scripts)
    told = re.findall(rf"(.*?){MARK} (\d+)\n", done.stdout, re.DOTALL)
    found = [(code == "0", said.strip()) for said, code in told]
    return found + [(False, done.stderr.strip() or "no answer")] * (len(scripts) - len(found))


def checks(rank: int) -> dict[str, str]:
    """What has to end well on a guest, by what it shows."""
    other = host_name((rank + 1) % RANKS)
    names = " ".join(host_name(each) for each in range(RANKS))
    return {
        "cloud-init is done": "cloud-init status | grep -q 'status: done'",
        "its name": f'test "$(hostname -s)" = {host_name(rank)}',
        "its address": f"ip -o -4 addr | grep -q ' {ipv4_text(rank)}/8 '",
        "all names are known": f"for name in {names}; do getent hosts $name || exit 1; done",
        "sudo without a password": 'test "$(sudo -n id -u)" = 0',
        f"ssh to {other}": f'test "$(ssh {other} hostname -s)" = {other}',
        f"ssh to {other} as root": f'test "$(sudo -n ssh {other} id -u)" = 0',
        **{command: command for command in sys.argv[1:]},
    }


def main() -> None:
    table = Table("guest", "system", "kernel", "root file system", "checks", box=box.SIMPLE_HEAD)
    wrong: list[str] = []
    for rank in range(RANKS):
        to_check = checks(rank)
        (_, seen), *found = on_guest(rank, [LOOK, *to_check.values()])
        failed = [(what, said) for what, (well, said) in zip(to_check, found, strict=True) if not well]
        columns = [*seen.splitlines(), "", "", ""][:3]
        table.add_row(host_name(rank), *columns, f"{len(to_check) - len(failed)} of {len(to_check)}")
        wrong += [f"{host_name(rank)}: {what}: {said or 'no'}" for what, said in failed]
    Console(width=110).print(table)
    if wrong:
        sys.exit("not as it should be:\n  " + "\n  ".join(wrong))


if __name__ == "__main__":
    main()
