"""One rank's part in a save: stop the guest, have memory and disks written, and let the guest continue.

Rank 0's `coordinator` requests one step after the other, from all ranks at once:

    check → freeze → write → how, repeatedly → thaw → keep        and drop, when a step failed on any rank

Everything runs in callbacks of the rank's loop, and none of them blocks.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from mvpnet.control.interfaces import QmpGuest, Reply
from mvpnet.control.protocol import Message
from mvpnet.control.rank_messages import SaveRequest
from mvpnet.errors import MvpnetError
from mvpnet.guest.drives import DrivePlan
from mvpnet.guest.states import GuestState
from mvpnet.runtime.loop import Loop
from mvpnet.snapshot.disk_copy import DiskCopy
from mvpnet.snapshot.layout import RankFolder, RankPart, SaveFolder, as_text, read_part
from mvpnet.snapshot.machine import saved_disks, why_not
from mvpnet.util.files import size_on_disk, write_private

LOOK_S: Final = 0.1
AT_FULL_SPEED: Final = 2**40  # bytes per second: no limit, because all guests are stopped meanwhile
_UNDER_WAY: Final = ("setup", "active", "device", "pre-switchover", "wait-unplug", "cancelling")

Answer = Callable[[Message], None]


class Machine(QmpGuest, Protocol):
    """A guest that can be saved: supervisor.Guest."""

    state: GuestState

    @property
    def qemu_pid(self) -> int | None: ...
    @property
    def qemu_version(self) -> str | None: ...
    def save_memory(self, path: Path, on_reply: Callable[[Reply], None]) -> None: ...


@dataclass(frozen=True)
class SnapshotFacts:
    """Facts about a rank's guest that a save needs; they go into rank.json."""

    rank: int
    accel: str
    cpu_flags: list[str]
    machine: list[str]
    drives: Sequence[DrivePlan]
    extra_args: Sequence[str]
    seed: Path | None  # made by mvpnet
    seeds: Sequence[str]  # keys of the drives with cloud-init seeds

    def part(self, save: str, qemu_version: str, folder: Path) -> RankPart:
        """Return the content of rank.json, with the sizes of the files in the rank's folder."""
        return RankPart(
            save=save,
            rank=self.rank,
            qemu_version=qemu_version,
            accel=self.accel,
            cpu_flags=self.cpu_flags,
            machine=self.machine,
            disks={str(number): plan.format or "" for number, plan in saved_disks(self.drives).items()},
            sizes={path.name: path.stat().st_size for path in folder.iterdir()},
        )

    def disk_bytes(self) -> int:
        """Return the space on the host that the saved disks take."""
        disks = [plan.target for plan in saved_disks(self.drives).values()]
        return sum(size_on_disk(path) for path in disks if path)

    def files(self, to: RankFolder) -> list[tuple[Path | None, Path]]:
        """Return the files to copy into the rank's folder of a save, as pairs of source and target."""
        disks = [(plan.target, to.disk(number)) for number, plan in saved_disks(self.drives).items()]
        return [*disks, (self.seed, to.seed)] if self.seed else [*disks]


class _Work:
    """State of one save that is being made."""

    def __init__(self, request: SaveRequest, rank: int) -> None:
        self.id = request.id
        self.part = Path(request.part)  # the folder while the save is made
        self.folder = Path(request.folder)  # its final name
        self.own: RankFolder = SaveFolder(self.part).rank(rank)
        self.frozen = False
        self.begins = False  # qemu was told to write its memory and has not answered
        self.once_begun: list[Callable[[], None]] = []
        self.migrates = False
        self.copying: DiskCopy | None = None
        self.done = False
        self.problem: str | None = None
        self.bytes = self.of_bytes = 0
        self.size_bytes = 0  # on disk


class SnapshotAgent:
    """Executes the steps of saves on one rank.

    Args:
        loop: The rank's event loop.
        machine: Returns the current guest. It is called for each step, because a guest may be restarted.
        facts: Facts about the guest.
    """

    def __init__(self, loop: Loop, machine: Callable[[], Machine], facts: SnapshotFacts) -> None:
        self._loop = loop
        self._machine = machine
        self._facts = facts
        self._work: _Work | None = None

    def hear(self, request: SaveRequest, answer: Answer) -> None:
        """Execute a step that rank 0 requests; `answer` gets {"ok": …} or {"error": {"message": …}}."""
        try:
            if request.step == "check":
                self._check(request, answer)
            elif self._work is None or self._work.id != request.id:
                answer({"ok": None} if request.step == "drop" else _error("this rank knows of no such save"))
            else:
                self._step(request.step, self._work, answer)
        except (OSError, MvpnetError) as error:
            answer(_error(str(error)))

    def give_up(self) -> None:
        """Cancel a save because the job stops: remove it, and let the guest continue so that it can shut down."""
        if self._work:
            self._drop(self._work, lambda told: None)

    def close(self) -> None:
        """Remove an unfinished save after the guest has ended."""
        if self._work:
            self._remove(self._work)

    def _step(self, step: str, work: _Work, answer: Answer) -> None:
        match step:
            case "freeze":
                work.frozen = True
                self._machine().qmp({"execute": "stop"}, lambda reply: answer(_outcome(reply)))
            case "write":
                self._write(work, answer)
            case "how":
                answer(_error(work.problem) if work.problem else {"ok": self._how(work)})
            case "thaw":
                self._thaw(work, answer)
            case "keep":
                self._keep(work, answer)
            case "drop":
                self._drop(work, answer)

    # -- check ---------------------------------------------------------------------------------------------------------

    def _check(self, request: SaveRequest, answer: Answer) -> None:
        if self._work:
            self._remove(self._work)  # left by a coordinator that stopped asking
        facts, guest = self._facts, self._machine()
        if problem := why_not(facts.drives, facts.seeds, facts.extra_args):
            answer(_error(problem))
            return
        if guest.state is not GuestState.running:
            answer(_error(f"the guest is {guest.state.value}; only a job whose guests all run can be saved"))
            return
        guest.qmp({"execute": "query-status"}, lambda reply: self._checked(request, reply, answer))

    def _checked(self, request: SaveRequest, reply: Reply, answer: Answer) -> None:
        status = reply.get("return", {}).get("status")
        if status != "running":
            why = reply["error"]["desc"] if "error" in reply else f"qemu says it is {status}"
            answer(_error(f"the guest does not run: {why}"))
            return
        work = _Work(request, self._facts.rank)
        try:
            # rank 0 made the folder and the keys in it: a rank that sees them shares its file system
            place = "" if SaveFolder(work.part).private_key.exists() else socket.gethostname()
            work.part.mkdir(0o700, parents=True, exist_ok=True)
            work.own.root.mkdir(0o700)
            needs_bytes = resident_bytes(self._machine().qemu_pid) + self._facts.disk_bytes()
            free_bytes = shutil.disk_usage(work.part).free
        except OSError as error:
            answer(_error(f"{error.filename}: {error.strerror}"))
            return
        self._work = work
        answer({"ok": {"place": place, "needs_bytes": needs_bytes, "free_bytes": free_bytes}})

    # -- write ---------------------------------------------------------------------------------------------------------

    def _write(self, work: _Work, answer: Answer) -> None:
        def begun(reply: Reply) -> None:
            work.begins, work.migrates = False, "error" not in reply
            answer(_outcome(reply))
            if work.migrates:
                self._look_at_memory(work)
            for what in work.once_begun:
                what()

        work.begins = True
        speed = {"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": AT_FULL_SPEED}}
        self._machine().qmp(speed, lambda reply: None)
        self._machine().save_memory(work.own.memory, begun)

    def _look_at_memory(self, work: _Work) -> None:
        if work is self._work and work.migrates:
            self._machine().qmp({"execute": "query-migrate"}, lambda reply: self._memory(work, reply))

    def _memory(self, work: _Work, reply: Reply) -> None:
        told = reply.get("return", {})
        status = told.get("status", "failed")
        if ram := told.get("ram"):
            work.bytes, work.of_bytes = ram["transferred"], ram["transferred"] + ram["remaining"]
        if status in _UNDER_WAY:
            self._loop.call_later(LOOK_S, lambda: self._look_at_memory(work))
            return
        work.migrates = False
        if status == "completed" and work is self._work:
            self._copy_disks(work)
        else:
            why = reply["error"]["desc"] if "error" in reply else told.get("error-desc", status)
            work.problem = f"the memory could not be saved: {why}"

    def _copy_disks(self, work: _Work) -> None:
        files = self._facts.files(work.own)
        try:
            work.copying = DiskCopy(self._loop, work.own.root, files, lambda problem: self._copied(work, problem))
        except OSError as error:
            work.problem = f"the disks could not be copied: {error}"

    def _copied(self, work: _Work, problem: str | None) -> None:
        if problem is None:
            self._describe(work)
        else:
            work.problem = f"the disks could not be copied: {problem}"
        work.copying = None

    def _describe(self, work: _Work) -> None:
        try:
            part = self._facts.part(work.id, self._machine().qemu_version or "", work.own.root)
            write_private(work.own.rank_json, as_text(part))
        except OSError as error:
            work.problem = f"{error.filename}: {error.strerror}"
            return
        work.size_bytes = size_on_disk(work.own.root)
        work.done = True

    def _how(self, work: _Work) -> dict[str, Any]:
        memory = {"bytes": work.bytes, "of_bytes": work.of_bytes}
        return {"done": work.done, "disks": work.copying is not None, "size_bytes": work.size_bytes, **memory}

    # -- the end -------------------------------------------------------------------------------------------------------

    def _thaw(self, work: _Work, answer: Answer) -> None:
        def went_on(reply: Reply) -> None:
            work.frozen = "error" in reply
            answer(_outcome(reply))

        if work.frozen:
            self._machine().qmp({"execute": "cont"}, went_on)
        else:
            answer({"ok": None})

    def _keep(self, work: _Work, answer: Answer) -> None:
        """Rename the folder to its final name; of ranks that share it, the first one does so for all."""
        with suppress(FileNotFoundError):
            if work.folder.exists() and work.part.exists():
                answer(_error(f"{work.folder}: is there already"))
                return
            work.part.rename(work.folder)
        read_part(SaveFolder(work.folder).rank(self._facts.rank), work.id)
        self._work = None
        answer({"ok": None})

    def _drop(self, work: _Work, answer: Answer) -> None:
        """Remove the unfinished save and let the guest continue, once qemu has stopped writing."""
        if work.begins:  # qemu stops the guest again at the end if it continues too early
            work.once_begun.append(lambda: self._drop(work, answer))
        elif work.migrates:
            self._machine().qmp({"execute": "migrate_cancel"}, lambda reply: self._drop_when_cancelled(work, answer))
        else:
            self._remove(work)
            self._thaw(work, answer)

    def _drop_when_cancelled(self, work: _Work, answer: Answer) -> None:
        def look(reply: Reply) -> None:
            if reply.get("return", {}).get("status", "failed") in _UNDER_WAY:
                self._loop.call_later(LOOK_S, lambda: self._drop_when_cancelled(work, answer))
                return
            work.migrates = False
            self._remove(work)
            self._thaw(work, answer)

        self._machine().qmp({"execute": "query-migrate"}, look)

    def _remove(self, work: _Work) -> None:
        if work.copying:
            work.copying.kill()
            work.copying = None
        if self._work is work:
            self._work = None
        shutil.rmtree(work.own.root, ignore_errors=True)
        with suppress(OSError):
            work.part.rmdir()  # succeeds only for the last rank, where rank 0's files are not in it


def resident_bytes(pid: int | None) -> int:
    """Return a process's size in memory and swap (proc(5), status); 0 if it cannot be read."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in lines)
    return sum(int(fields.get(name, "0").split()[0]) * 1024 for name in ("VmRSS", "VmSwap"))


def _outcome(reply: Reply) -> Message:
    return {"ok": None} if "error" not in reply else _error(reply["error"]["desc"])


def _error(text: str) -> Message:
    return {"error": {"message": text}}
