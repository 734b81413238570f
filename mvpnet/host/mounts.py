"""Find the file system of a path in the kernel's list of mounts, /proc/PID/mountinfo (proc(5))."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# File systems shared between hosts, as mountinfo names them; behind "fuse." where they run as programs.
_SHARED = (
    *("nfs", "nfs4", "lustre", "gpfs", "beegfs", "fhgfs", "ceph", "cifs", "smb3", "smbfs", "afs", "panfs", "wekafs"),
    *("pvfs2", "orangefs", "glusterfs", "sshfs", "9p", "gfs2", "ocfs2", "quobyte", "juicefs", "daos", "dfuse"),
)
_IN_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True)
class Mount:
    root: str  # the part of the file system that is mounted
    point: str
    fs_type: str
    source: str
    super_options: tuple[str, ...]

    @property
    def is_shared(self) -> bool:
        """Return whether other hosts see it too, as far as its type tells."""
        return self.fs_type.removeprefix("fuse.") in _SHARED

    @property
    def is_in_memory(self) -> bool:
        return self.fs_type in _IN_MEMORY


def read_mounts(mountinfo: str) -> list[Mount]:
    """Parse mountinfo's text in its order, and skip invalid lines."""
    found = []
    for line in mountinfo.splitlines():
        own, dash, of_the_file_system = line.partition(" - ")
        words, more = own.split(" "), of_the_file_system.split(" ")
        if dash and len(words) >= 6 and len(more) >= 3:
            options = tuple(more[2].split(","))
            found.append(Mount(_plain(words[3]), _plain(words[4]), more[0], _plain(more[1]), options))
    return found


def mount_of(path: Path, mounts: Iterable[Mount]) -> Mount | None:
    """Return the mount of an absolute path without links: the deepest one, and of several at one place the last."""
    best: Mount | None = None
    for mount in mounts:
        if path.is_relative_to(mount.point) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best


def file_system(folder: Path) -> Mount | None:
    """Return the mount of an existing or future folder; None where the kernel does not list it."""
    try:
        return mount_of(folder.resolve(), read_mounts(Path("/proc/self/mountinfo").read_text(errors="replace")))
    except (OSError, RuntimeError):  # RuntimeError for a loop of links
        return None


def _plain(text: str) -> str:
    r"""Decode mountinfo's escapes: a space is written \040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
