"""What can be the user network of guests, and what is refused."""

from __future__ import annotations

import pytest

from mvpnet.dataplane import address
from mvpnet.errors import ConfigError
from mvpnet.spec.schema import Net
from mvpnet.spec.user_network import DEFAULT, GUESTS, parse_user_network


def test_the_default_is_the_keys_and_the_guests_network_is_the_data_paths() -> None:
    assert Net().user_network == DEFAULT
    assert str(GUESTS) == address.NETWORK


@pytest.mark.parametrize(
    ("text", "host", "name_server", "guest"),
    [
        ("192.168.1.0/24", "192.168.1.2", "192.168.1.3", "192.168.1.15"),
        ("172.16.0.0/12", "172.16.0.2", "172.16.0.3", "172.16.0.15"),
        ("192.168.7.32/27", "192.168.7.34", "192.168.7.35", "192.168.7.47"),
        ("192.168.7.8/29", "192.168.7.10", "192.168.7.11", "192.168.7.12"),
    ],
)
def test_addresses(text: str, host: str, name_server: str, guest: str) -> None:
    found = parse_user_network(text)
    assert (str(found.host), str(found.name_server), str(found.guest)) == (host, name_server, guest)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no IPv4 network"),
        ("auto", "is no IPv4 network"),
        ("192.168.1.0/33", "is no IPv4 network"),
        ("192.168.1.0/24,restrict=on", "is no IPv4 network"),
        ("192.168.010.0/24", "is no IPv4 network"),
        ("192.168.5.0", "too small"),
        ("192.168.5.0/30", "too small: it has 4 addresses"),
        ("192.168.5.7/24", "is the address of a host; its network is 192.168.5.0/24"),
        ("fd00::/64", "of IPv6"),
        ("10.1.0.0/16", "overlaps 10.0.0.0/8"),
        ("8.0.0.0/6", "overlaps 10.0.0.0/8"),
        ("0.0.0.0/0", "overlaps 10.0.0.0/8"),
        ("127.0.5.0/24", "no host"),
        ("224.0.1.0/24", "no host"),
        ("240.0.0.0/24", "no host"),
        ("0.1.0.0/16", "no host"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=r"net\.user_network: ") as refused:
        parse_user_network(text)
    assert why in refused.value.message
    assert refused.value.hint
