"""User-data for cloud-init as plain data, made from `cloud_init`. Pure.

The keys are those of cloud-init's documentation, "Module reference". cloud-init's order is: `bootcmd` and
`write_files`, then users and their keys, then packages, then `runcmd`; a file with `defer` is written after the users
are made.
"""

from __future__ import annotations

import base64
import gzip
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from mvpnet.cloudinit.written_files import Login
from mvpnet.dataplane.address import host_name, ipv4_text
from mvpnet.errors import ConfigError
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import CloudInit
from mvpnet.spec.urls import is_url
from mvpnet.spec.user_names import check_new_user, is_group_name
from mvpnet.util.no_proxy import entries

PROXY_FROM_ENVIRONMENT = "env"
_PACK_FROM_BYTES = 4096  # hosts file of about 200 ranks; YAML is parsed slowly, and people do not read longer files
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
    """Content of seeds that is not configured: determined on rank 0, sent to all ranks, never recorded."""

    public_key: str  # the job's
    private_key: str = field(repr=False)
    user_keys: tuple[str, ...] = ()  # keys that the user accepts, as lines of authorized_keys
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # http_proxy, https_proxy, no_proxy

    def without_secrets(self) -> SeedFacts:
        """Return a copy without secrets, for programs that may print their input."""
        return SeedFacts(self.public_key, "the job's private key\n", self.user_keys)


@dataclass(frozen=True)
class HostFile:
    """A file of the host that is copied into the guest."""

    content: bytes = field(repr=False)
    mode: int


def cloud_config(
    spec: RankSpec, config: CloudInit, user: str, facts: SeedFacts, files: Mapping[str, HostFile]
) -> dict[str, Any]:
    """Return the user-data that `config` asks for, without cloud_init.user_data.

    `config` is the rank's cloud_init with the rank's values filled in.

    Raises:
        ConfigError: A proxy cannot be written into the guest's files, a file has no path there, or the user cannot be
            made.
    """
    proxies = proxy_environment(config, facts.environment)
    login = Login(user, home(config, user))
    return {
        # Debian's cloud images would replace /etc/hosts at each boot.
        **({"manage_etc_hosts": False} if config.hosts else {}),
        **_access(config, user, facts),
        **(_proxy_settings(proxies) if proxies else {}),
        **_system(config),
        **({"package_update": True, "packages": config.packages} if config.packages else {}),
        "write_files": [
            *(_known_to_each_other(spec.world_size) if config.hosts else []),
            _file("/etc/ssh/ssh_config.d/10-mvpnet.conf", _SSH_CLIENT),
            *_private_keys(config, user, facts.private_key),
            *(_host_file(path, file, login) for path, file in files.items()),
            *(login.entry(entry, f"cloud_init.write_files[{i}]") for i, entry in enumerate(config.write_files)),
        ],
        **({"runcmd": config.runcmd} if config.runcmd else {}),
    }


def proxy_environment(config: CloudInit, environment: Mapping[str, str]) -> dict[str, str]:
    """Return http_proxy, https_proxy and no_proxy for the guest; empty without a proxy.

    Raises:
        ConfigError: A value would break the files that it is written to. The message omits it: it may hold a password.
    """
    if config.proxy is None:
        return {}
    given = dict.fromkeys(("http_proxy", "https_proxy"), config.proxy)
    given["no_proxy"] = config.no_proxy or _NOT_PROXIED
    if config.proxy == PROXY_FROM_ENVIRONMENT:
        given = {name: value for name, value in environment.items() if value}
    if "no_proxy" in given:
        given["no_proxy"] = ",".join(entries(given["no_proxy"]))
    for name, value in given.items():
        if not all("!" <= c <= "~" and c not in "\"'\\#`$" for c in value):
            raise ConfigError(f"cloud_init.proxy: {name} has blanks, quotes or signs that no proxy's URL has")
        if name != "no_proxy" and not (is_url(value) and urlsplit(value).scheme in ("http", "https")):
            raise ConfigError(f"cloud_init.proxy: {name} is no http:// or https:// URL")
    return given


def home(config: CloudInit, user: str) -> str:
    """Return the user's home folder in the guest, which cloud_init.user_data may name."""
    if user == "root":
        return "/root"
    asked = config.user_data.get("user")
    folder = asked.get("homedir") if isinstance(asked, Mapping) else None
    return str(folder or f"/home/{user}")


def hosts_text(world_size: int) -> str:
    """Return /etc/hosts; as MPI needs, a guest's own name maps to its mvpnet address and not to 127.0.1.1."""
    local = "127.0.0.1 localhost localhost.localdomain\n::1 localhost ip6-localhost ip6-loopback\n"
    return local + "".join(f"{ipv4_text(rank)} {host_name(rank)}\n" for rank in range(world_size))


def _access(config: CloudInit, user: str, facts: SeedFacts) -> dict[str, Any]:
    """Return the settings of users and keys: `user` replaces the image's default user and gets its groups and shell.

    ssh_authorized_keys at the top level apply to that user and to root. Raises ConfigError for a name that no new user
    can have.
    """
    check_new_user(user, "image.user")
    given = [key.strip() for key in config.ssh_authorized_keys]
    own = _unique([*(facts.user_keys if config.user_keys else ()), *given])
    job = [facts.public_key.strip()]
    if user == "root":
        return {"disable_root": False, "ssh_authorized_keys": job + own}
    # A text: cloud-init before 22 knows no other form for all of its distributions. Or null, which has to be written:
    # without the key the user would get the rule of the image's default user.
    account: dict[str, Any] = {"name": user, "sudo": config.sudo}
    if is_group_name(user):
        account["primary_group"] = user  # else useradd would want to make the group, and fail
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
    """Return the proxy settings: apt's own keys, and commands for dnf and logins, for which cloud-init has no keys.

    The commands run at each boot. They first remove their earlier lines: replacing the file would lose the image's
    content, and appending would let it grow.
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
    """Return shell commands that make `lines` the file's only lines NAME=…"""
    return (
        f"{{ grep -vE '^({names})=' {path}; printf '%s\\n' {shlex.join(lines)}; }} >{path}.mvpnet\n"
        f"cat {path}.mvpnet >{path}; rm {path}.mvpnet\n"
    )


def _known_to_each_other(world_size: int) -> Iterator[dict[str, Any]]:
    yield _file("/etc/hosts", hosts_text(world_size))
    yield _file("/etc/hosts.mpi", "".join(f"{host_name(rank)}\n" for rank in range(world_size)))


def _private_keys(config: CloudInit, user: str, private_key: str) -> Iterator[dict[str, Any]]:
    """Yield the job's private key for root and the user, under a name that every ssh client tries."""
    yield _file("/root/.ssh/id_ed25519", private_key, 0o600)
    if user != "root":
        yield _file(f"{home(config, user)}/.ssh/id_ed25519", private_key, 0o600) | _owned_by(user)


def _owned_by(owner: str) -> dict[str, Any]:
    """Return owner settings, deferred until the user exists; no group, as not every distribution has one per user."""
    return {"owner": owner, "defer": True}


def _file(path: str, text: str, mode: int = 0o644) -> dict[str, Any]:
    if len(text) < _PACK_FROM_BYTES:
        return {"path": path, "permissions": f"{mode:04o}", "content": text}
    packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()  # no time: equal bytes
    return {"path": path, "permissions": f"{mode:04o}", "encoding": "gz+b64", "content": packed}


def _host_file(written: str, file: HostFile, login: Login) -> dict[str, Any]:
    path = login.path(written, f"cloud_init.files.{written}")
    packed = base64.b64encode(gzip.compress(file.content, mtime=0)).decode()
    entry = {"path": path, "permissions": f"{file.mode:04o}", "encoding": "gz+b64", "content": packed}
    # Written before the user is made, it would create the home folder, owned by root.
    return entry | _owned_by(login.user) if path.startswith(f"{login.home}/") else entry


def _unique(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))
