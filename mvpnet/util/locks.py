"""File locks, those of flock(2). The kernel lets one go with the last descriptor of its file, however that closes."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path


def try_lock(fd: int) -> bool:
    """Lock the file unless somebody else has it locked. Raises OSError where the file system has no locks.

    Returns:
        Whether it was done.
    """
    return _try(fd, fcntl.LOCK_EX)


def lock(fd: int, on_wait: Callable[[], None] | None = None) -> None:
    """Lock the file, and wait for whoever has it locked. Raises OSError where the file system has no locks.

    Args:
        fd: A descriptor of the file.
        on_wait: Called before the wait, if there is one.
    """
    if on_wait:
        if try_lock(fd):
            return
        on_wait()
    fcntl.flock(fd, fcntl.LOCK_EX)


def lock_shared(fd: int) -> None:
    """Lock the file for one of many who use it and do not change it. Raises OSError as `lock` does."""
    fcntl.flock(fd, fcntl.LOCK_SH)


def open_locked(path: Path) -> int:
    """Open a lock file, made if it is not there, and lock it; again where a cleaner unlinked it in between.

    Returns:
        The descriptor, to be closed by the caller.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        lock(fd)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(fd).st_ino:
                return fd
        os.close(fd)


def is_locked(path: Path) -> bool:
    """Whether a living process has the file locked; false for one that is not there, or not ours to open.

    A shared lock is enough to see it. Others who look do not take it for an owner's.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return not _try(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _try(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
