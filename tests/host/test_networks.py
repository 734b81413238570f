"""The networks of a host, from routes as the kernel prints them, and those that guests take for their own."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from mvpnet.host.networks import hidden_networks, host_networks
from mvpnet.spec.user_network import parse_user_network

# default via 192.168.1.1; 192.168.1.0/24; 10.8.0.0/16 by a VPN; 172.17.0.0/16; a host route
ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0101A8C0	0003	0	0	0	00000000	0	0	0
eth0	0001A8C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
tun0	0000080A	0100080A	0003	0	0	0	0000FFFF	0	0	0
docker0	000011AC	00000000	0001	0	0	0	0000FFFF	0	0	0
eth0	05027FCB	00000000	0005	0	0	0	FFFFFFFF	0	0	0
"""


def test_networks_of_a_host(tmp_path: Path) -> None:
    (tmp_path / "route").write_text(ROUTES)
    found = [str(network) for network in host_networks(tmp_path / "route")]
    assert found == ["192.168.1.0/24", "10.8.0.0/16", "172.17.0.0/16", "203.127.2.5/32"]
    assert host_networks(tmp_path / "nothing") == []
    assert all(network.prefixlen for network in host_networks())


@pytest.mark.parametrize(
    ("user_network", "hidden"),
    [
        ("192.168.1.0/24", ["192.168.1.0/24", "10.8.0.0/16"]),
        ("172.30.0.0/24", ["10.8.0.0/16"]),
        ("172.16.0.0/12", ["10.8.0.0/16", "172.17.0.0/16"]),
    ],
)
def test_networks_that_guests_do_not_reach(user_network: str, hidden: list[str]) -> None:
    networks = [ip_network(text) for text in ("192.168.1.0/24", "10.8.0.0/16", "172.17.0.0/16", "203.127.2.5/32")]
    assert list(hidden_networks(networks, parse_user_network(user_network))) == hidden
