"""Hosts made of network namespaces: each with its own address, host name and loopback, joined by a bridge.

They know each other by name, and share the file system, as the hosts of a cluster share a home. It takes root, iproute2
and util-linux.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Files of the test's in place of the machine's, where there are any; then the host's name, and the command.
_ENTER = """\
for name in hosts ssh/ssh_config; do
    [ ! -e FOLDER/${name##*/} ] || mount --bind FOLDER/${name##*/} /etc/$name || exit
done
hostname NAME
exec "$@"
"""


@dataclass(frozen=True)
class Host:
    """Host n of a test: host<n> at 10.99.0.<n>."""

    number: int
    folder: Path  # with files that stand in for the machine's: hosts, and a test may add ssh_config
    _prefix: str

    @property
    def name(self) -> str:
        return f"host{self.number}"

    @property
    def address(self) -> str:
        return f"10.99.0.{self.number}"

    @property
    def namespace(self) -> str:
        return f"{self._prefix}-{self.number}"

    def entered(self) -> list[str]:
        """What a command line is put behind to run on this host."""
        script = _ENTER.replace("FOLDER", str(self.folder)).replace("NAME", self.name)
        return [
            "nsenter",
            f"--net=/run/netns/{self.namespace}",
            "unshare",
            "--uts",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
        ]

    def processes(self) -> list[int]:
        """The numbers of the processes that run on it."""
        told = subprocess.run(["ip", "netns", "pids", self.namespace], stdout=subprocess.PIPE, text=True, check=True)
        return [int(line) for line in told.stdout.split()]

    def cut(self) -> None:
        """Take its link to the others down."""
        ip("-n", self.namespace, "link", "set", "eth0", "down")

    def join(self) -> None:
        """Take its link to the others up, again or for the first time."""
        ip("-n", self.namespace, "link", "set", "eth0", "up")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def why_not() -> str | None:
    """Why there can be no such hosts here; None if there can."""
    if os.getuid() or not shutil.which("ip"):
        return "network namespaces take root, and iproute2"
    return None


@contextmanager
def joined_hosts(count: int, prefix: str) -> Iterator[list[Host]]:
    """Hosts 1 to `count`; their namespaces are called after the prefix, and end with the block."""
    hub = f"{prefix}-hub"
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    hosts = [Host(number, folder, prefix) for number in range(1, count + 1)]
    names = "".join(f"{host.address} {host.name}\n" for host in hosts)
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    try:
        ip("netns", "add", hub)
        ip("-n", hub, "link", "add", "br0", "type", "bridge")
        ip("-n", hub, "link", "set", "br0", "up")
        for host in hosts:
            port = f"port{host.number}"
            ip("netns", "add", host.namespace)
            ip("-n", host.namespace, "link", "set", "lo", "up")
            ip("-n", host.namespace, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", hub)
            ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
            host.join()
            ip("-n", hub, "link", "set", port, "master", "br0", "up")
        yield hosts
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for name in [hub, *(host.namespace for host in hosts)]:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)
