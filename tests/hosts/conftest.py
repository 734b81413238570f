"""Hosts made of network namespaces (tests/netns.py), and mpiexec starting ranks on them.

A launcher stands in ssh's place and enters the namespace, whichever MPI's mpiexec it is.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import netns
from netns import Host
from support import mpiexec_command, poll_until

LAUNCHER = """#!/bin/sh
# In ssh's place: drop its options and the host's address, and run the rest on that host.
while [ "${1#-}" != "$1" ]; do shift; done
number=${1##*.}
shift
exec FOLDER/enter$number sh -c "$*"
"""
SSHD = "/usr/sbin/sshd"
MOST_HOSTS = 4


@dataclass(frozen=True)
class Hosts:
    """Hosts 1 to n; `mpiexec` starts two ranks on each, host by host, from the first."""

    hosts: list[Host]
    mpiexec: list[str]


@pytest.fixture(scope="session")
def cluster() -> Iterator[list[Host]]:
    """The hosts, once for all tests."""
    if why := netns.why_not():
        pytest.skip(why)
    if "mpiexec.mpich" in mpiexec_command()[0]:
        pytest.skip("MPICH 4.0 of Debian, over UCX's tcp, now and then does not come back from MPI_Finalize")
    with netns.joined_hosts(MOST_HOSTS, f"mvt{os.getpid()}") as hosts:
        yield hosts


@pytest.fixture
def hosts(request: pytest.FixtureRequest, cluster: list[Host], short_dir: Path) -> Iterator[Hosts]:
    """As many hosts as the test's parameter says, all of them joined."""
    hosts = cluster[: request.param]
    for host in hosts:
        _program(short_dir / f"enter{host.number}", f'#!/bin/sh\nexec {shlex.join(host.entered())} "$@"\n')
    launcher = short_dir / "launcher"
    _program(launcher, LAUNCHER.replace("FOLDER", str(short_dir)))
    options = _openmpi if "openmpi" in mpiexec_command()[0] else _mpich
    # ranks on the first host are started without ssh
    yield Hosts(hosts, [*hosts[0].entered(), *mpiexec_command(), *options(str(launcher), hosts)])
    for host in hosts:
        host.join()
        poll_until(lambda host=host: not host.processes(), 60, f"all processes on {host.name} to end")


def _mpich(launcher: str, hosts: list[Host]) -> list[str]:
    host_file = _host_file(hosts, "{}:2")
    options = ["-launcher", "ssh", "-launcher-exec", launcher, "-localhost", hosts[0].address, "-f", host_file]
    # UCX_TLS: else UCX finds a way around the network between namespaces of one machine
    return [*options, "-genv", "UCX_TLS", "tcp,self"]


def _openmpi(launcher: str, hosts: list[Host]) -> list[str]:
    settings = {"plm_rsh_agent": launcher, "btl": "tcp,self", "pml": "ob1"}
    settings |= {"btl_tcp_if_include": "10.99.0.0/24", "oob_tcp_if_include": "10.99.0.0/24"}
    options = [word for name, value in settings.items() for word in ("--mca", name, value)]
    exported = (
        "PATH",
        "TMPDIR",
        "MPI4PY_LIBMPI",
        "MVPNET_TEST_ID",
        "STANDIN_DIR",
        "STANDIN_BEHAVIOUR",
        "XDG_CONFIG_HOME",
    )
    return [
        *options,
        *(word for name in exported for word in ("-x", name)),
        "--hostfile",
        _host_file(hosts, "{} slots=2"),
    ]


def _host_file(hosts: list[Host], line: str) -> str:
    path = hosts[0].folder / "hostfile"
    path.write_text("".join(f"{line.format(host.address)}\n" for host in hosts))
    return str(path)


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def sshd(hosts: Hosts, short_dir: Path) -> Iterator[None]:
    """An ssh server on each host that lets this user in, by what the client's system-wide configuration names."""
    if not Path(SSHD).exists() or not shutil.which("ssh-keygen"):
        pytest.skip("not installed: openssh-server, openssh-client")
    Path("/run/sshd").mkdir(exist_ok=True)  # where it confines what it does before a login
    keys = {name: short_dir / name for name in ("host_key", "user_key")}
    for key in keys.values():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    client_config = hosts.hosts[0].folder / "ssh_config"
    client_config.write_text(
        f"Host host*\n    IdentityFile {keys['user_key']}\n    StrictHostKeyChecking no\n"
        "    UserKnownHostsFile /dev/null\n    LogLevel ERROR\n"
    )
    config = short_dir / "sshd_config"
    config.write_text(
        f"HostKey {keys['host_key']}\nAuthorizedKeysFile {keys['user_key']}.pub\nStrictModes no\nPidFile none\n"
        "PermitRootLogin yes\nPasswordAuthentication no\nUsePAM no\n"
    )
    servers = [
        subprocess.Popen(
            [*host.entered(), SSHD, "-D", "-f", str(config), "-E", str(short_dir / f"sshd{host.number}.log")]
        )
        for host in hosts.hosts
    ]
    yield
    for server in servers:
        server.terminate()
    for server in servers:
        server.wait(60)
    client_config.unlink()
