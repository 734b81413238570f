#!/usr/bin/env bash
# Run the tests marked mpi on Debian's MPICH and on Debian's Open MPI, installing both by apt where they are missing.
# `make test-mpi-matrix` calls it. Arguments go to pytest. Ends with 1 if the tests failed on either.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/apt.sh

missing=()
command -v mpiexec.mpich >/dev/null || missing+=(mpich)
command -v mpiexec.openmpi >/dev/null || missing+=(openmpi-bin)
need_packages "${missing[@]}"

failed=()
for name in debian-mpich debian-openmpi; do
    settings=$(tools/mpi-env.sh "$name")
    (
        eval "$settings"
        echo "== $name: $MVPNET_MPIEXEC"
        .venv/bin/python -m pytest -m mpi "$@"
    ) || failed+=("$name")
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "tests failed on: ${failed[*]}" >&2
    exit 1
fi
