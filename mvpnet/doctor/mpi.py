"""Whether the MPI library is that of the launcher, and what both are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mvpnet.world import launched_size

# What a launcher puts into its ranks' environment, and which libraries are its own.
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "Open MPI's mpirun", "Open MPI|Spectrum"),
    ("MPI_LOCALNRANKS", "Hydra's mpiexec (MPICH, Intel MPI and their kin)", "MPICH|Intel|MVAPICH|CRAY"),
    ("SLURM_PROCID", "Slurm's srun", ""),
    ("PMIX_RANK", "a launcher that speaks PMIx", ""),
    ("PMI_SIZE", "a launcher that speaks PMI", ""),
)


@dataclass(frozen=True)
class MpiFacts:
    """What a rank knows of its launch; nothing but `refused` where MPI could not be started."""

    library: str = ""
    path: str | None = None
    mpi4py: str = ""
    thread_level: str = ""
    world_size: int | None = None
    launcher: str | None = None  # None: started without one
    launchers_library: str = ""  # a pattern; empty: any
    launched_size: int | None = None
    refused: tuple[str, str | None] | None = None  # why there is no MPI to be had here, and what to do

    @property
    def is_foreign(self) -> bool:
        """Whether the launcher is known to be of another MPI than the library."""
        return bool(self.launchers_library) and not re.search(self.launchers_library, self.library)


def mpi_facts(environment: Mapping[str, str], world_size: int) -> MpiFacts:
    """Of this process, in which MPI was started."""
    known = next((entry for entry in _LAUNCHERS if entry[0] in environment), None)
    launcher, library = (known[1], known[2]) if known else (None, "")
    import mpi4py

    from mvpnet.experiment.facts import mpi_library

    return MpiFacts(
        library=mpi_library(),
        path=_loaded_library(),
        mpi4py=mpi4py.__version__,
        thread_level=_thread_level(),
        world_size=world_size,
        launcher=launcher,
        launchers_library=library,
        launched_size=launched_size(environment),
    )


def _thread_level() -> str:
    """What the library grants (MPI 4.1, 11.2.1)."""
    from mpi4py import MPI

    names = {
        MPI.THREAD_SINGLE: "single",
        MPI.THREAD_FUNNELED: "funneled",
        MPI.THREAD_SERIALIZED: "serialized",
        MPI.THREAD_MULTIPLE: "multiple",
    }
    return names[MPI.Query_thread()]


def _loaded_library() -> str | None:
    """The path of the MPI library that this process has in memory, None where its name does not tell."""
    try:
        maps = Path("/proc/self/maps").read_text(errors="replace")
    except OSError:
        return None
    match = re.search(r"(/\S*/libmpi(?:ch)?\.so\S*)$", maps, re.MULTILINE)
    return match[1] if match else None
