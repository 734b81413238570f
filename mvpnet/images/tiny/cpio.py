"""Write initramfs archives.

The format is "newc" (linux/Documentation/driver-api/early-userspace/buffer-format.rst). It is written here rather than
by the cpio tool, because that is often not installed. Also, ownership by root and equal bytes for equal input then need
neither root nor options that differ between versions of the tool.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Entry:
    """A file, folder or symbolic link of the archive, owned by root; ``data`` is a link's target."""

    path: str
    mode: int
    data: bytes = b""


def file(path: str, data: bytes, permissions: int = 0o644) -> Entry:
    return Entry(path, stat.S_IFREG | permissions, data)


def link(path: str, target: str) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def folder(path: str, permissions: int = 0o755) -> Entry:
    return Entry(path, stat.S_IFDIR | permissions)


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the archive of these entries, each after its parent folders. The last entry of a path takes precedence."""
    by_path = {entry.path: entry for entry in entries}
    parents = {str(parent) for path in by_path for parent in PurePosixPath(path).parents} - {"."}
    for parent in parents - by_path.keys():
        by_path[parent] = folder(parent)
    ordered = [by_path[path] for path in sorted(by_path)]
    members = [_member(entry, inode) for inode, entry in enumerate(ordered, start=1)]
    return b"".join([*members, _member(Entry("TRAILER!!!", 0), 0)])


def _member(entry: Entry, inode: int) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(part: bytes) -> bytes:
    return part + b"\0" * (-len(part) % 4)
