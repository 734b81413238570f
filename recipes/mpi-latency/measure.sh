#!/bin/sh
# measure.sh ROUNDS, in guest 0: one MPI rank on the first guest and one on the last. Open MPI is told to use the guests'
# network alone, as qemu's user network gives every guest the same address.
set -eu
network=10.0.0.0/8
[ "$MVPNET_WSIZE" -gt 1 ] || {
    echo "mpi-latency takes two guests: mpirun -n 2 mvpnet recipe=mpi-latency" >&2
    exit 2
}
last=$(tail -n 1 /etc/hosts.mpi)
exec mpirun --host "$(hostname),$last" -n 2 --map-by node \
    --mca btl tcp,self --mca btl_tcp_if_include $network --mca oob_tcp_if_include $network \
    python3 pingpong.py "$1"
