"""What cloud-init is to do in the guest: user-data as plain data, from `cloud_init`. Pure.

The keys are those of cloud-init's documentation, "Module reference". Where an order matters: `bootcmd` and
`write_files` come first, then users and their keys, then packages, then `runcmd`; a file with `defer` is written after
the users are made.
"""

from __future__ import annotations

import base64
import gzip
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mvpnet.dataplane.address import host_name, ipv4_text
from mvpnet.errors import ConfigError
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import CloudInit

PROXY_FROM_ENVIRONMENT = "env"
_PACK_FROM_BYTES = 4096  # a world of about 200 ranks: YAML is read slowly, and nobody reads a longer hosts file by eye
_NOT_PROXIED = "localhost,127.0.0.1,::1"

# Ten patterns, as ssh_config(5) has no character classes and n* would match a site's own hosts too.
_SSH_CLIENT = f"""\
# The guests' host keys are new in every job, and the network between them is the job's own.
Host {" ".join(f"n{digit}*" for digit in range(10))} 10.*
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
"""


@dataclass(frozen=True)
class SeedFacts:
    """What goes into seeds and stands in no configuration: found on rank 0, told to all ranks, recorded nowhere."""

    public_key: str  # the job's own
    private_key: str = field(repr=False)
    user_keys: tuple[str, ...] = ()  # whom the starting user lets in, a line of authorized_keys each
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # http_proxy, https_proxy, no_proxy

    def without_secrets(self) -> SeedFacts:
        """The same for whoever may print what it is given."""
        return SeedFacts(self.public_key, "the job's private key\n", self.user_keys)


@dataclass(frozen=True)
class HostFile:
    """A file of the host that goes into the guest."""

    content: bytes = field(repr=False)
    mode: int


def cloud_config(
    spec: RankSpec, config: CloudInit, user: str, facts: SeedFacts, files: Mapping[str, HostFile]
) -> dict[str, Any]:
    """What `config`, the rank's cloud_init with its rank values filled in, asks for, but for its own user_data.

    Raises ConfigError for a proxy that cannot be written down.
    """
    proxies = proxy_environment(config, facts.environment)
    return {
        # Debian's cloud images would make /etc/hosts anew at each boot.
        **({"manage_etc_hosts": False} if config.hosts else {}),
        **_access(config, user, facts),
        **(_proxy_settings(proxies) if proxies else {}),
        **_system(config),
        **({"package_update": True, "packages": config.packages} if config.packages else {}),
        "write_files": [
            *(_known_to_each_other(spec.world_size) if config.hosts else []),
            _file("/etc/ssh/ssh_config.d/10-mvpnet.conf", _SSH_CLIENT),
            *_private_keys(config, user, facts.private_key),
            *(_host_file(path, file, config, user) for path, file in files.items()),
            *config.write_files,
        ],
        **({"runcmd": config.runcmd} if config.runcmd else {}),
    }


def proxy_environment(config: CloudInit, environment: Mapping[str, str]) -> dict[str, str]:
    """http_proxy, https_proxy and no_proxy as the guest is to have them; none where there is no proxy.

    Raises ConfigError for a text that would break the files that it goes into; it may hold a password and is not told.
    """
    if config.proxy is None:
        return {}
    given = dict.fromkeys(("http_proxy", "https_proxy"), config.proxy)
    given["no_proxy"] = config.no_proxy or _NOT_PROXIED
    if config.proxy == PROXY_FROM_ENVIRONMENT:
        given = {name: value for name, value in environment.items() if value}
    for name, value in given.items():
        if not all("!" <= c <= "~" and c not in "\"'\\#`$" for c in value):
            raise ConfigError(f"cloud_init.proxy: {name} has blanks, quotes or signs that no proxy's URL has")
        if name != "no_proxy" and urlsplit(value).scheme not in ("http", "https"):
            raise ConfigError(f"cloud_init.proxy: {name} is no http:// or https:// URL")
    return given


def home(config: CloudInit, user: str) -> str:
    """The user's home folder in the guest, which cloud_init.user_data may name."""
    if user == "root":
        return "/root"
    asked = config.user_data.get("user")
    folder = asked.get("homedir") if isinstance(asked, Mapping) else None
    return str(folder or f"/home/{user}")


def hosts_text(world_size: int) -> str:
    """/etc/hosts: a guest's own name stands for its address among the guests, not for 127.0.1.1, as MPI needs."""
    local = "127.0.0.1 localhost localhost.localdomain\n::1 localhost ip6-localhost ip6-loopback\n"
    return local + "".join(f"{ipv4_text(rank)} {host_name(rank)}\n" for rank in range(world_size))


def _access(config: CloudInit, user: str, facts: SeedFacts) -> dict[str, Any]:
    """`user` takes the place of the image's own default user, whose groups and shell it gets; the distribution knows.

    ssh_authorized_keys at the top are that user's and root's.
    """
    own = _unique([*(facts.user_keys if config.user_keys else ()), *config.ssh_authorized_keys])
    job = [facts.public_key.strip()]
    if user == "root":
        return {"disable_root": False, "ssh_authorized_keys": job + own}
    # A text: cloud-init before 22 knows no other form for all of its distributions. Or null, which has to be written:
    # without the key the user would get the rule of the image's default user.
    account: dict[str, Any] = {"name": user, "sudo": config.sudo}
    if own:
        account["ssh_authorized_keys"] = own
    return {"user": account, "disable_root": False, "ssh_authorized_keys": job}


def _system(config: CloudInit) -> dict[str, Any]:
    keep_size = {"growpart": {"mode": "off"}, "resize_rootfs": False}
    return {
        **({"growpart": {"mode": "auto"}, "resize_rootfs": True} if config.growpart else keep_size),
        **({"timezone": config.timezone} if config.timezone else {}),
        # cloud-init's own default is en_US.UTF-8, which minimal images lack and fail to make.
        **({"locale": config.locale} if config.locale else {}),
    }


def _proxy_settings(proxies: Mapping[str, str]) -> dict[str, Any]:
    """For apt by its own keys; for dnf and for logins by a command, as cloud-init has no keys for those.

    A command at each boot, that first takes out what an earlier one put in: a file written anew would lose what the
    image has in it, and one appended to would grow.
    """
    names = {name: value for name, value in proxies.items() if name != "no_proxy"}
    environment = {key: value for name, value in proxies.items() for key in (name, name.upper())}
    lines = [f"{name}={value}" for name, value in environment.items()]
    script = _put_lines("/etc/environment", "|".join(environment), lines)
    if web := names.get("https_proxy") or names.get("http_proxy"):
        script += "if [ -f /etc/dnf/dnf.conf ]; then\n"
        script += _put_lines("/etc/dnf/dnf.conf", "proxy", [f"proxy={web}"]) + "fi\n"
    return {"apt": names, "bootcmd": [script]}


def _put_lines(path: str, names: str, lines: list[str]) -> str:
    """Shell commands that make these the file's only lines NAME=…"""
    return (
        f"{{ grep -vE '^({names})=' {path}; printf '%s\\n' {shlex.join(lines)}; }} >{path}.mvpnet\n"
        f"cat {path}.mvpnet >{path}; rm {path}.mvpnet\n"
    )


def _known_to_each_other(world_size: int) -> Iterator[dict[str, Any]]:
    yield _file("/etc/hosts", hosts_text(world_size))
    yield _file("/etc/hosts.mpi", "".join(f"{host_name(rank)}\n" for rank in range(world_size)))


def _private_keys(config: CloudInit, user: str, private_key: str) -> Iterator[dict[str, Any]]:
    """The job's key under the name that every ssh client tries, for both who are let in by it on the other guests."""
    yield _file("/root/.ssh/id_ed25519", private_key, 0o600)
    if user != "root":
        yield _file(f"{home(config, user)}/.ssh/id_ed25519", private_key, 0o600) | _owned_by(user)


def _owned_by(owner: str) -> dict[str, Any]:
    """No group, as not every distribution makes one of the user's own; deferred until the user is there."""
    return {"owner": owner, "defer": True}


def _file(path: str, text: str, mode: int = 0o644) -> dict[str, Any]:
    if len(text) < _PACK_FROM_BYTES:
        return {"path": path, "permissions": f"{mode:04o}", "content": text}
    packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()  # no time: equal seeds are equal
    return {"path": path, "permissions": f"{mode:04o}", "encoding": "gz+b64", "content": packed}


def _host_file(path: str, file: HostFile, config: CloudInit, user: str) -> dict[str, Any]:
    packed = base64.b64encode(gzip.compress(file.content, mtime=0)).decode()
    entry = {"path": path, "permissions": f"{file.mode:04o}", "encoding": "gz+b64", "content": packed}
    # Written before the user is made, it would make the home folder, and root's.
    return entry | _owned_by(user) if path.startswith(f"{home(config, user)}/") else entry


def _unique(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))
