"""Names of users in guests: which are names at all, and which accounts a guest has of its own."""

from __future__ import annotations

import re

from mvpnet.errors import ConfigError

# useradd(8) with the capitals and dots of site directories; useradd of several distributions refuses numbers
_NAME = re.compile(r"(?!\d+\Z)[A-Za-z0-9_][A-Za-z0-9._-]{0,31}")

# Accounts for services in Debian, Ubuntu, Fedora, RHEL or FreeBSD, most of them without a shell.
_ACCOUNTS = frozenset(
    (
        *("daemon", "bin", "sys", "sync", "games", "man", "lp", "mail", "news", "uucp", "proxy", "www-data"),
        *("backup", "list", "irc", "gnats", "nobody", "adm", "shutdown", "halt", "operator", "ftp", "dbus"),
        *("messagebus", "sshd", "tss", "uuidd", "polkitd", "chrony", "ntp", "ntpd", "rpc", "rpcuser"),
        *("nfsnobody", "postfix", "avahi", "syslog", "tcpdump", "landscape", "pollinate", "sssd", "unbound"),
        *("systemd-network", "systemd-resolve", "systemd-timesync", "systemd-coredump", "systemd-oom", "_apt"),
        *("_chrony", "toor", "tty", "kmem", "bind", "smmsp", "mailnull", "pop", "www"),
    )
)
# Groups in one of them that have no account. useradd makes no second group of a user's name, and so no such user.
_GROUPS = frozenset(
    (
        *("disk", "dialout", "fax", "voice", "cdrom", "floppy", "tape", "sudo", "audio", "dip", "src", "shadow"),
        *("utmp", "video", "sasl", "plugdev", "staff", "users", "nogroup", "wheel", "lock", "utempter", "input"),
        *("render", "kvm", "sgx", "mem", "ssh_keys", "systemd-journal", "admin", "lxd", "netdev", "crontab"),
        *("docker", "_ssh", "ssh", "libvirt", "guest", "network", "dialer"),
    )
)


def check_user_name(name: str, key: str) -> None:
    """Refuse what is no user's name.

    Raises:
        ConfigError: Names `key`.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{key}: {name!r} is no user's name",
            hint="letters, digits, dot, dash and underscore, at most 32, and not digits alone; "
            "image.user says who logs in, if it is not to be your name on this host",
        )


def check_new_user(name: str, key: str) -> None:
    """Refuse a name that cloud-init can make no user of, as the guest has such an account.

    cloud-init leaves an account that is there as it is, without a login shell.

    Raises:
        ConfigError: Names `key`.
    """
    check_user_name(name, key)
    if name in _ACCOUNTS:
        raise ConfigError(
            f"{key}: {name!r} is an account of the system's own in guests; cloud-init cannot make it a user to log in",
            hint="image.user=NAME with another name, or image.user=root",
        )


def is_group_name(name: str) -> bool:
    """Return whether guests may have a group of this name, which a new user then has to be put into."""
    return name in _GROUPS
