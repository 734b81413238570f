"""Identify the launcher from the environment, and detect one that belongs to another MPI than the library.

A launcher of one MPI and the library of another leave every rank alone in a world of one, or fail in MPI_Init.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mvpnet.errors import SplitWorldError

_MPICH_KIN = "MPICH|Intel|MVAPICH|CRAY"
SAME_MPI = (
    "use the mpiexec of that MPI, or point MPI4PY_LIBMPI at the library of your launcher's MPI; "
    "with srun, say --mpi=pmi2 for MPICH, --mpi=pmix for Open MPI"
)


@dataclass(frozen=True)
class Launcher:
    variable: str  # set in the environment of its ranks
    name: str
    foreign: str | None = None  # pattern of libraries that it is known not to start; None if it may start any

    def is_foreign_to(self, library: str) -> bool:
        return self.foreign is not None and re.search(self.foreign, library) is not None


_LAUNCHERS = (
    Launcher("OMPI_COMM_WORLD_SIZE", "Open MPI's mpirun", _MPICH_KIN),
    Launcher("MPI_LOCALNRANKS", "Hydra's mpiexec (MPICH, Intel MPI and their kin)", "Open MPI"),
    Launcher("SLURM_PROCID", "Slurm's srun"),
    Launcher("PMIX_RANK", "a launcher that speaks PMIx"),
    Launcher("PMI_SIZE", "a launcher that speaks PMI"),
)


def launcher(environment: Mapping[str, str], library: str) -> Launcher | None:
    """Return the launcher that started this rank; None when no known one did.

    A launcher of some MPI may use PMIx, or run under Slurm: their variables say nothing then. Where one launcher
    started another, the one that fits the library is returned.
    """
    present = [one for one in _LAUNCHERS if one.variable in environment]
    of_some_mpi = [one for one in present if one.foreign] or present
    return next((one for one in of_some_mpi if not one.is_foreign_to(library)), next(iter(of_some_mpi), None))


def launched_size(environment: Mapping[str, str]) -> int | None:
    """Return the number of ranks that the launcher started; None for an unknown launcher."""
    for variable in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS", "PMIX_SIZE"):
        if variable in environment:
            return int(environment[variable])
    if "SLURM_STEP_NUM_TASKS" in environment and "SLURM_PROCID" in environment:
        return int(environment["SLURM_STEP_NUM_TASKS"])
    return None


def launched_rank(environment: Mapping[str, str]) -> int | None:
    """Return this rank's number according to the launcher; None when it gives none."""
    names = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID")
    return next((int(environment[name]) for name in names if environment.get(name, "").isdecimal()), None)


def refuse_foreign_launcher(environment: Mapping[str, str], library: str) -> None:
    """Refuse a launcher that is known to belong to another MPI than the library.

    Call it before MPI_Init: MPICH 5 ends the process there without an explanation.

    Raises:
        SplitWorldError: Launcher and library do not fit.
    """
    known = launcher(environment, library)
    if known and known.is_foreign_to(library):
        raise SplitWorldError(
            f"we were started by {known.name}, and mpi4py's library is of another MPI: {short_name(library)}",
            hint=SAME_MPI,
        )


def refuse_split_world(size: int, environment: Mapping[str, str], library: str) -> None:
    """Refuse a launch of several ranks in which each rank is alone in its world.

    Raises:
        SplitWorldError: The launcher started several ranks.
    """
    launched = launched_size(environment)
    if size == 1 and launched is not None and launched > 1:
        raise SplitWorldError(
            f"the launcher started {launched} ranks, but each is alone: "
            f"it is not of the same MPI as mpi4py's library ({short_name(library)})",
            hint=SAME_MPI,
        )


def short_name(library: str) -> str:
    """Return name and version of an MPI library, from the beginning of MPI_Get_library_version's text."""
    lines = library.strip("\0 \n").splitlines()
    return " ".join(lines[0].split(",")[0].split()) if lines else "an unknown one"
