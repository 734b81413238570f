"""Detect the format of disk image files, and copy them without filling their holes."""

from __future__ import annotations

import difflib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mvpnet.errors import ImageError
from mvpnet.images.file_kind import Family, kind_of, read_head
from mvpnet.util.pace import Pace

_FICLONE = 0x40049409  # ioctl_ficlone(2): _IOW(0x94, 9, int)
_CHUNK = 64 * 2**20  # bytes per system call of a copy, so that progress can be reported
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_RANGE_COPY = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def image_format(path: Path, key: str) -> str:
    """Detect the format of a disk image by its first bytes, as qemu names it; raw when no signature matches.

    A guest that owns a raw disk can write another format's signature on it. For a raw image that guests write in place,
    and that is used again, set format=raw.

    Raises:
        ImageError: The file cannot be read. Names `key`.
    """
    check_readable(path, key)
    try:
        kind = kind_of(read_head(path, 512))
    except OSError as error:
        raise ImageError(f"{key}: {path} cannot be read: {error.strerror}") from error
    return kind.name if kind.family is Family.disk else "raw"


def check_readable(path: Path, key: str) -> None:
    """Refuse a path that is no readable file or block device, with an ImageError."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise ImageError(f"{key}: there is no {path}", hint=_near_miss(path)) from error
    except OSError as error:
        raise ImageError(f"{key}: {path} cannot be used: {error.strerror}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        what = "a folder" if stat.S_ISDIR(mode) else "neither a file nor a block device"
        raise ImageError(f"{key}: {path} is {what}, not a disk image")
    if not os.access(path, os.R_OK):
        raise ImageError(f"{key}: {path} may not be read by this user")


def _near_miss(path: Path) -> str | None:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"there is no folder {path.parent} that can be read either"
    near = difflib.get_close_matches(path.name, names, n=3)
    return f"in that folder there is {', '.join(near)}" if near else None


class Progress:
    """Report the progress of a copy, first after two seconds, and then every five."""

    def __init__(self, what: str, total: int, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self._what, self._total, self._say, self._pace = what, max(total, 1), say, Pace(clock)
        self._done = 0

    def add(self, count: int) -> None:
        self._done += count
        if self._pace.is_due():
            percent = min(100, 100 * self._done // self._total)
            self._say(f"{self._what}: {percent} % of {self._total / 2**20:.0f} MiB")


def copy_image(source: Path, target: Path, key: str, say: Callable[[str], None]) -> None:
    """Copy an image over `target`: cloned where the file system supports it, else with its holes preserved.

    An incomplete copy is removed.

    Raises:
        ImageError: The copy failed. Names `key`, and for a full disk the file, the folder and the bytes needed.
    """
    try:
        with source.open("rb") as old, target.open("wb") as new:
            size = os.lseek(old.fileno(), 0, os.SEEK_END)
            if not _cloned(old.fileno(), new.fileno()):
                needed = min(size, os.fstat(old.fileno()).st_blocks * 512 or size)
                _check_space(source, target.parent, needed, key)
                _copy_data(old.fileno(), new.fileno(), size, Progress(f"copying {source}", needed, say))
                new.truncate(size)
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise copy_error(error, source, target, key) from error
        raise


def no_space(source: Path, folder: Path, needed: int, key: str) -> ImageError:
    """Return the error of an image, or an overlay of it, that does not fit into a folder; `needed` is in bytes."""
    stat_ = os.statvfs(folder)
    free = stat_.f_bavail * stat_.f_frsize
    return ImageError(
        f"{key}: no space left in {folder} for {source}: {needed} bytes needed, {free} free",
        hint="free some, or choose another folder by job.scratch_dir or image.copy_dir",
    )


def copy_error(error: OSError, source: Path, target: Path, key: str) -> ImageError:
    """Return the error that reports a failed copy of an image."""
    if error.errno in _NO_SPACE:
        return no_space(source, target.parent, source.stat().st_size, key)
    return ImageError(f"{key}: copying {source} to {target} failed: {error.strerror}")


def _check_space(source: Path, folder: Path, needed: int, key: str) -> None:
    stat_ = os.statvfs(folder)
    if needed > stat_.f_bavail * stat_.f_frsize:
        raise no_space(source, folder, needed, key)


def _cloned(old: int, new: int) -> bool:
    try:
        fcntl.ioctl(new, _FICLONE, old)
    except OSError:
        return False  # not supported by this file system, or between these two: the bytes are copied then
    return True


def _copy_data(old: int, new: int, size: int, progress: Progress) -> None:
    copy = _copy_in_kernel
    for start, end in _data_ranges(old, size):
        at = start
        while at < end:
            try:
                count = copy(old, new, at, min(_CHUNK, end - at))
            except OSError as error:
                if copy is not _copy_in_kernel or error.errno not in _NO_RANGE_COPY:
                    raise
                copy, count = _copy_by_hand, 0
            else:
                if count == 0:
                    raise OSError(errno.EIO, "the image became shorter meanwhile")
            at += count
            progress.add(count)


def _data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a file that are no holes (lseek(2), SEEK_DATA); a device is one range."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        yield 0, size
        return
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole up to the end
                return
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at


def _copy_in_kernel(old: int, new: int, at: int, count: int) -> int:
    return os.copy_file_range(old, new, count, at, at)


def _copy_by_hand(old: int, new: int, at: int, count: int) -> int:
    return os.pwrite(new, os.pread(old, min(count, 4 * 2**20), at), at)


def to_disk(path: Path) -> None:
    """Write the data to the disk, before a rename marks it as complete."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
