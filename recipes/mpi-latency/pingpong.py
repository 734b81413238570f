"""Runs in two guests: messages go back and forth, and rank 0 prints the median of half a round trip for each size."""

import statistics
import sys
import time

from mpi4py import MPI

SIZES_BYTES = (1, 64, 1024, 8192, 65536)
WARM_UP = 20

rounds = int(sys.argv[1])
world = MPI.COMM_WORLD
rank, other = world.Get_rank(), 1 - world.Get_rank()
for size in SIZES_BYTES:
    message = bytearray(size)
    took_s = []
    for _ in range(WARM_UP + rounds):
        began = time.perf_counter()
        if rank == 0:
            world.Send([message, MPI.BYTE], other)
            world.Recv([message, MPI.BYTE], other)
        else:
            world.Recv([message, MPI.BYTE], other)
            world.Send([message, MPI.BYTE], other)
        took_s.append(time.perf_counter() - began)
    if rank == 0:
        print(f"metric latency_us.{size} {statistics.median(took_s[WARM_UP:]) / 2 * 1e6:.1f}", flush=True)
