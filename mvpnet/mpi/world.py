"""Start the MPI world, exchange values between its ranks outside the data path, and abort it.

No call waits inside MPI: a blocking call would keep a core busy and delay Python's signal handlers. So requests are
tested, with growing sleeps in between. Importing this module does not start MPI; `World.start` does.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mvpnet import __version__
from mvpnet.errors import HostError, MpiError, MvpnetError
from mvpnet.mpi.launcher import refuse_foreign_launcher, refuse_split_world

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm, Request

    from mvpnet.dataplane.doorbell import Doorbell

_SHORTEST_SLEEP_S = 0.0001
_LONGEST_SLEEP_S = 0.02
_ABORT_S = 10


def patiently(request: Request, between: Callable[[], None] | None = None) -> None:
    """Wait for an MPI request without waiting inside MPI. Call `between` after every test."""
    pause_s = _SHORTEST_SLEEP_S
    while not request.Test():
        if between:
            between()
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _LONGEST_SLEEP_S)


@dataclass
class World:
    """All ranks of the launch, seen from one of them.

    `comm` and `fabric` are duplicates of MPI_COMM_WORLD: one for this class, one for the data path.
    """

    comm: Intracomm
    fabric: Intracomm
    doorbell: Doorbell  # wakes ranks that sleep while their guests are idle
    rank: int
    size: int
    hosts: list[str] = field(default_factory=list)  # host name of each rank
    versions: list[str] = field(default_factory=list)  # version of mvpnet on each rank

    @classmethod
    def start(cls) -> World:
        """Start MPI and connect to the other ranks.

        Raises:
            MpiError: There is no MPI library, or the launcher belongs to another MPI than mpi4py's library.
        """
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True  # initialized below, after the checks of the library
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "suspicious MPI execution environment")  # see refuse_split_world
                from mpi4py import MPI
        except (ImportError, RuntimeError) as error:
            raise MpiError(
                f"no usable MPI library: {str(error).splitlines()[0]}",
                hint="load your site's MPI module, set MPI4PY_LIBMPI to its libmpi.so, or pip install mpich",
            ) from None
        from mvpnet.dataplane.doorbell import Doorbell

        refuse_foreign_launcher(os.environ, MPI.Get_library_version())
        if not MPI.Is_initialized():  # python -m mpi4py may have done it
            MPI.Init_thread(MPI.THREAD_SINGLE)  # only one thread calls MPI; locks for more would cost time per message
        comm = MPI.COMM_WORLD
        refuse_split_world(comm.Get_size(), os.environ, MPI.Get_library_version())
        ours, fabric = _duplicate(comm), _duplicate(comm)
        world = cls(ours, fabric, Doorbell(fabric), comm.Get_rank(), comm.Get_size())
        greetings = world.allgather((socket.gethostname(), __version__))
        world.hosts = [host for host, _ in greetings]
        world.versions = [version for _, version in greetings]
        return world

    @contextmanager
    def part(self, size: int) -> Iterator[World | None]:
        """Provide the first `size` ranks as a world of their own for one job; None on the others, which do not wait."""
        from mpi4py import MPI

        from mvpnet.dataplane.doorbell import Doorbell

        if size == self.size:
            yield self
            return
        if self.rank >= size:
            yield None
            return
        members: Any = self.comm.Get_group().Incl(range(size))
        comm: MPI.Intracomm = self.comm.Create_group(members)
        fabric = _duplicate(comm)
        world = World(comm, fabric, Doorbell(fabric), self.rank, size, self.hosts[:size], self.versions[:size])
        try:
            yield world
        except MvpnetError:  # orderly: the other ranks get here too; any other error aborts all ranks
            world.close()
            raise
        world.close()

    def close(self) -> None:
        """Free what `part` created. All its ranks call it."""
        while not self.doorbell.settled():
            time.sleep(_SHORTEST_SLEEP_S)
        self.doorbell.close()
        self.fabric.Free()
        self.comm.Free()

    def broadcast(self, value: Any = None) -> Any:
        """Return rank 0's value on every rank."""
        data = pickle.dumps(value) if self.rank == 0 else b""
        length = bytearray(len(data).to_bytes(8, "big"))
        patiently(self.comm.Ibcast(length))
        buffer = bytearray(data) if self.rank == 0 else bytearray(int.from_bytes(length, "big"))
        patiently(self.comm.Ibcast(buffer))
        return pickle.loads(buffer)

    def allgather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, by rank, on every rank."""
        data = pickle.dumps(value)
        mine = len(data).to_bytes(8, "big")
        lengths = bytearray(8 * self.size)
        patiently(self.comm.Iallgather(mine, lengths))
        counts = [int.from_bytes(lengths[i : i + 8], "big") for i in range(0, len(lengths), 8)]
        whole = bytearray(sum(counts))
        patiently(self.comm.Iallgatherv(data, [whole, counts]))
        return _cut(whole, counts)

    def gather(self, value: Any) -> list[Any] | None:
        """Return the values of all ranks, by rank, on rank 0; None on the others."""
        data = pickle.dumps(value)
        lengths = bytearray(8 * self.size) if self.rank == 0 else None
        patiently(self.comm.Igather(len(data).to_bytes(8, "big"), lengths))
        if lengths is None:
            patiently(self.comm.Igatherv(data, None))
            return None
        counts = [int.from_bytes(lengths[i : i + 8], "big") for i in range(0, len(lengths), 8)]
        whole = bytearray(sum(counts))
        patiently(self.comm.Igatherv(data, [whole, counts]))
        return _cut(whole, counts)

    def abort(self, code: int) -> None:
        """End all ranks at once. This rank ends after some seconds even where MPI waits for an unreachable host."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_ABORT_S)
        self.comm.Abort(code)

    def most_ranks_on_one_host(self) -> int:
        return max(self.hosts.count(host) for host in set(self.hosts))

    def refuse_mixed_versions(self) -> None:
        """Refuse ranks with different versions of mvpnet, as their messages have no common format.

        Raises:
            HostError: Names the first rank with another version than rank 0's.
        """
        if other := next((rank for rank, version in enumerate(self.versions) if version != self.versions[0]), None):
            raise HostError(
                f"rank {other} on {self.hosts[other]} runs mvpnet {self.versions[other]}, "
                f"and rank 0 on {self.hosts[0]} mvpnet {self.versions[0]}",
                hint="install the same version on all hosts, or in a folder that they share",
            )


def _duplicate(comm: Intracomm) -> Intracomm:
    new, request = comm.Idup()
    patiently(request)
    return new


def _cut(whole: bytearray, counts: list[int]) -> list[Any]:
    values, at = [], 0
    for count in counts:
        values.append(pickle.loads(whole[at : at + count]))
        at += count
    return values
