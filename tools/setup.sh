#!/usr/bin/env bash
# Install everything that mvpnet and its tests need: the distribution's packages, then .venv. `make setup` calls it.
#
# It does nothing, and asks no network, where everything is there already. The environment may say
#   MVPNET_MPI=site        leave MPI to the machine; by default PyPI's mpich goes into .venv, library and mpiexec
#                          together, so that the two always fit
#   MVPNET_SYSTEM=skip     do not look at the distribution's packages
#   PYTHON=/path/python    make .venv with this Python
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/apt.sh

exec 9<tools/setup.sh # two at a time would spoil each other's .venv
flock 9

# A program that is looked for, and the package that brings it.
PROGRAMS=(
    qemu-system-x86_64:qemu-system-x86
    qemu-img:qemu-utils
    ssh:openssh-client
    ssh-keygen:openssh-client
    zstd:zstd
    mmdebstrap:mmdebstrap
    cpio:cpio
    cc:gcc
    ip:iproute2
)

missing_packages() {
    local entry
    {
        for entry in "${PROGRAMS[@]}"; do
            command -v "${entry%%:*}" >/dev/null || echo "${entry##*:}"
        done
        [ -e /usr/include/stdint.h ] || echo libc6-dev # gcc alone brings no headers
    } | sort -u
}

fits() { # fits PYTHON: 3.11 or newer, and able to make environments
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local python
    for python in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14 /usr/bin/python3}; do
        if fits "$python"; then
            echo "$python"
            return
        fi
    done
    return 1
}

make_venv() {
    local python
    if ! python=$(find_python); then
        [ -n "${PYTHON:-}" ] || need_packages python3 python3-venv
        python=$(find_python) || {
            echo "mvpnet needs Python 3.11 or newer with its venv module; ${PYTHON:-no Python here} is not that." >&2
            echo "  Install one (on Debian and Ubuntu: python3.11 and python3.11-venv) or name it: make setup PYTHON=/path/to/python3" >&2
            return 1
        }
    fi
    echo "venv: making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
}

wanted() { # what .venv should hold: it is filled again when this changes
    echo "$extras"
    sha256sum pyproject.toml hatch_build.py mvpnet/dataplane/fastpath.c
    [ -e mvpnet/dataplane/libfastpath.so ] || echo "fastpath.c is not compiled"
}

extras=dev,report
[ "${MVPNET_MPI:-}" = site ] || extras=dev,report,mpi

if [ "${MVPNET_SYSTEM:-}" != skip ]; then
    mapfile -t missing < <(missing_packages)
    need_packages "${missing[@]}"
fi

# The programs of a .venv that was moved or copied name the Python of the old place.
if ! fits .venv/bin/python || ! grep -qF "$(pwd -P)/.venv/" .venv/bin/pip; then
    make_venv
fi

if [ "$(cat .venv/mvpnet-setup 2>/dev/null)" != "$(wanted)" ]; then
    echo "pip: installing mvpnet and its tools into .venv"
    rm -f .venv/mvpnet-setup
    [ "$extras" != dev,report ] || .venv/bin/python -m pip uninstall --quiet --yes mpich
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
    wanted >.venv/mvpnet-setup
fi

[ "${MVPNET_SYSTEM:-}" = skip ] || tools/cloud-init.sh

if [ "$extras" = dev,report ] && ! command -v mpiexec >/dev/null; then
    echo "MVPNET_MPI=site, but there is no mpiexec on the PATH; load the site's MPI, or leave MVPNET_MPI out." >&2
    exit 1
fi
