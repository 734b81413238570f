"""Manage a rank's scratch folder: private, on local disk, with sockets, overlays and keys, removed with the job.

A lock file beside each folder is held (flock) by the rank and by its monwrap. An unlocked lock file marks the rest of a
killed job; the next start removes it and says so. Sockets outside the folder are listed in the lock file, one path per
line, and removed with the rest.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mvpnet.errors import HostError
from mvpnet.util.locks import open_locked, try_lock

_TRIES = 50


@dataclass(frozen=True)
class Scratch:
    folder: Path
    lock: Path
    lock_fd: int

    def own_socket(self, path: Path) -> None:
        """Register a socket outside the folder, to be removed with it."""
        os.write(self.lock_fd, os.fsencode(path) + b"\n")


@contextlib.contextmanager
def scratch_folder(
    base: Path, name: str, say: Callable[[str], None], key: str = "job.scratch_dir"
) -> Iterator[Scratch]:
    """Provide a new private folder `base/name`.

    Args:
        base: Parent folder.
        name: Name of the folder.
        say: Called with a line of text about removed folders.
        key: Key of the configuration to name in errors.

    Raises:
        HostError: `base` is not private to this user, or cannot be written. Names the key.
    """
    try:
        lock_fd = _lock_in(base, name, say, key)
    except OSError as error:
        raise _no_scratch(base, error, key) from error
    scratch = Scratch(base / name, base / f"{name}.lock", lock_fd)
    try:
        try:
            scratch.folder.mkdir(mode=0o700)
        except OSError as error:
            raise _no_scratch(base, error, key) from error
        yield scratch
    finally:
        shutil.rmtree(scratch.folder, ignore_errors=True)
        _remove_sockets(lock_fd)
        scratch.lock.unlink(missing_ok=True)
        os.close(lock_fd)
        with contextlib.suppress(OSError):
            base.rmdir()  # if this was the last folder in it


def remove_stale(base: Path, say: Callable[[str], None], locks: str = "*.lock") -> None:
    """Remove the rests of this user's killed jobs in `base`, as far as the names of their lock files match `locks`."""
    for lock in sorted(base.glob(locks)):
        try:
            lock_fd = os.open(lock, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if try_lock(lock_fd):  # otherwise its job is alive
                _remove_leftovers(lock, lock_fd, say)
        finally:
            os.close(lock_fd)


def _remove_leftovers(lock: Path, lock_fd: int, say: Callable[[str], None]) -> None:
    """Remove the folder and sockets of a lock file that this process holds, and the lock file."""
    folder = lock.with_suffix("")
    if folder.exists():
        say(f"removing {folder}, left by a job that was killed")
    for path in _remove_sockets(lock_fd):
        say(f"removed the socket {path}, left by a job that was killed")
    shutil.rmtree(folder, ignore_errors=True)
    lock.unlink(missing_ok=True)


def _remove_sockets(lock_fd: int) -> list[Path]:
    """Unlink the sockets that a lock file lists; return those that existed and were ours.

    The file is read by descriptor, as another process may have unlinked it meanwhile.
    """
    removed = []
    for line in os.pread(lock_fd, os.fstat(lock_fd).st_size, 0).splitlines():
        path = Path(os.fsdecode(line))
        with contextlib.suppress(OSError):
            if path.is_socket() and path.lstat().st_uid == os.getuid():
                path.unlink()
                removed.append(path)
    return removed


def _lock_in(base: Path, name: str, say: Callable[[str], None], key: str) -> int:
    """Create `base` if needed, and lock a file in it, which keeps it from being removed as empty."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(FileNotFoundError, FileExistsError):  # another job has just removed the folder
            _private(base, key)
            remove_stale(base, say)
            return open_locked(base / f"{name}.lock")
    _private(base, key)
    return open_locked(base / f"{name}.lock")


def _private(base: Path, key: str) -> None:
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise HostError(f"{key}: {base} is not a folder of your own", hint=f"set {key} to a local disk of yours")
    if found.st_mode & 0o077:
        base.chmod(0o700)


def _no_scratch(base: Path, error: OSError, key: str) -> HostError:
    return HostError(
        f"{key}: cannot make a folder in {base}: {error.strerror}", hint=f"set {key} to a local disk of yours"
    )
