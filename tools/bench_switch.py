"""Measure the data plane alone: a rank of a relay benchmark that starts any two-rank program, and no more of it.

    .venv/bin/mpiexec -n 2 .venv/bin/python tools/bench_switch.py

MVPNET_PROFILE=FOLDER writes a cProfile of each rank there; MVPNET_STATS=1 prints each rank's counters, memory and CPU.
"""

from __future__ import annotations

import cProfile
import dataclasses
import json
import os
import resource
import subprocess
import sys

import mpi4py

mpi4py.rc.thread_level = "single"
from mpi4py import MPI  # noqa: E402

from mvpnet.dataplane import address  # noqa: E402
from mvpnet.dataplane.doorbell import Doorbell  # noqa: E402
from mvpnet.dataplane.link import Link  # noqa: E402
from mvpnet.dataplane.switch import Switch, loop_for, open_link  # noqa: E402
from mvpnet.spec.schema import Net, NetKind  # noqa: E402


def start_standin(binary: str, rank: int, link: Link) -> subprocess.Popen[bytes]:
    fd = link.qemu_fd
    assert fd is not None
    netdev = (
        f"stream,id=m,addr.type=fd,addr.str={fd}"
        if link.kind == "stream"
        else f"dgram,id=m,local.type=fd,local.str={fd}"
    )
    guest = subprocess.Popen(
        [
            binary,
            *("-netdev", f"user,id=u,hostfwd=tcp:127.0.0.1:{24800 + rank}-:22"),
            *("-netdev", netdev),
            *("-device", f"virtio-net-pci,netdev=m,mac={address.mac_text(address.mac(rank))}"),
        ],
        stdin=subprocess.PIPE,
        pass_fds=[fd],
    )
    link.detach_qemu_end()
    return guest


def main() -> None:
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    tuning = {f.name: int(options[f"net.{f.name}"]) for f in dataclasses.fields(Net) if f"net.{f.name}" in options}
    net = Net(kind=NetKind[options["net"]], **tuning)
    comm = MPI.COMM_WORLD.Dup()
    rank, size = comm.Get_rank(), comm.Get_size()
    doorbell = Doorbell(comm)
    loop = loop_for(net)
    link = open_link(rank, size, net)
    guest = start_standin(options["qemu.binary"], rank, link)
    switch = Switch(comm, doorbell, link, net)
    loop.worker = switch
    pidfd = os.pidfd_open(guest.pid)

    def guest_gone() -> None:
        loop.unwatch(pidfd)
        switch.finish(loop.stop)

    loop.watch(pidfd, guest_gone)
    profile = os.environ.get("MVPNET_PROFILE")
    if profile:
        profiler = cProfile.Profile()
        profiler.runcall(loop.run)
        profiler.dump_stats(f"{profile}/rank{rank}.prof")
    else:
        loop.run()
    code = guest.wait()
    if os.environ.get("MVPNET_STATS"):
        used = resource.getrusage(resource.RUSAGE_SELF)
        stats = {"rank": rank, "max_rss_mb": used.ru_maxrss / 1024, "cpu_s": used.ru_utime + used.ru_stime}
        print(json.dumps(stats | switch.counters.as_dict()), file=sys.stderr, flush=True)
    doorbell.close()
    sys.exit(code)


main()
