"""The phases of a step, each in all its guests at once: log in, send files, run, fetch files. None waits anywhere."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

from mvpnet.app import guest_shell
from mvpnet.app.guest_shell import SSH_FAILED
from mvpnet.app.limiter import Over
from mvpnet.app.output import BehindMark, OutputLog
from mvpnet.app.step_context import StepContext, place_name
from mvpnet.dataplane.address import host_name
from mvpnet.errors import AppError, HostError, MvpnetError
from mvpnet.runtime.processes import Program

TIMED_OUT = 124  # as timeout(1)
_RETRY_S = 1.0
_COPY_TRIES = 10
_NO_TURN = 1  # the exit code of a helper that was not started any more
_KEPT_WORDS_BYTES = 2000


class Phase(ABC):
    """Waits until each of `ranks` is done, None being the host, then calls `on_done`, once."""

    def __init__(self, context: StepContext, ranks: Sequence[int | None], on_done: Callable[[], None]) -> None:
        self._context = context
        self._loop = context.loop
        self._awaited = set(ranks)
        self._on_done = on_done
        self._late = False  # it has had its time
        self._stopping = False
        self._under_way: dict[int | None, Program] = {}

    @abstractmethod
    def start(self) -> None:
        """Begin with all ranks."""

    def stop(self) -> None:
        """End what runs, and begin no more. `on_done` follows where `start` was called."""
        self._stopping = True
        for program in self._under_way.values():
            program.stop()

    @abstractmethod
    def close(self) -> None:
        """Close the files that are open still."""

    @abstractmethod
    def _tell_late(self, names: str, limit_s: float) -> None:
        """Fail the step: these did not end in time."""

    def _limit(self, limit_s: float | None) -> None:
        """Give the phase so much time from now on."""
        if limit_s is not None:
            self._loop.call_later(limit_s, lambda: self._too_late(limit_s))

    def _too_late(self, limit_s: float) -> None:
        if not self._awaited:
            return
        self._late = True
        ranks = sorted(self._under_way, key=lambda rank: rank or 0)
        self._tell_late(", ".join(place_name(rank) for rank in ranks), limit_s)
        for program in list(self._under_way.values()):
            program.stop()

    def _leave(self, rank: int | None) -> None:
        program = self._under_way.pop(rank, None)
        if program and rank is not None:
            # what ssh leaves behind is nothing; a host's program is ended at the end
            self._context.programs.forget(program)

    def _ended(self, rank: int | None) -> None:
        """This one is done with the phase."""
        self._leave(rank)
        self._awaited.discard(rank)
        if not self._awaited:
            self._on_done()


# -- logging in and copying --------------------------------------------------------------------------------------------


class HelperPhase(Phase):
    """A phase of programs of ours, whose output is only of interest when they fail."""

    def __init__(self, context: StepContext, ranks: Sequence[int], on_done: Callable[[], None]) -> None:
        super().__init__(context, ranks, on_done)
        self._ranks = list(ranks)
        self._words: dict[int, bytes] = {}

    def close(self) -> None:
        pass  # none is

    def _start_helper(self, rank: int, argv: list[str], on_end: Callable[[int], None]) -> None:
        self._words[rank] = b""

        def heard(data: bytes) -> None:
            self._words[rank] = (self._words[rank] + data)[-_KEPT_WORDS_BYTES:]

        def begin(over: Over) -> None:
            def ended(code: int) -> None:
                over()
                on_end(code)

            if self._late or self._stopping:
                self._words[rank] = b"its turn did not come in time"
                self._loop.call_later(0.0, lambda: ended(_NO_TURN))
                return
            try:
                self._under_way[rank] = self._context.programs.start(argv, os.environ, heard, ended)
            except HostError as error:
                problem = str(error)
                self._loop.call_later(0.0, over)
                self._loop.call_later(0.0, lambda: self._failed(rank, "", problem))

        self._context.limiter.ask(begin)

    def _failed(self, rank: int, leaf: str, problem: str) -> None:
        self._context.fail(AppError.exit_code, leaf, f"{host_name(rank)}: {problem}")
        self._ended(rank)

    def _last_words(self, rank: int) -> str:
        lines = self._words.get(rank, b"").decode(errors="replace").split("\n")
        return "; ".join(line.strip() for line in lines if line.strip())


class LoginPhase(HelperPhase):
    """Waits until every guest lets us in."""

    def start(self) -> None:
        limit_s = self._context.step.login_timeout_s * self._context.rounds(self._ranks)
        self._limit(2 * limit_s)
        deadline_s = time.monotonic() + limit_s
        for rank in self._ranks:
            self._try(rank, deadline_s)

    def _tell_late(self, names: str, limit_s: float) -> None:
        problem = f"{names}: ssh hangs, and could not log in within {limit_s:g} s"
        self._context.fail(AppError.exit_code, "", problem)

    def _try(self, rank: int, deadline_s: float) -> None:
        if self._stopping:
            self._ended(rank)
            return
        who = self._context.step.user

        def ended(code: int) -> None:
            if code == 0:
                self._context.let_in.add((rank, who))
                self._ended(rank)
            elif self._stopping or self._late or time.monotonic() > deadline_s:
                user = f" as {who}" if who else ""
                self._failed(rank, "", f"cannot log in{user}: {self._last_words(rank) or f'ssh ended with {code}'}")
            else:
                self._leave(rank)
                self._loop.call_later(_RETRY_S, lambda: self._try(rank, deadline_s))

        self._start_helper(rank, [*self._context.ssh(rank), "true"], ended)


class CopyPhase(HelperPhase):
    """Sends or fetches files; again where ssh did not get through, as it does no harm."""

    leaf: str  # the key of the step that says what is copied

    @abstractmethod
    def _argv(self, rank: int) -> list[str]:
        """The program that copies the files of one guest."""

    def start(self) -> None:
        self._limit(self._context.step.copy_timeout_s * self._context.rounds(self._ranks))
        for rank in self._ranks:
            self._copy(rank, _COPY_TRIES)

    def _tell_late(self, names: str, limit_s: float) -> None:
        problem = f"{names}: not done after {limit_s:g} s; stopped"
        self._context.fail(AppError.exit_code, ".copy_timeout_s", problem)

    def _copy(self, rank: int, tries_left: int) -> None:
        def ended(code: int) -> None:
            if code == 0:
                self._ended(rank)
            elif code != SSH_FAILED or tries_left == 1 or self._late:
                self._failed(rank, self.leaf, self._last_words(rank) or f"the copying program ended with {code}")
            else:
                self._leave(rank)
                self._loop.call_later(_RETRY_S, lambda: self._copy(rank, tries_left - 1))

        self._start_helper(rank, self._argv(rank), ended)


class PushPhase(CopyPhase):
    """Sends the step's files into its guests."""

    leaf = ".push"

    def _argv(self, rank: int) -> list[str]:
        step = self._context.step
        return guest_shell.push_argv(step.push, step.executable, self._context.ssh(rank))


class FetchPhase(CopyPhase):
    """Fetches files from the guests. `stop` does not end it: it comes to its end, or to its time."""

    leaf = ".collect"

    def stop(self) -> None:
        pass

    def _argv(self, rank: int) -> list[str]:
        step, folder = self._context.step, self._context.run.collected(rank, self._context.step.name)
        return guest_shell.fetch_argv(folder, step.collect, self._context.ssh(rank))


# -- running -----------------------------------------------------------------------------------------------------------


class RunPhase(Phase):
    """Runs the step's own program."""

    def __init__(self, context: StepContext, ranks: Sequence[int | None], on_done: Callable[[], None]) -> None:
        super().__init__(context, ranks, on_done)
        self._outputs: dict[int | None, OutputLog] = {}

    def close(self) -> None:
        for output in self._outputs.values():
            output.close()

    def _tell_late(self, names: str, limit_s: float) -> None:
        self._context.fail(TIMED_OUT, ".timeout_s", f"{names}: not done after {limit_s:g} s; stopped")

    def _open_output(self, rank: int | None) -> OutputLog:
        """Raises HostError when the log cannot be written."""
        self._outputs[rank] = OutputLog(
            self._context.run.app_log(rank, self._context.step.name),
            show=self._context.step.show_output,
            prefix="" if rank is None else f"{host_name(rank)}: ",
            on_line=partial(self._take_line, rank),
        )
        return self._outputs[rank]

    def _take_line(self, rank: int | None, line: bytes) -> None:
        if problem := self._context.metrics.take_line(line, self._context.suffix(rank)):
            told = f"warning: {self._context.step.key}: {place_name(rank)} printed {problem}"
            self._context.result.problems.append(told)

    def _cannot_start(self, rank: int | None, error: MvpnetError) -> None:
        where = "" if rank is None else f"{host_name(rank)}: "
        self._context.fail(error.exit_code, ".command", f"{where}{error}")
        self._loop.call_later(0.0, lambda: self._ended(rank))

    def _program_ended(self, rank: int | None, code: int) -> None:
        self._outputs[rank].close()
        result = self._context.result
        if rank is not None:
            result.exit_codes[host_name(rank)] = code
            if likely := _likely_cause(code, self._context.step.argv):
                result.problems.append(f"{self._context.step.key}: {host_name(rank)}: {likely}")
        result.exit_code = result.exit_code or code
        self._ended(rank)


def _likely_cause(code: int, argv: Sequence[str]) -> str | None:
    """What an exit code stands for that is not the program's own, as far as it is known (POSIX, env(1); ssh(1))."""
    if code == SSH_FAILED:
        return "ssh lost the guest, or the program ended with 255"
    if code == guest_shell.NOT_FOUND:
        return (
            f"exit code {code}: {argv[0]}, or the interpreter that its first line (#!) names, is not there; "
            "or it ended so as a program that it runs is not"
        )
    if code == guest_shell.NOT_RUNNABLE:
        return f"exit code {code}: {argv[0]} cannot be run: it is no program for this guest, or its mode forbids it"
    return None


class HostRunPhase(RunPhase):
    """Runs the program on the host."""

    def __init__(self, context: StepContext, on_done: Callable[[], None]) -> None:
        super().__init__(context, [None], on_done)

    def start(self) -> None:
        self._limit(self._context.step.timeout_s)
        argv, environment = list(self._context.step.argv), self._context.environment(None)
        ended = partial(self._program_ended, None)
        try:
            output = self._open_output(None)
            programs = self._context.programs
            self._under_way[None] = programs.start(argv, environment, output.take, ended, guarded=True)
        except MvpnetError as error:
            self._cannot_start(None, error)


class GuestRunPhase(RunPhase):
    """Runs the program in each guest, by ssh."""

    def start(self) -> None:
        for rank in self._context.ranks:
            argv = guest_shell.run_command(self._context.step.argv, self._context.environment(rank))
            self._start_in(rank, [*self._context.ssh(rank), argv])
        self._context.limiter.ask(self._all_have_begun)

    def _all_have_begun(self, over: Over) -> None:
        over()
        self._limit(self._context.step.timeout_s)

    def _start_in(self, rank: int, argv: list[str]) -> None:
        try:
            output = self._open_output(rank)
        except MvpnetError as error:
            self._cannot_start(rank, error)
            return
        step = self._context.step
        deadline_s = time.monotonic() + step.login_timeout_s * self._context.rounds(self._context.ranks)
        self._start_over_ssh(rank, argv, output, deadline_s)

    def _start_over_ssh(self, rank: int, argv: list[str], output: OutputLog, deadline_s: float) -> None:
        """Where ssh did not get as far as to run it, try again: a busy server, or one not quite up, hangs up on some.

        Dropbear does so to a sixth who has not logged in yet; the boot probe's connections may count for a while. Its
        turn is over when the command is about to run.
        """
        behind = BehindMark(guest_shell.STARTED, output.take)

        def begin(over: Over) -> None:
            def heard(data: bytes) -> None:
                behind.take(data)
                if behind.seen:
                    over()

            def ended(code: int) -> None:
                over()
                if behind.seen or code != SSH_FAILED or self._stopping or time.monotonic() > deadline_s:
                    behind.let_go()
                    self._program_ended(rank, code)
                else:
                    self._leave(rank)
                    self._loop.call_later(_RETRY_S, lambda: self._start_over_ssh(rank, argv, output, deadline_s))

            if self._stopping or self._late:
                self._loop.call_later(0.0, lambda: ended(SSH_FAILED))
                return
            try:
                programs = self._context.programs
                self._under_way[rank] = programs.start(argv, os.environ, heard, ended, with_stdin=True)
            except HostError as error:
                self._loop.call_later(0.0, over)
                self._cannot_start(rank, error)

        self._context.limiter.ask(begin)
