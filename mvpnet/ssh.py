"""Access to the guests by ssh: the job's key pair, the endpoint of each guest, and `ssh_config`."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mvpnet.dataplane.address import host_name
from mvpnet.errors import HostError
from mvpnet.util.files import write_private


@dataclass(frozen=True)
class KeyPair:
    """The job's own ssh key pair, as ssh-keygen wrote it."""

    public: str
    private: str = field(repr=False)


def write_keys(folder: Path, keys: KeyPair) -> tuple[Path, Path]:
    """Write the key pair into files of mode 0600 and return their paths: public (as authorized_keys), then private."""
    public, private = folder / "authorized_keys", folder / "id_ed25519"
    for path, text in ((public, keys.public), (private, keys.private)):
        write_private(path, text)
    return public, private


@dataclass(frozen=True)
class SshEndpoint:
    """Endpoint of one guest: 127.0.0.1:`port` on `host`, with a login as `user`."""

    rank: int
    host: str
    port: int
    user: str


def make_key_pair(path: Path, comment: str) -> None:
    """Make an ed25519 key pair at `path` (0600) and `path`.pub.

    Raises:
        HostError: ssh-keygen is missing or fails.
    """
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="surrogateescape", check=False
        )
    except FileNotFoundError:
        raise HostError("ssh-keygen is not installed", hint="install openssh-client") from None
    if done.returncode:
        raise HostError(f"ssh-keygen could not make {path}: {(done.stderr or done.stdout).strip()}")


def ssh_config(endpoints: Sequence[SshEndpoint], key: Path, here: str) -> str:
    """Return an OpenSSH client configuration (ssh_config(5)) with every guest by name, for use on the host `here`.

    For the hosts on the way, it includes the user's and the system's files, which `ssh -F` would not read: on a
    cluster, logins between hosts may depend on settings there.
    """
    jumps = sorted({endpoint.host for endpoint in endpoints} - {here})
    usual = "    Include ~/.ssh/config\n    Include /etc/ssh/ssh_config\n"
    return "\n".join(
        [*(_host_block(endpoint, key, here) for endpoint in endpoints), *(f"Host {jump}\n{usual}" for jump in jumps)]
    )


def _host_block(endpoint: SshEndpoint, key: Path, here: str) -> str:
    jump = "" if endpoint.host == here else f"    ProxyJump {endpoint.host}\n"
    return (
        f"Host {host_name(endpoint.rank)}\n"
        f"    HostName 127.0.0.1\n"
        f"    Port {endpoint.port}\n"
        f"    User {endpoint.user}\n"
        f'    IdentityFile "{key}"\n'
        f"{jump}"
        # host keys of guests change with every boot, and the guests are reached through loopback only
        f"    StrictHostKeyChecking no\n"
        f"    UserKnownHostsFile /dev/null\n"
        f"    LogLevel ERROR\n"
    )
