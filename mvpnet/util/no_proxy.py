"""Read no_proxy: hosts that are reached without a proxy.

There is no standard. Read is what curl(1), wget(1), Go and Python's libraries read, together: names and addresses with
commas or blanks between, a name also for all below it, with a leading dot or `*.` or without, each with a port or
without, networks as in 10.0.0.0/8, and `*` for all.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_WITH_PORT = re.compile(r"(\[[^\]]+\]|[^:]+):(\d+)")


def entries(no_proxy: str) -> list[str]:
    """Return the entries of no_proxy, without blanks."""
    return re.findall(r"[^\s,]+", no_proxy)


def is_direct(url: str, no_proxy: str) -> bool:
    """Return whether a URL is reached without a proxy."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return False
    return host is not None and any(_covers(entry, host.lower(), port) for entry in entries(no_proxy.lower()))


def _covers(entry: str, host: str, port: int | None) -> bool:
    if entry == "*":
        return True
    if match := _WITH_PORT.fullmatch(entry):
        if int(match[2]) != port:
            return False
        entry = match[1]
    entry = entry.strip("[]")
    if (address := _address(host)) is not None:
        return _holds(entry, address)
    name = entry.removeprefix("*").strip(".")
    return bool(name) and (host.rstrip(".") == name or host.rstrip(".").endswith(f".{name}"))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _holds(entry: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
