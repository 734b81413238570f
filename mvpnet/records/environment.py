"""Facts about a run's environment: programs and their versions, hosts, the batch system's variables."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from mvpnet import __version__
from mvpnet.errors import HostError
from mvpnet.host import programs
from mvpnet.qemu import binary

_GIT_TIMEOUT_S = 5
_SOURCES = ("mvpnet", "conf", "recipes", "pyproject.toml")  # parts of the checkout that jobs use
# Variables of batch systems that are not facts about the run, or that are secrets.
_SECRET = re.compile(r"JWT|TOKEN|KEY|PASS|SECRET|CRED|SPANK", re.IGNORECASE)


def software() -> dict[str, Any]:
    """Return the versions of rank 0's mvpnet with its commit, of Python, and of packages."""
    return {
        "mvpnet": {"version": __version__, **checkout(Path(__file__).resolve().parents[2])},
        "python": platform.python_version(),
        "executable": sys.executable,
        "packages": packages(),
    }


def checkout(root: Path) -> dict[str, Any]:
    """Return a checkout's commit and whether its sources differ from it; empty outside a checkout or without git."""
    if not (root / ".git").exists():
        return {}
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", *_SOURCES)
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def packages() -> dict[str, str]:
    """Return the versions of the packages that mvpnet's metadata names, including extras that are installed."""
    try:
        names = {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in metadata.requires("mvpnet") or []}
    except metadata.PackageNotFoundError:
        names = set()
    return {name: version for name in sorted(names, key=str.lower) if (version := _version(name))}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def host_facts() -> dict[str, Any]:
    """Return facts about this rank's host."""
    cpuinfo = _text("/proc/cpuinfo")
    system = os.uname()
    return {
        "kernel": f"{system.sysname} {system.release}",
        "os": _field(_text("/etc/os-release"), r'^PRETTY_NAME="?([^"\n]*)'),
        "machine": system.machine,
        "cpu": _field(cpuinfo, r"^(?:model name|cpu model|Processor)\s*:\s*(.+)$"),
        "cpu_features": _field(cpuinfo, r"^(?:flags|Features)\s*:\s*(.+)$"),
        "cpus": os.cpu_count(),
        "cpus_allowed": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "mpi": mpi_library(),
    }


def mpi_library() -> str:
    """Return the first line of the MPI library's version text (MPI_Get_library_version)."""
    from mpi4py import MPI

    said = MPI.Get_library_version().strip("\0 \n").splitlines()
    return " ".join(said[0].split()) if said else "unknown"


def qemu(program: str) -> dict[str, Any]:
    """Return path and version of qemu; None for unknown values."""
    try:
        version = binary.qemu_version(program)
        path = str(programs.find_program(program, "qemu.binary"))
    except HostError:
        return {"path": None, "version": None}
    return {"path": path, "version": ".".join(map(str, version)) if version else None}


def batch_system(environment: Mapping[str, str]) -> dict[str, str]:
    """Return Slurm's own variables, without possible secrets."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if name.startswith("SLURM_") and not _SECRET.search(name)
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _field(text: str, pattern: str) -> str | None:
    match = re.search(pattern, text, re.MULTILINE)
    return match[1].strip() if match else None
