"""Runs in the guests, a rank on each: messages of growing size go round a ring, and rank 0 prints what came of it.

Each rank adds its number and one to a sum that goes round, and passes on a block of bytes, which the first compares.
"""

import json
import socket
import time

from mpi4py import MPI

ROUNDS = 20
BLOCK_BYTES = 1 << 20

world = MPI.COMM_WORLD
rank, size = world.Get_rank(), world.Get_size()
after, before = (rank + 1) % size, (rank - 1) % size
hosts = world.gather(socket.gethostname())
block = bytearray(index * 7 % 251 for index in range(BLOCK_BYTES)) if rank == 0 else bytearray(BLOCK_BYTES)
total = 0
whole = True
began = time.perf_counter()
for _ in range(ROUNDS):
    if rank == 0:
        world.send(total + 1, after)
        sending = world.Isend([block, MPI.BYTE], after)
        total = world.recv(source=before)
        came = bytearray(BLOCK_BYTES)
        world.Recv([came, MPI.BYTE], before)
        sending.Wait()
        whole = whole and came == block
    else:
        total = world.recv(source=before)
        world.Recv([block, MPI.BYTE], before)
        world.send(total + rank + 1, after)
        world.Send([block, MPI.BYTE], after)
seconds = time.perf_counter() - began
everyone = world.allreduce(rank + 1)
if rank == 0:
    library = MPI.Get_library_version().split(",")[0]
    found = {"library": library, "hosts": hosts, "total": total, "everyone": everyone, "whole": whole}
    print(json.dumps({**found, "rounds": ROUNDS, "block_bytes": BLOCK_BYTES, "seconds": seconds}))
