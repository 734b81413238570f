"""Lock files by flock(2). The kernel releases a lock when the last descriptor of its open file is closed."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from pathlib import Path


def try_lock(fd: int) -> bool:
    """Lock the file unless another process holds a lock. Raises OSError where the file system has no locks.

    Returns:
        Whether the file was locked.
    """
    return _try(fd, fcntl.LOCK_EX)


def lock(fd: int, on_wait: Callable[[], None] | None = None) -> None:
    """Lock the file, after waiting for any other holder. Raises OSError where the file system has no locks.

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
    """Take a shared lock, for a process that uses the file without changing it. Raises OSError as `lock` does."""
    fcntl.flock(fd, fcntl.LOCK_SH)


def open_locked(path: Path) -> int:
    """Open and lock a lock file, creating it if needed. Repeat if another process unlinked it in between.

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
    """Return whether a living process holds the file's lock; false for a file that is missing or cannot be opened.

    The check takes a shared lock, so that two checks do not mistake each other for a holder.
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
