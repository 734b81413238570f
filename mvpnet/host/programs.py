"""Find programs and folders on this host."""

from __future__ import annotations

import difflib
import os
import platform
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from mvpnet.errors import HostError


def architecture(qemu_binary: str) -> str:
    """Return the architecture of a qemu's machine: x86_64 for qemu-system-x86_64, this host's for any other name."""
    match = re.fullmatch(r"qemu-system-(\w+)", Path(qemu_binary).name)
    return match[1] if match else platform.machine()


def find_program(name: str, key: str) -> Path:
    """Return the full path of a program, found on PATH unless `name` has a slash.

    Raises:
        HostError: There is no such program. Names `key`.
    """
    if found := shutil.which(name):
        return Path(found).absolute()
    if "/" in name:
        path = Path(name)
        if path.is_dir():
            raise HostError(f"{key}: {name} is a folder")
        if path.exists():
            raise HostError(f"{key}: {name} may not be executed by this user")
        raise HostError(f"{key}: there is no {name}", hint=_near_programs(path.name, [str(path.parent)]))
    raise HostError(f"{key}: there is no program {name!r} on PATH", hint=_near_programs(name, os.get_exec_path()))


def _near_programs(name: str, folders: Sequence[str]) -> str | None:
    names = {entry for folder in folders if Path(folder).is_dir() for entry in _entries(folder)}
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.75)
    if name.startswith("qemu") and Path("/usr/libexec/qemu-kvm").exists():
        near.append("/usr/libexec/qemu-kvm")  # its place off PATH on RHEL and relatives
    return f"there is {', '.join(near)}" if near else None


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names only, and PATH may hold thousands
    except OSError:
        return []


def check_folder(path: Path, key: str, *, write: bool = False) -> None:
    """Refuse a folder that is not accessible.

    Args:
        path: The folder.
        key: Key of the configuration to name.
        write: It has to be writable too.

    Raises:
        HostError: There is no such folder, or we may not enter, read or write it.
    """
    if not path.is_dir():
        raise HostError(f"{key}: {path} is {'no folder' if path.exists() else 'not there'}")
    if not os.access(path, os.R_OK | os.X_OK | (os.W_OK if write else 0)):
        raise HostError(f"{key}: {path} may not be {'written' if write else 'read'} by this user")
