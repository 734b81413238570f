from hypothesis import given
from hypothesis import strategies as st

from mvpnet.dataplane import address
from mvpnet.spec.rank_set import MAX_WORLD_SIZE

RANKS = st.integers(0, MAX_WORLD_SIZE - 1)


def test_the_numbers_that_never_change() -> None:
    assert address.mac(258).hex(":") == "52:55:00:00:01:02"
    assert address.mac_text(address.user_mac(4)) == "52:56:00:00:00:04"
    assert address.ipv4_text(0) == "10.0.0.1"
    assert address.ipv4_text(255) == "10.0.1.0"
    assert address.host_name(7) == "n0007"
    assert address.host_name(123456) == "n123456"
    assert MAX_WORLD_SIZE == 16777213
    assert address.SHUTDOWN_FRAME.hex() == "ff" * 6 + "525500000000" + "0888" + b"mvpnet".hex() + "00" * 48


def test_the_last_rank_stays_below_the_shutdown_address() -> None:
    assert address.ipv4_text(MAX_WORLD_SIZE - 1) == "10.255.255.253"
    assert address.SHUTDOWN_ADDRESS == "10.255.255.254"
    assert ".".join(map(str, address.SHUTDOWN_IPV4)) == address.SHUTDOWN_ADDRESS


@given(RANKS)
def test_mac_and_address_lead_back_to_the_rank(rank: int) -> None:
    assert address.rank_of_mac(address.mac(rank)) == rank
    assert address.rank_of_ipv4(address.ipv4(rank)) == rank


def test_other_machines_have_no_rank() -> None:
    assert address.rank_of_mac(address.user_mac(4)) is None
    assert address.rank_of_mac(address.BROADCAST_MAC) is None
    assert address.rank_of_ipv4(bytes([10, 0, 0, 0])) is None
    assert address.rank_of_ipv4(bytes([192, 168, 1, 1])) is None
