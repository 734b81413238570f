"""Who started us, from environments as launchers leave them."""

from __future__ import annotations

import pytest

from mvpnet.errors import SplitWorldError
from mvpnet.mpi.launcher import (
    launched_rank,
    launched_size,
    launcher,
    refuse_foreign_launcher,
    refuse_split_world,
    short_name,
)

MPICH = "MPICH Version:      5.0.2\nMPICH Release date: today\n\0"
OPEN_MPI = "Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4"
HYDRA = {"PMI_SIZE": "4", "PMI_RANK": "2", "MPI_LOCALNRANKS": "4"}
MPIRUN = {"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "1", "PMIX_RANK": "1"}
SRUN = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8"}


@pytest.mark.parametrize(
    ("environment", "size", "rank", "name"),
    [
        ({}, None, None, None),
        (HYDRA, 4, 2, "Hydra's mpiexec"),
        (MPIRUN, 3, 1, "Open MPI's mpirun"),
        (SRUN, 8, 5, "Slurm's srun"),
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, 2, 0, "a launcher that speaks PMI"),
        ({"SLURM_PROCID": "0"}, None, 0, "Slurm's srun"),
    ],
)
def test_what_launchers_tell(environment: dict[str, str], size: int | None, rank: int | None, name: str | None) -> None:
    assert (launched_size(environment), launched_rank(environment)) == (size, rank)
    found = launcher(environment, "")
    assert (found is None) if name is None else (found is not None and found.name.startswith(name))


@pytest.mark.parametrize(
    ("environment", "library", "foreign"),
    [
        ({}, MPICH, False),
        (HYDRA, MPICH, False),
        (HYDRA, "Intel(R) MPI Library 2021.9", False),
        (HYDRA, OPEN_MPI, True),
        (MPIRUN, OPEN_MPI, False),
        (MPIRUN, MPICH, True),
        (MPIRUN, "IBM Spectrum MPI v10", False),  # made of Open MPI
        (MPIRUN, "a library of which nothing is known", False),
        ({**MPIRUN, **HYDRA}, MPICH, False),  # one that was started by the other
        ({**MPIRUN, **HYDRA}, OPEN_MPI, False),
        (SRUN, MPICH, False),
        (SRUN, OPEN_MPI, False),
    ],
)
def test_launchers_and_libraries(environment: dict[str, str], library: str, foreign: bool) -> None:
    if foreign:
        with pytest.raises(SplitWorldError, match=r"is of another MPI: (MPICH Version: 5\.0\.2|Open MPI v4\.1\.4)\n"):
            refuse_foreign_launcher(environment, library)
    else:
        refuse_foreign_launcher(environment, library)


def test_ranks_that_are_alone() -> None:
    refuse_split_world(4, HYDRA, MPICH)
    refuse_split_world(1, {}, MPICH)
    refuse_split_world(1, {"PMI_SIZE": "1"}, MPICH)
    with pytest.raises(SplitWorldError, match="started 4 ranks, but each is alone"):
        refuse_split_world(1, HYDRA, MPICH)


def test_a_librarys_name() -> None:
    assert short_name(MPICH) == "MPICH Version: 5.0.2"
    assert short_name("") == "an unknown one"
