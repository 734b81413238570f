"""Validate and look up names of users and domains, from the host or from the configuration."""

from __future__ import annotations

import getpass
import re
from collections.abc import Sequence

from mvpnet.errors import ConfigError, HostError
from mvpnet.spec.user_names import check_user_name

_DOMAIN = re.compile(r"(?=.{1,253}\.?$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")


def search_domains(resolv_conf: str) -> list[str]:
    """Return the host's DNS search domains: those of the last search or domain line (resolv.conf(5)), without ".".

    Invalid domain names are left out, as they cannot be put on qemu's command line.
    """
    lines = [words for line in resolv_conf.splitlines() if (words := line.split()) and words[0] in ("search", "domain")]
    return [domain for domain in lines[-1][1:] if domain != "." and _DOMAIN.fullmatch(domain)] if lines else []


def check_domains(domains: Sequence[str], key: str = "net.domains") -> None:
    """Refuse invalid domain names with a ConfigError that names `key`."""
    for domain in domains:
        if not _DOMAIN.fullmatch(domain):
            raise ConfigError(f"{key}: {domain!r} is no domain name", hint="letters, digits, dots and dashes")


def default_user() -> str:
    """Return the name of the user who runs this program.

    Raises:
        HostError: The host does not know it.
        ConfigError: No user in a guest can have it.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError) as error:
        raise HostError("image.user: this host has no name for the user who runs this; say who logs in") from error
    check_user_name(user, "image.user is not given, and your name on this host")
    return user
