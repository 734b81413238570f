#!/usr/bin/env bash
# Print, for a named MPI, what a shell must export so that .venv's mpi4py and the tests run on it:
#
#     eval "$(tools/mpi-env.sh debian-openmpi)" && pytest -m mpi
#
#   pypi-mpich      the mpich in .venv, library and mpiexec from PyPI (what `make setup` installs)
#   debian-mpich    Debian's and Ubuntu's package mpich
#   debian-openmpi  Debian's and Ubuntu's package openmpi-bin
#
# mpi4py's wheel loads the MPI library that MPI4PY_LIBMPI names, else the first libmpi.so of a known ABI that it finds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

library() { # library NAME: its path, as the dynamic linker knows it; ldconfig is not in every user's PATH
    PATH=$PATH:/usr/sbin:/sbin ldconfig -p |
        awk -v name="$1" '$1 == name && !found {print $NF; found = 1} END {exit !found}' || {
        echo "$1 is not installed here" >&2
        return 1
    }
}

export_() { printf 'export %s=%q\n' "$1" "$2"; }

case ${1:-} in
pypi-mpich)
    printf 'unset MPI4PY_MPIABI\n'
    export_ MPI4PY_LIBMPI "$PWD/.venv/lib/libmpi.so.12"
    export_ MVPNET_MPIEXEC "$PWD/.venv/bin/mpiexec"
    ;;
debian-mpich)
    # Debian calls the library libmpich.so.12; the name that the MPICH ABI gives it, and mpi4py asks for, is libmpi.so.12.
    path=$(library libmpich.so.12)
    folder=$PWD/.venv/mpi/debian-mpich
    mkdir -p "$folder"
    ln -sfn "$path" "$folder/libmpi.so.12"
    printf 'unset MPI4PY_LIBMPI\n'
    export_ MPI4PY_MPIABI mpich
    export_ LD_LIBRARY_PATH "$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export_ MVPNET_MPIEXEC "$(command -v mpiexec.mpich)"
    ;;
debian-openmpi)
    path=$(library libmpi.so.40)
    printf 'unset MPI4PY_MPIABI\n'
    export_ MPI4PY_LIBMPI "$path"
    # It starts no more ranks than there are cores, and none as root, unless told.
    options=--oversubscribe
    [ "$(id -u)" -ne 0 ] || options="--allow-run-as-root $options"
    export_ MVPNET_MPIEXEC "$(command -v mpiexec.openmpi) $options"
    ;;
*)
    echo "usage: tools/mpi-env.sh pypi-mpich|debian-mpich|debian-openmpi" >&2
    exit 2
    ;;
esac
