"""Parse `net.user_network`, the network of qemu's user networking (slirp), through which guests are reached by ssh."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from mvpnet.errors import ConfigError

KEY: Final = "net.user_network"
DEFAULT: Final = "192.168.1.0/24"
GUESTS: Final = ipaddress.ip_network("10.0.0.0/8")  # of the mvpnet NICs: NETWORK in dataplane.address
_LONGEST_PREFIX: Final = 29  # has addresses for host, name server and guest
_WRITTEN: Final = f"write a network and its prefix, as in {KEY}=172.30.0.0/24"


@dataclass(frozen=True)
class UserNetwork:
    """A network with the addresses that slirp gives itself and the guest in it."""

    network: IPv4Network

    @property
    def host(self) -> IPv4Address:
        """The guest's gateway, under which it reaches the host's 127.0.0.1."""
        return self.network[2]

    @property
    def name_server(self) -> IPv4Address:
        return self.network[3]

    @property
    def guest(self) -> IPv4Address:
        """The address that the guest gets by DHCP."""
        return self.network[15 if self.network.num_addresses > 16 else 4]

    @property
    def netdev_properties(self) -> str:
        """The properties of -netdev user; those of the default network are qemu's own."""
        net = f"net={self.network}"
        if str(self.network) == DEFAULT:
            return net
        return f"{net},host={self.host},dns={self.name_server},dhcpstart={self.guest}"


def parse_user_network(text: str, key: str = KEY) -> UserNetwork:
    """Return the network that a text names.

    Raises:
        ConfigError: It is none, or one that guests cannot use. Names `key`.
    """
    network = _parsed(text, key)
    if network.prefixlen > _LONGEST_PREFIX:
        raise ConfigError(
            f"{key}: {text!r} is too small: it has {network.num_addresses} addresses, and a guest needs 8",
            hint=_WRITTEN,
        )
    if network.overlaps(GUESTS):
        raise ConfigError(f"{key}: {text!r} overlaps {GUESTS}, the network between the guests", hint=_WRITTEN)
    if not _is_for_hosts(network):
        raise ConfigError(f"{key}: no host can have an address of {text!r}", hint=_WRITTEN)
    return UserNetwork(network)


def _parsed(text: str, key: str) -> IPv4Network:
    try:
        network = ipaddress.ip_network(text, strict=False)
        address = ipaddress.ip_interface(text).ip
    except ValueError:
        raise ConfigError(f"{key}: {text!r} is no IPv4 network", hint=_WRITTEN) from None
    if not isinstance(network, IPv4Network):
        raise ConfigError(f"{key}: {text!r} is of IPv6, and the guests' ssh goes over IPv4", hint=_WRITTEN)
    if address != network.network_address:
        raise ConfigError(
            f"{key}: {text!r} is the address of a host; its network is {network}", hint=f"{key}={network}"
        )
    return network


def _is_for_hosts(network: IPv4Network) -> bool:
    """Return whether it overlaps none of the networks that no host has an address of (RFC 6890, RFC 5771)."""
    without = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")
    return not any(network.overlaps(ipaddress.ip_network(one)) for one in without)
