"""Registry of this user's running jobs on this host, independent of the current folder.

    /tmp/mvpnet-jobs-UID/     0700; MVPNET_REGISTRY in the environment names another
        NAME.PID.lock         locked (flock) by rank 0 while it lives
        NAME.PID/             0700, gone when the job ends
            entry.json        describes the job; has its phase while rank 0 does not answer: preparing, ending
            control.sock      rank 0 listens here, from the start; it answers while its guests run

It is not below TMPDIR, which batch systems set to another folder in each job. A lock that nobody holds belongs to a
job that died; the verb that finds it removes what the job left on this host.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mvpnet import __version__
from mvpnet.control.protocol import PROTOCOL
from mvpnet.errors import HostError
from mvpnet.paths import registry_base
from mvpnet.runtime.scratch import remove_stale, scratch_folder
from mvpnet.util.files import write_whole
from mvpnet.util.locks import is_locked
from mvpnet.util.text import Say

PREPARING, ANSWERING, ENDING = "preparing", "answering", "ending"
_KEY = "MVPNET_REGISTRY"
_CONNECT_S = 10.0


@dataclass
class RegistryEntry:
    """Description of one job in the registry. Times are in seconds since 1970."""

    name: str
    pid: int  # of rank 0; the job's id
    world_size: int
    run_dir: str
    scratch_dir: str  # the folder of this user's scratch folders
    sweep_number: int | None = None  # number of the job in its sweep
    host: str = field(default_factory=socket.gethostname)
    started_s: float = field(default_factory=time.time)
    phase: str = PREPARING
    protocol: int = PROTOCOL
    version: str = __version__
    python: str = sys.executable

    @property
    def age_s(self) -> float:
        return max(0.0, time.time() - self.started_s)

    @property
    def title(self) -> str:
        """`NAME (id 123)`."""
        return f"{self.name} (id {self.pid})"


class Registration:
    """A job's own entry in the registry, with its control socket."""

    def __init__(self, folder: Path, entry: RegistryEntry) -> None:
        self.entry = entry
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._folder = folder
        self._write()
        with _short(folder) as path:
            self.socket.bind(path)
        (folder / "control.sock").chmod(0o600)
        self.socket.listen(128)
        self.socket.setblocking(False)

    def enter(self, phase: str) -> None:
        """Write the job's phase into its entry."""
        self.entry.phase = phase
        with contextlib.suppress(OSError):  # a full disk or a removed folder must not end the job
            self._write()

    def close(self) -> None:
        self.socket.close()

    def _write(self) -> None:
        write_whole(self._folder / "entry.json", json.dumps(asdict(self.entry)) + "\n")


@contextlib.contextmanager
def register_job(entry: RegistryEntry, say: Say) -> Iterator[Registration | None]:
    """Register a job while inside the context.

    Yields:
        The registration; None, after a warning to `say`, for a job that could not be registered.
    """
    with contextlib.ExitStack() as stack:
        registration: Registration | None = None
        try:
            place = stack.enter_context(scratch_folder(registry_base(), f"{entry.name}.{entry.pid}", say, _KEY))
            registration = Registration(place.folder, entry)
            stack.callback(registration.close)
        except (HostError, OSError) as error:
            say(f"warning: mvpnet ls and the like will not find this job: {error}")
        yield registration


@dataclass(frozen=True)
class JobHandle:
    """A job found in the registry, alive or dead, with its folder."""

    folder: Path
    entry: RegistryEntry
    alive: bool

    def connect(self) -> socket.socket:
        """Connect to the job's rank 0.

        Raises:
            OSError: Rank 0 does not accept the connection.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_CONNECT_S)  # a full backlog refuses a connection immediately
        try:
            with _short(self.folder) as path:
                connection.connect(path)
        except OSError:
            connection.close()
            raise
        return connection

    def ended(self) -> bool:
        """Whether the job ended or died; nothing is removed."""
        return not self.folder.is_dir() or not is_locked(self.folder.with_name(f"{self.folder.name}.lock"))

    def seen_s(self) -> float:
        """Time when a dead job last wrote a file: a log, counters, its entry."""
        files = [self.folder / "entry.json", *Path(self.entry.run_dir).glob("rank-0000/*")]
        times = []
        for file in files:
            with contextlib.suppress(OSError):
                times.append(file.stat().st_mtime)
        return max(times, default=self.entry.started_s)


def find_jobs() -> list[JobHandle]:
    """Return all jobs in the registry, including dead ones, the oldest first.

    Raises:
        HostError: The registry is not a folder of this user.
    """
    base = registry_base()
    with contextlib.suppress(FileNotFoundError):
        if base.lstat().st_uid != os.getuid() or base.is_symlink():
            raise HostError(f"{_KEY}: {base} is not a folder of your own", hint=f"set {_KEY} to a folder of yours")
    found = []
    for lock in base.glob("*.lock"):
        folder = lock.with_suffix("")
        alive = is_locked(lock)
        if entry := _read(folder):
            found.append(JobHandle(folder, entry, alive))
    return sorted(found, key=lambda job: job.entry.started_s)


def remove_dead_job(job: JobHandle) -> list[str]:
    """Remove a dead job's leftovers on this host and its entry; return a line for each removed thing."""
    removed: list[str] = []
    scratch, registry = Path(job.entry.scratch_dir), registry_base()
    remove_stale(scratch, removed.append)
    remove_stale(registry, lambda line: None, f"{job.folder.name}.lock")
    for base in (scratch, registry):
        with contextlib.suppress(OSError):
            base.rmdir()  # succeeds only when no other job is left in it
    return removed


def stopping_guests(job: JobHandle) -> int:
    """Count a dead job's guests on this host that are still being stopped: their monwraps hold locks."""
    return sum(map(is_locked, Path(job.entry.scratch_dir).glob(f"{job.entry.name}.*.lock")))


def sweep_number(run_dir: Path) -> int | None:
    """Return the job's number in its sweep; None outside a sweep.

    A sweep's results stand beside the run folders of its jobs, which are named by number.
    """
    in_sweep = run_dir.name.isdigit() and (run_dir.parent / "results.json").is_file()
    return int(run_dir.name) if in_sweep else None


def _read(folder: Path) -> RegistryEntry | None:
    """Return the entry in a folder; None where there is none yet.

    Unknown keys are ignored, because another version may have written the entry.
    """
    try:
        found: dict[str, Any] = json.loads((folder / "entry.json").read_bytes())
        return RegistryEntry(
            **{key: value for key, value in found.items() if key in RegistryEntry.__dataclass_fields__}
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return None


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Yield a path to the folder that is short enough for a socket's 107 bytes (unix(7))."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/control.sock"
    finally:
        os.close(fd)
