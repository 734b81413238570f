"""Find the networks that a host is in, and those of them that its guests do not reach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from mvpnet.spec.user_network import GUESTS, UserNetwork

_ROUTES = Path("/proc/net/route")  # proc(5): destination and mask in hexadecimal, least significant byte first
_DESTINATION, _MASK = 1, 7


def host_networks(routes: Path = _ROUTES) -> list[IPv4Network]:
    """Return the networks to which the host has a route, without the default; empty where they cannot be read."""
    try:
        lines = routes.read_text().splitlines()[1:]
    except OSError:
        return []
    found = (_network(line.split()) for line in lines)
    return list(dict.fromkeys(network for network in found if network is not None and network.prefixlen))


def _network(fields: list[str]) -> IPv4Network | None:
    if len(fields) <= _MASK:
        return None
    address, mask = (IPv4Address(int(fields[at], 16).to_bytes(4, "little")) for at in (_DESTINATION, _MASK))
    return IPv4Network(f"{address}/{mask}", strict=False)


def hidden_networks(networks: Iterable[IPv4Network], user: UserNetwork) -> Iterator[str]:
    """Yield the networks of the host that a guest takes for one of its own."""
    for network in networks:
        if network.overlaps(user.network) or network.overlaps(GUESTS):
            yield str(network)
