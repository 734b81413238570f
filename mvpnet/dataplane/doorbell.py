"""Wake a sleeping rank with a datagram, as MPI cannot wake a process that is not inside an MPI call.

Ranks of one host ring each other on unix sockets with abstract names (no file, unix(7)), which are bound to a network
namespace. Ranks of other hosts are rung over UDP. The content of a datagram is ignored. A lost datagram costs a bounded
delay, as a sleeping rank polls for messages wherever it relies on UDP. Any process on the host or the network can ring
too; this only makes a rank poll its messages.

Addresses are exchanged by non-blocking collectives that progress whenever the doorbell is used.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import ipaddress
import secrets
import socket
import struct
from pathlib import Path
from typing import Final

from mpi4py import MPI

_NAME_BYTES: Final = 12
_HOST_BYTES: Final = 8
_MAX_ADDRESSES: Final = 3
_NEAR: Final = struct.Struct(f"{_HOST_BYTES}s{_NAME_BYTES}s")
_FAR: Final = struct.Struct("H" + "4s" * _MAX_ADDRESSES)
_SIOCGIFADDR: Final = 0x8915  # netdevice(7)
_SIOCGIFNETMASK: Final = 0x891B
_LOST: Final = (errno.EAGAIN, errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM, errno.ENOBUFS)


class Doorbell:
    """Doorbell of this process for one communicator: rings other ranks and is rung by them.

    All ranks create theirs at the same point of the program, as with any collective; none waits for another there.

    Raises:
        OSError: Sockets cannot be created.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self._comm = comm
        self._rank = comm.Get_rank()
        self.proven = False  # a ring has been received over UDP
        self.same_host = True  # all ranks are on this host, as far as is known
        self._near = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._far: socket.socket | None = None
        name = secrets.token_hex(_NAME_BYTES // 2).encode()
        self._near.bind(_abstract(name))
        mine = _NEAR.pack(_host_digest(), name)
        self._own_host = mine[:_HOST_BYTES]
        self._nears = bytearray(_NEAR.size * comm.Get_size())
        self._fars = bytearray()
        self._networks: list[ipaddress.IPv4Interface] = []
        self._addresses: dict[int, str | bytes | tuple[str, int] | None] = {}
        self._request: MPI.Request | None = comm.Iallgather([mine, MPI.BYTE], [self._nears, MPI.BYTE])

    def filenos(self) -> list[int]:
        """Return the descriptors that become readable when another rank rings."""
        return [bell.fileno() for bell in (self._near, self._far) if bell is not None]

    def settled(self) -> bool:
        """Return whether all addresses are known. Until then no rank can be rung, and sleeps must be short."""
        while self._request is not None and self._request.Test():
            if self._far is None and self._several_hosts():
                self._open_far()
            else:
                self._request = None
        return self._request is None

    def ring(self, rank: int) -> bool:
        """Wake `rank` without blocking. A full socket counts as rung.

        Returns:
            False if the rank cannot be rung (yet).
        """
        if self._request is not None and not self.settled():
            return False
        try:
            to = self._addresses[rank]
        except KeyError:
            to = self._addresses[rank] = self._address(rank)
        if to is None:
            return False
        bell = self._far if isinstance(to, tuple) else self._near
        assert bell is not None
        try:
            bell.sendto(b"", to)
        except OSError as error:
            if error.errno not in _LOST:
                raise
        return True

    def bell_of(self, rank: int) -> tuple[int, bytes] | None:
        """Return how compiled code rings `rank`. Call it only once `settled`.

        Returns:
            The descriptor to send an empty datagram from, and the destination as the kernel's socket address (unix(7),
            ip(7)). None if the rank cannot be rung.
        """
        to = self._address(rank)
        if to is None:
            return None
        if isinstance(to, bytes):
            return self._near.fileno(), struct.pack("=H", socket.AF_UNIX) + to
        assert self._far is not None
        host, port = to
        address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
        return self._far.fileno(), address

    def silence(self) -> None:
        """Discard the rings received so far, so that the next one is seen. Call it before polling messages."""
        for bell in (self._near, self._far):
            try:
                while bell is not None:
                    bell.recv(1)
                    if bell is self._far:
                        self.proven = True
            except BlockingIOError:
                pass

    def close(self) -> None:
        self._near.close()
        if self._far is not None:
            self._far.close()

    def _several_hosts(self) -> bool:
        size = _NEAR.size
        hosts = {bytes(self._nears[at : at + _HOST_BYTES]) for at in range(0, len(self._nears), size)}
        self.same_host = len(hosts) == 1
        return not self.same_host

    def _open_far(self) -> None:
        self._far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._far.bind(("0.0.0.0", 0))
        self._networks = _own_networks()
        packed = [network.ip.packed for network in self._networks[:_MAX_ADDRESSES]]
        packed += [bytes(4)] * (_MAX_ADDRESSES - len(packed))
        mine = _FAR.pack(self._far.getsockname()[1], *packed)
        self._fars = bytearray(_FAR.size * self._comm.Get_size())
        self._request = self._comm.Iallgather([mine, MPI.BYTE], [self._fars, MPI.BYTE])

    def _address(self, rank: int) -> bytes | tuple[str, int] | None:
        host, name = _NEAR.unpack_from(self._nears, rank * _NEAR.size)
        if host == self._own_host:
            return _abstract(name)
        port, *packed = _FAR.unpack_from(self._fars, rank * _FAR.size)
        theirs = [ipaddress.IPv4Address(p) for p in packed if p != bytes(4)]
        shared = [a for a in theirs if any(a in network.network for network in self._networks)]
        return (str((shared or theirs)[0]), port) if theirs else None


def _abstract(name: bytes) -> bytes:
    return b"\0mvpnet-" + name


def _host_digest() -> bytes:
    """Return a digest shared by all processes that can reach each other's abstract sockets.

    It covers this boot of the kernel and this network namespace.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    namespace = str(Path("/proc/self/ns/net").readlink())
    return hashlib.blake2b((boot + namespace).encode(), digest_size=_HOST_BYTES).digest()


def _own_networks() -> list[ipaddress.IPv4Interface]:
    """Return this host's IPv4 addresses and their networks.

    Loopback comes last, as it is of use only between namespaces of one host.
    """
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = name.encode().ljust(256, b"\0")
            try:
                ip = fcntl.ioctl(probe, _SIOCGIFADDR, request)[20:24]
                mask = fcntl.ioctl(probe, _SIOCGIFNETMASK, request)[20:24]
            except OSError:  # an interface without IPv4 address
                continue
            found.append(ipaddress.IPv4Interface((ip, ipaddress.IPv4Address(mask).compressed)))
    return [network for network in found if not network.ip.is_loopback]
