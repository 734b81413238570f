"""Looks up the MPI library and the launcher, to tell whether they belong together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mpi4py

from mvpnet.mpi.launcher import launched_size, launcher
from mvpnet.records.environment import mpi_library


@dataclass(frozen=True)
class MpiFacts:
    """What a rank knows of its launch; nothing but `refused` where MPI could not be started."""

    library: str = ""
    path: str | None = None
    mpi4py: str = ""
    thread_level: str = ""
    world_size: int | None = None
    launcher: str | None = None  # None: started without one
    launched_size: int | None = None
    refused: tuple[str, str | None] | None = None  # why there is no MPI to be had here, and what to do


def mpi_facts(environment: Mapping[str, str], world_size: int) -> MpiFacts:
    """Look up the facts of this process, in which MPI was started."""
    library = mpi_library()
    known = launcher(environment, library)
    return MpiFacts(
        library=library,
        path=_loaded_library(),
        mpi4py=mpi4py.__version__,
        thread_level=_thread_level(),
        world_size=world_size,
        launcher=known.name if known else None,
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
