"""Coverage-guided fuzzing (atheris) of what takes bytes from outside: the splitter, both links, and a rank's receiver.

    make fuzz                 or    .venv/bin/python fuzz/dataplane.py -max_total_time=60 [FOLDER OF INPUTS]

An input's first byte picks the target; the options are libFuzzer's. Whatever is found is written to crash-*, and
reproduced by giving that file as the only argument. The receiver runs in an MPI world of one.
"""

from __future__ import annotations

import socket
import sys

import atheris

with atheris.instrument_imports(include=["mvpnet"]):
    import mpi4py

    mpi4py.rc.thread_level = "single"
    from mpi4py import MPI

    from mvpnet.dataplane import address, routes
    from mvpnet.dataplane.buffers import Pool
    from mvpnet.dataplane.doorbell import Doorbell
    from mvpnet.dataplane.frame import Splitter
    from mvpnet.dataplane.link import DgramLink, Link, LinkLostError, StreamLink
    from mvpnet.dataplane.switch import Switch, open_link
    from mvpnet.spec.schema import Net

RANK, WORLD = 1, 4
RESOLVE = routes.outbound(RANK, WORLD, 1500)
POOL = Pool(256 * 1024)


def split(data: bytes) -> None:
    """Runs cover the buffer from its start, without gap or overlap."""
    runs, stop = Splitter(RESOLVE).split(bytearray(data), len(data))
    at = 0
    for _, start, end, _ in runs:
        assert start == at <= end
        at = end
    assert at == stop <= len(data)


def link(made: Link, pieces: list[bytes]) -> None:
    """A guest's bytes make runs of its own frames, or end its link."""
    assert made.qemu_fd is not None
    with socket.socket(fileno=socket.dup(made.qemu_fd)) as guest:
        made.detach_qemu_end()
        try:
            for piece in pieces:
                guest.send(piece)
                chunk, runs = made.receive()
                for to, start, end, frames in runs:
                    assert frames and start < end <= len(chunk.buffer)
                    source = bytes(chunk.view[start + 10 : start + 16])
                    assert to < 0 or (source == address.mac(RANK) and to % routes.ABOVE_MTU < WORLD)
        except LinkLostError:
            pass
        finally:
            made.close()


class Receiver:
    """Rank 0 of a world of one: nothing but its own frames to itself may come out at the guest's end."""

    def __init__(self) -> None:
        comm = MPI.COMM_WORLD.Dup()
        self.link = open_link(0, 1, Net())
        assert self.link.qemu_fd is not None
        self.guest = socket.socket(fileno=socket.dup(self.link.qemu_fd))
        self.guest.setblocking(False)
        self.link.detach_qemu_end()
        self.switch = Switch(comm, Doorbell(comm), self.link, Net())

    def take(self, data: bytes, broadcast: bool) -> None:
        chunk = POOL.get_for(len(data))
        chunk.view[: len(data)] = data
        (self.switch.on_broadcast if broadcast else self.switch.on_unicast)(0, chunk, len(data))
        chunk.release()
        try:
            came = self.guest.recv(1 << 20)
        except BlockingIOError:
            return
        assert not broadcast  # in a world of one there is nobody that could pass one on
        at = 0
        while at < len(came):
            assert came[at + 4 : at + 16] == address.mac(0) * 2
            at += 4 + int.from_bytes(came[at : at + 4], "big")


RECEIVER = Receiver()


def one_input(data: bytes) -> None:
    target, rest = data[:1], data[1:]
    if target < b"\x40":
        split(rest)
    elif target < b"\x80":
        half = len(rest) // 2
        link(StreamLink(RESOLVE, POOL, 1 << 20), [piece for piece in (rest[:half], rest[half:]) if piece])
    elif target < b"\xc0":
        link(DgramLink(RESOLVE, POOL, 1 << 20), [rest[at : at + 64] for at in range(0, len(rest), 64)])
    else:
        RECEIVER.take(rest, broadcast=target >= b"\xe0")


atheris.Setup(sys.argv, one_input)
atheris.Fuzz()
