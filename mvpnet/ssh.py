"""Access to the guests by ssh: the job's key pair, the endpoint of each guest, and `ssh_config`."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mvpnet.dataplane.address import host_name
from mvpnet.errors import HostError
from mvpnet.util.files import write_private

_NOT_IN_CONFIG = re.compile(r'["\\\x00-\x1f\x7f]|\$\{')
_JINJA = re.compile(r"\{[{%#]")


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
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise HostError("ssh-keygen is not installed", hint="install openssh-client") from None
    if done.returncode:
        raise HostError(f"ssh-keygen could not make {path}: {(done.stderr or done.stdout).strip()}")


def identity_line(key: Path) -> str | None:
    """Return the line of ssh_config(5) that names a private key; None where no line can name it.

    A percent sign would be a token, and is doubled. For quotes, backslashes and ${ there is no way that all versions of
    OpenSSH read alike.
    """
    return None if _NOT_IN_CONFIG.search(str(key)) else f'IdentityFile "{str(key).replace("%", "%%")}"'


def nameable(folder: Path) -> bool:
    """Return whether ssh_config(5) and an Ansible inventory, where double braces are Jinja's, can name files in it."""
    text = str(folder)
    return identity_line(folder) is not None and not _JINJA.search(text) and text.isprintable()


def ssh_config(endpoints: Sequence[SshEndpoint], key: Path, here: str, opened: Container[int] = ()) -> str:
    """Return an OpenSSH client configuration (ssh_config(5)) with every guest by name, for use on the host `here`.

    For the hosts on the way, it includes the user's and the system's files, which `ssh -F` would not read: on a
    cluster, logins between hosts may depend on settings there.

    Args:
        endpoints: The guests.
        key: The job's private key, by a path that `identity_line` can name.
        here: The host on which it is used.
        opened: The ranks whose guests let the job's key in. Of these no key of an agent is asked, as an OpenSSH server
            hangs up after the sixth key. The others, as hand-made images, may know only a key of the agent.
    """
    jumps = sorted({endpoint.host for endpoint in endpoints} - {here})
    usual = "    Include ~/.ssh/config\n    Include /etc/ssh/ssh_config\n"
    guests = (_guest(endpoint, key, here, endpoint.rank in opened) for endpoint in endpoints)
    return "\n".join([*guests, *(f"Host {jump}\n{usual}" for jump in jumps)])


def _guest(endpoint: SshEndpoint, key: Path, here: str, opened: bool) -> str:
    name = host_name(endpoint.rank)
    # not ProxyJump: it hands the name of the configuration to a shell without quotes
    jump = "" if endpoint.host == here else f"    ProxyCommand ssh -W %h:%p {endpoint.host}\n"
    block = (
        f"Host {name}\n"
        f"    HostName 127.0.0.1\n"
        f"    Port {endpoint.port}\n"
        f"    User {endpoint.user}\n"
        f"    {identity_line(key)}\n"
        f"{jump}"
        # host keys of guests change with every boot, and the guests are reached through loopback only
        f"    StrictHostKeyChecking no\n"
        f"    UserKnownHostsFile /dev/null\n"
        f"    LogLevel ERROR\n"
    )
    users = ",".join(dict.fromkeys((endpoint.user, "root")))  # whom the job's key lets in
    return block + (f"Match originalhost {name} user {users}\n    IdentitiesOnly yes\n" if opened else "")
