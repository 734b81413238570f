"""Hosts made of network namespaces: each with its own address, host name and loopback, joined by a bridge.

MPICH starts ranks on them by a launcher that stands in ssh's place and enters the namespace. It takes root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import mpiexec_command

LAUNCHER = """#!/bin/sh
# In ssh's place: drop its options and the host's address, and run the rest on that host.
while [ "${1#-}" != "$1" ]; do shift; done
address=$1
shift
exec ip netns exec "PREFIX-${address##*.}" unshare --uts sh -c "hostname host${address##*.}; exec $*"
"""


@dataclass(frozen=True)
class Hosts:
    """Hosts 1 to n at 10.99.0.1 to 10.99.0.n; `mpiexec` starts ranks on them, from the first."""

    addresses: list[str]
    mpiexec: list[str]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def hosts(request: pytest.FixtureRequest, short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """As many hosts as the test's parameter says."""
    if os.getuid() or not shutil.which("ip"):
        pytest.skip("network namespaces take root, and iproute2")
    if "openmpi" in mpiexec_command()[0]:
        pytest.skip("this launcher is MPICH's")
    prefix, count = f"mvt{os.getpid()}", request.param
    hub = f"{prefix}-hub"
    try:
        ip("netns", "add", hub)
        ip("-n", hub, "link", "add", "br0", "type", "bridge")
        ip("-n", hub, "link", "set", "br0", "up")
        for number in range(1, count + 1):
            host = f"{prefix}-{number}"
            ip("netns", "add", host)
            ip("-n", host, "link", "set", "lo", "up")
            ip("-n", host, "link", "add", "eth0", "type", "veth", "peer", "name", f"port{number}", "netns", hub)
            ip("-n", host, "addr", "add", f"10.99.0.{number}/24", "dev", "eth0")
            ip("-n", host, "link", "set", "eth0", "up")
            ip("-n", hub, "link", "set", f"port{number}", "master", "br0", "up")
        launcher = short_dir / "launcher"
        launcher.write_text(LAUNCHER.replace("PREFIX", prefix))
        launcher.chmod(0o755)
        addresses = [f"10.99.0.{number}" for number in range(1, count + 1)]
        enter = ["ip", "netns", "exec", f"{prefix}-1", "unshare", "--uts"]
        enter += ["sh", "-c", 'hostname host1; exec "$@"', "sh"]  # ranks on the first host are started without ssh
        # UCX_TLS: else UCX finds a way around the network between namespaces of one machine
        options = ["-launcher", "ssh", "-launcher-exec", str(launcher), "-localhost", addresses[0]]
        options += ["-hosts", ",".join(addresses), "-genv", "UCX_TLS", "tcp,self"]
        yield Hosts(addresses, [*enter, *mpiexec_command(), *options])
    finally:
        for name in [hub, *(f"{prefix}-{number}" for number in range(1, count + 1))]:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)
