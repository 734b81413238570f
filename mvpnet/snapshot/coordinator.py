"""Coordination of a save on rank 0: one step after the other on all ranks, all of them undone when one fails.

All guests are stopped before the first guest's memory is written, so that none sends while another is saved. They
continue when everything is on disk. After a failure on any rank all guests continue, and the save is removed.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mvpnet import __version__
from mvpnet.control.protocol import Message
from mvpnet.control.rank_messages import SaveRequest
from mvpnet.control.server import Server
from mvpnet.dataplane.address import host_name
from mvpnet.errors import GuestError
from mvpnet.snapshot.layout import FORMAT, Save, SaveFolder, as_text, is_save
from mvpnet.util.files import write_private
from mvpnet.util.text import and_more

STEP_S: Final = 60.0  # limit for an answer: qemu flushes its disks before it reports that a guest is stopped
_PAUSE_S: Final = 0.25
_TELL_EVERY_S: Final = 2.0
_MB: Final = 10**6

Wanted = SaveRequest | float  # a request to all ranks, or a pause in seconds
Course = Generator[Wanted, list[Message], Any]


@dataclass(frozen=True)
class Content:
    """Rank 0's content of a save, beside the ranks' parts."""

    job: str
    hosts: list[str]
    image: str
    spec: dict[str, Any]
    manifest: Path
    public_key: str
    private_key: str
    stands_on: dict[str, str]


class NoSaveError(GuestError):
    """The job could not be saved."""


class SnapshotCoordinator:
    """Coordinates the saves of a job, one at a time.

    Args:
        server: The control server, which sends requests to the ranks.
        content: Returns rank 0's content of a save.
        phase: Returns the job's phase.
    """

    def __init__(self, server: Server, content: Callable[[], Content], phase: Callable[[], str]) -> None:
        self._server = server
        self._content = content
        self._phase = phase
        self._course: Course | None = None
        self._turn = 0
        self._no_way_back = False  # everything is saved, or is being undone
        self._send: Callable[[Message], None] = lambda message: None
        self._part: Path | None = None
        self._told_s = 0.0
        self._frozen_s = 0.0

    def begin(self, request: Message, send: Callable[[Message], None]) -> Callable[[], None]:
        """Begin a save.

        Args:
            request: The client's request.
            send: Called with {"progress": …} messages, and finally with {"ok": …} or {"error": …}.

        Returns:
            A function that cancels the save.

        Raises:
            KeyError, TypeError, ValueError: The request is malformed.
        """
        folder = Path(request["folder"])
        if not folder.is_absolute():
            raise ValueError(f"{folder} is no absolute path")
        if self._course:
            send(_error("a save is being made already"))
            return lambda: None
        self._send = send
        self._no_way_back = False
        self._told_s = time.monotonic()
        self._course = course = self._save(folder)
        self._go_on(None)
        # not immediately: the client's end may be noticed while a message is sent to it
        gone = "who asked for it is gone"
        return lambda: self._later(lambda: self.give_up(gone, course))

    def _later(self, callback: Callable[[], None]) -> None:
        self._server.loop.call_later(0.0, callback)

    def give_up(self, why: str, course: Course | None = None) -> None:
        """Cancel the save that is being made, if any; with `course`, only if it is that one."""
        if self._course and course in (None, self._course) and not self._no_way_back:
            self._go_on(NoSaveError(why))

    def close(self) -> None:
        """Remove an unfinished save at the end of the job."""
        self._course = None
        self._remove_part()

    def _go_on(self, what: list[Message] | Exception | None) -> None:
        """Run the course up to its next request to the ranks, its next pause, or its end."""
        assert self._course
        try:
            if isinstance(what, Exception):
                wanted = self._course.throw(what)
            elif what is None:
                wanted = next(self._course)
            else:
                wanted = self._course.send(what)
        except StopIteration:
            self._course = None
            return
        self._turn += 1
        turn = self._turn

        def got(answers: list[Message]) -> None:
            if turn == self._turn and self._course:  # else it was cancelled meanwhile
                self._go_on(answers)

        if isinstance(wanted, float):
            self._server.loop.call_later(wanted, lambda: got([]))
        else:
            self._server.ask_all(wanted, got, STEP_S)

    # -- the course ----------------------------------------------------------------------------------------------------

    def _save(self, folder: Path) -> Course:
        number = secrets.token_hex(6)
        part = folder.with_name(f".{folder.name}.{number}.part")
        work = SaveRequest("", number, str(part), str(folder))
        try:
            save = yield from self._made(work, SaveFolder(part), folder)
        except (NoSaveError, OSError) as error:
            yield from self._undo(work, folder, error)
        else:
            self._part = None
            self._send({"ok": {"folder": str(folder), "size_bytes": save.size_bytes, "seconds": self._frozen_s}})

    def _made(self, work: SaveRequest, part: SaveFolder, folder: Path) -> Generator[Wanted, list[Message], Save]:
        if self._phase() != "running":
            raise NoSaveError(f"the job is {self._phase()}; it can be saved while all its guests run")
        content = self._content()
        if folder.exists():
            raise NoSaveError(f"{folder}: is there already; name another, or mvpnet saves rm {folder.name}")
        self._part = part.root
        part.root.mkdir(0o700)
        write_private(part.public_key, content.public_key)
        write_private(part.private_key, content.private_key)
        write_private(part.manifest, content.manifest.read_text())
        check_space((yield from self._all("check", work)))
        began_s = time.monotonic()
        yield from self._all("freeze", work)
        yield from self._all("write", work)
        told = yield from self._all("how", work)
        while not all(one["done"] for one in told):
            self._tell(told)
            yield _PAUSE_S
            told = yield from self._all("how", work)
        save = self._described(content, work.id, told)
        write_private(part.save_json, as_text(save))
        yield from self._all("thaw", work)
        self._frozen_s = time.monotonic() - began_s
        self._no_way_back = True
        yield from self._all("keep", work)
        return save

    def _all(self, step: str, work: SaveRequest) -> Generator[Wanted, list[Message], list[Any]]:
        """Request a step from all ranks and return their answers.

        Raises:
            NoSaveError: A rank failed.
        """
        answers = yield replace(work, step=step)
        problems = {rank: one["error"]["message"] for rank, one in enumerate(answers) if "error" in one}
        if problems:
            raise NoSaveError(_told_together(problems))
        return [one["ok"] for one in answers]

    def _undo(self, work: SaveRequest, folder: Path, error: Exception) -> Generator[Wanted, list[Message], None]:
        self._no_way_back = True
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        if self._part:
            answers = yield replace(work, step="drop")
            still = {rank: one["error"]["message"] for rank, one in enumerate(answers) if "error" in one}
            if still and self._phase() == "running":
                why += f"\nand not all guests go on: {_told_together(still)}"
        self._remove_part()
        if is_save(SaveFolder(folder), work.id):
            shutil.rmtree(folder, ignore_errors=True)
        self._send(_error(why))

    def _remove_part(self) -> None:
        part, self._part = self._part, None
        if part:
            shutil.rmtree(part, ignore_errors=True)

    def _described(self, content: Content, number: str, told: list[Any]) -> Save:
        return Save(
            format=FORMAT,
            id=number,
            job=content.job,
            saved_s=round(time.time(), 3),
            mvpnet=__version__,
            hosts=content.hosts,
            size_bytes=sum(one["size_bytes"] for one in told),
            image=content.image,
            spec=content.spec,
            stands_on=content.stands_on,
        )

    def _tell(self, told: list[Any]) -> None:
        """Send a progress line about unfinished ranks, at most one every few seconds."""
        if time.monotonic() - self._told_s < _TELL_EVERY_S:
            return
        self._told_s = time.monotonic()
        late = [(rank, one) for rank, one in enumerate(told) if not one["done"]]
        rank, one = late[0]
        more = and_more(len(late) - 1, before=", ")
        done = "disks" if one["disks"] else f"{one['bytes'] // _MB} MB of {one['of_bytes'] // _MB} MB of memory"
        self._send({"progress": f"saving {host_name(rank)}: {done}{more}"})


def check_space(told: list[Mapping[str, Any]]) -> None:
    """Check that each file system has room for all ranks that share it.

    Raises:
        NoSaveError: A file system has too little room.
    """
    for place in {one["place"] for one in told}:
        there = [one for one in told if one["place"] == place]
        needs, free = sum(one["needs_bytes"] for one in there), min(one["free_bytes"] for one in there)
        if needs > free:
            where = f" on {place}" if place else ""
            raise NoSaveError(
                f"not enough room{where}: {needs // _MB} MB are needed at most, {free // _MB} MB are free; "
                "set MVPNET_SAVES, or save to an absolute path with more"
            )


def _told_together(problems: Mapping[int, str]) -> str:
    rank, first = next(iter(problems.items()))
    more = and_more(len(problems) - 1, before=" (", after=")")
    return f"{host_name(rank)}{more}: {first}"


def _error(message: str) -> Message:
    return {"error": {"kind": "guest", "message": message}}
