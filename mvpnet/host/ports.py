"""Reserve the TCP port on this host that leads to a guest's ssh server."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from mvpnet.errors import HostError

_LAST_PORT = 65535


def reserve_ssh_port(rank: int, base: int, most_ranks_on_one_host: int) -> tuple[int, socket.socket]:
    """Reserve a free port on 127.0.0.1: base + rank, or the next one in strides that no other rank here tries.

    The stride is the number of ranks on the fullest host, rounded up to 100, as in the C program.

    Args:
        rank: Rank of the guest.
        base: Port for rank 0.
        most_ranks_on_one_host: Number of ranks on the fullest host.

    Returns:
        The port, and a socket that reserves it against other jobs of mvpnet until qemu binds it. The socket has an
        abstract name (unix(7)), which is bound to the same network namespace. The caller closes it.

    Raises:
        HostError: No port is free.
    """
    tried = list(_ssh_ports(rank, base, most_ranks_on_one_host))
    for port in tried:
        if holder := _reserved(port):
            return port, holder
    raise HostError(
        f"rank {rank}: no port for ssh is free on 127.0.0.1: {len(tried)} tried from {base + rank} up",
        hint="set net.ssh_port lower" if base + rank > _LAST_PORT else "set net.ssh_port to another range",
    )


def _ssh_ports(rank: int, base: int, most_ranks_on_one_host: int) -> Iterator[int]:
    stride = max(1, -(-most_ranks_on_one_host // 100)) * 100
    yield from range(base + rank, _LAST_PORT + 1, stride)


def _reserved(port: int) -> socket.socket | None:
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(f"\0mvpnet.ssh.{port}")
    except OSError:  # reserved by another rank
        holder.close()
        return None
    if _is_free(port):
        return holder
    holder.close()
    return None


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as qemu's user network does
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
        return True
