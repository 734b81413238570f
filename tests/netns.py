"""Hosts made of network namespaces: each with its own address, host name and loopback, joined by a bridge.

They share the file system, as the hosts of a cluster share a home. It takes root, iproute2 and util-linux.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """Host n of a test: host<n> at 10.99.0.<n>."""

    number: int
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
        enter = ["nsenter", f"--net=/run/netns/{self.namespace}", "unshare", "--uts"]
        return [*enter, "sh", "-c", f'hostname {self.name}; exec "$@"', "sh"]

    def cut(self) -> None:
        """Take its link to the others down."""
        ip("-n", self.namespace, "link", "set", "eth0", "down")


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
    hosts = [Host(number, prefix) for number in range(1, count + 1)]
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
            ip("-n", host.namespace, "link", "set", "eth0", "up")
            ip("-n", hub, "link", "set", port, "master", "br0", "up")
        yield hosts
    finally:
        for name in [hub, *(host.namespace for host in hosts)]:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)
