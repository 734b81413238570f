"""Runs the app's steps, one after another, while the guests run: on rank 0, by its loop, without waiting anywhere.

A step in guests goes through phases, in each of them in all its guests at once: log in, send files, run, fetch files.
The first step that fails is the last; its files are fetched all the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from mvpnet.app import guest_shell
from mvpnet.app.limiter import CapacityLimiter, Over
from mvpnet.app.metrics import Metrics
from mvpnet.app.output import BehindMark, OutputLog
from mvpnet.dataplane.address import host_name
from mvpnet.errors import AppError, HostError, MvpnetError
from mvpnet.paths import RunFolder
from mvpnet.runtime.loop import Loop
from mvpnet.runtime.processes import Program, Programs
from mvpnet.spec.app_steps import Step
from mvpnet.spec.schema import AppKind

TIMED_OUT = 124  # as timeout(1)
_RETRY_S = 1.0
_COPY_TRIES = 10
_SSH_FAILED = 255  # ssh(1)
_NO_TURN = 1  # the exit code of a helper that was not started any more
_KEPT_WORDS_BYTES = 2000

Login = tuple[int, str | None]  # a guest, and who goes in


@dataclass
class StepResult:
    """What became of a step: its exit code, and that of each guest. A step that did not begin has none."""

    name: str
    kind: str
    exit_code: int | None = None
    exit_codes: dict[str, int] = field(default_factory=dict)  # by guest
    seconds: float | None = None
    problems: list[str] = field(default_factory=list)

    def fail(self, code: int, problem: str) -> None:
        """The first code that is not 0 is the step's."""
        self.exit_code = self.exit_code or code
        self.problems.append(problem)


class AppRun:
    """One run of the app. `on_end` is called once with its exit code and how it ended, in words.

    `environment(None)` is that of programs on the host, `environment(rank)` what is added in a guest.
    """

    def __init__(
        self,
        loop: Loop,
        steps: list[Step],
        run: RunFolder,
        world_size: int,
        *,
        environment: Callable[[int | None], Mapping[str, str]],
        say: Callable[[str], None],
        on_end: Callable[[int, str], None],
    ) -> None:
        self.results = [StepResult(step.name or "app", step.kind.value) for step in steps]
        self.metrics = Metrics()
        self.running = False
        self._loop = loop
        self._steps = steps
        self._run = run
        self._world_size = world_size
        self._environment = environment
        self._say = say
        self._on_end = on_end
        self._programs = Programs(loop)
        self._current: _StepRun | None = None
        self._let_in: set[Login] = set()
        self._stopping = False

    def start(self) -> None:
        self.running = True
        self._begin(0)

    def stop(self) -> None:
        """Ask what runs to end, fetch what there is to fetch, and begin no other step. `on_end` follows."""
        self._stopping = True
        if self._current:
            self._current.stop()

    def close(self) -> None:
        """Leave nothing running, whatever happened."""
        if self._current:
            self._current.close()
        self._programs.close()

    def _begin(self, number: int) -> None:
        step, result = self._steps[number], self.results[number]
        if step.name:
            self._say(f"step {step.name} ({number + 1} of {len(self._steps)}): {self._what(step)}")
        else:
            self._say(f"running {self._what(step)}")
        self._current = _StepRun(
            self._loop,
            self._programs,
            step,
            result,
            self._run,
            step.ranks(self._world_size),
            environment=self._environment,
            metrics=self.metrics,
            let_in=self._let_in,
            on_end=lambda: self._ended(number),
        )
        self._current.start()

    def _what(self, step: Step) -> str:
        ranks = step.ranks(self._world_size)
        where = "" if not ranks else f" in {host_name(ranks[0])}" if len(ranks) == 1 else f" in {len(ranks)} guests"
        return (step.argv[0] if step.argv else "copying files") + where

    def _ended(self, number: int) -> None:
        result, last = self.results[number], number + 1 == len(self._steps)
        for problem in result.problems:
            self._say(problem)
        if result.exit_code or last or self._stopping:
            self._over(number)
        else:
            self._begin(number + 1)

    def _over(self, number: int) -> None:
        step, result = self._steps[number], self.results[number]
        code = result.exit_code or 0
        try:
            self._take_host_metrics()
        except AppError as error:
            self._say(str(error))
            result.fail(error.exit_code, str(error))
            code = code or error.exit_code
        self.running = False
        self._on_end(code, _in_words(step, result, code))

    def _take_host_metrics(self) -> None:
        """What a program on the host left for us in the run folder."""
        if self._run.metrics_json.exists():
            self.metrics.take_file(self._run.metrics_json)


def _in_words(step: Step, result: StepResult, code: int) -> str:
    """`the app ended with exit code 0`; where it helps, which step, in which guest, and why."""
    failed = next((name for name, one in result.exit_codes.items() if one == code), None) if code else None
    where = f" in {failed}" if failed else ""
    errors = [problem for problem in result.problems if not problem.startswith("warning: ")]
    own = failed and code != _SSH_FAILED  # the program's own code needs no other reason
    why = f": {errors[0]}" if code and errors and not own else ""
    what = f"step {step.name}" if step.name and code else "the app"
    return f"{what} ended with exit code {code}{where}{why}"


class _StepRun:
    """One step under way."""

    def __init__(
        self,
        loop: Loop,
        programs: Programs,
        step: Step,
        result: StepResult,
        run: RunFolder,
        ranks: list[int],
        *,
        environment: Callable[[int | None], Mapping[str, str]],
        metrics: Metrics,
        let_in: set[Login],
        on_end: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._programs = programs
        self._step = step
        self._result = result
        self._run = run
        self._ranks = ranks
        self._environment = environment
        self._metrics = metrics
        self._let_in = let_in
        self._on_end = on_end
        self._turns = CapacityLimiter(step.max_parallel_ssh)
        self._phase = "login"
        self._late = False  # the phase has had its time
        self._stopping = False
        self._under_way: dict[int | None, Program] = {}  # None: the host's
        self._awaited: set[int | None] = set()
        self._outputs: dict[int | None, OutputLog] = {}
        self._words: dict[int | None, bytes] = {}  # what a copying program said
        self._then: Callable[[], None] = self._end

    def start(self) -> None:
        self._began_s = time.monotonic()
        if self._step.kind is AppKind.host:
            self._on_host()
        else:
            self._log_in()

    def stop(self) -> None:
        """End the program; files that are being fetched come to their end, or to their time."""
        self._stopping = True
        if self._phase != "fetch":
            for program in self._under_way.values():
                program.stop()

    def close(self) -> None:
        for output in self._outputs.values():
            output.close()

    # -- the phases ------------------------------------------------------------------------------------------------

    def _on_host(self) -> None:
        self._enter("run", [None], self._end, self._step.timeout_s)
        self._start_program(None, list(self._step.argv), self._environment(None))

    def _log_in(self) -> None:
        """Wait until every guest lets us in, where none did before."""
        new = [rank for rank in self._ranks if (rank, self._step.user) not in self._let_in]
        if not new:
            self._push()
            return
        limit_s = self._step.login_timeout_s * self._rounds(new)
        self._enter("login", new, self._push, 2 * limit_s)
        deadline_s = time.monotonic() + limit_s
        for rank in new:
            self._try_login(rank, deadline_s)

    def _try_login(self, rank: int, deadline_s: float) -> None:
        if self._stopping:
            self._ended(rank)
            return

        def ended(code: int) -> None:
            if code == 0:
                self._let_in.add((rank, self._step.user))
                self._ended(rank)
            elif self._stopping or self._late or time.monotonic() > deadline_s:
                user = f" as {self._step.user}" if self._step.user else ""
                self._failed(rank, "", f"cannot log in{user}: {self._last_words(rank) or f'ssh ended with {code}'}")
            else:
                self._leave(rank)
                self._loop.call_later(_RETRY_S, lambda: self._try_login(rank, deadline_s))

        self._start_helper(rank, [*self._ssh(rank), "true"], ended)

    def _push(self) -> None:
        if not self._step.push:
            self._run_in_guests()
            return
        limit_s = self._step.copy_timeout_s * self._rounds(self._ranks)
        self._enter("push", self._ranks, self._run_in_guests, limit_s)
        for rank in self._ranks:
            argv = guest_shell.push_argv(self._step.push, self._step.executable, self._ssh(rank))
            self._copy(rank, ".push", argv)

    def _run_in_guests(self) -> None:
        if not self._step.argv:
            self._fetch()
            return
        self._enter("run", self._ranks, self._fetch, None)
        for rank in self._ranks:
            command = guest_shell.run_command(self._step.argv, self._environment(rank))
            self._start_program(rank, [*self._ssh(rank), command], os.environ)
        self._turns.ask(self._all_have_begun)

    def _all_have_begun(self, over: Over) -> None:
        over()
        self._limit("run", self._step.timeout_s)

    def _fetch(self) -> None:
        if not self._step.collect:
            self._end()
            return
        limit_s = self._step.copy_timeout_s * self._rounds(self._ranks)
        self._enter("fetch", self._ranks, self._take_guest_metrics, limit_s)
        for rank in self._ranks:
            folder = self._run.collected(rank, self._step.name)
            argv = guest_shell.fetch_argv(folder, self._step.collect, self._ssh(rank))
            self._copy(rank, ".collect", argv)

    def _take_guest_metrics(self) -> None:
        for rank in self._ranks:
            path = self._run.collected(rank, self._step.name) / "metrics.json"
            if path.is_file() and not path.is_symlink():
                try:
                    self._metrics.take_file(path, self._suffix(rank))
                except AppError as error:
                    self._fail(error.exit_code, ".collect", str(error))
        self._end()

    def _end(self) -> None:
        self._phase = "over"
        self.close()
        self._result.exit_code = self._result.exit_code or 0
        self._result.seconds = round(time.monotonic() - self._began_s, 3)
        self._on_end()

    # -- one phase ---------------------------------------------------------------------------------------------------

    def _enter(
        self, phase: str, ranks: list[int] | list[None], then: Callable[[], None], limit_s: float | None
    ) -> None:
        """Wait for these; then do `then`, or end where it makes no sense any more."""
        self._phase, self._then, self._late = phase, then, False
        self._awaited = set(ranks)
        self._words.clear()
        self._limit(phase, limit_s)

    def _limit(self, phase: str, limit_s: float | None) -> None:
        """From now on."""
        if limit_s is not None:
            self._loop.call_later(limit_s, lambda: self._too_late(phase, limit_s))

    def _rounds(self, ranks: list[int]) -> int:
        """How often all turns are taken until each of these has had one."""
        return -(-len(ranks) // self._turns.most)

    def _too_late(self, phase: str, limit_s: float) -> None:
        if phase != self._phase:
            return
        self._late = True
        names = ", ".join(_name(rank) for rank in sorted(self._under_way, key=lambda rank: rank or 0))
        if phase == "login":
            self._fail(AppError.exit_code, "", f"{names}: ssh hangs, and could not log in within {limit_s:g} s")
        elif phase == "run":
            self._fail(TIMED_OUT, ".timeout_s", f"{names}: not done after {limit_s:g} s; stopped")
        else:
            self._fail(AppError.exit_code, ".copy_timeout_s", f"{names}: not done after {limit_s:g} s; stopped")
        for program in list(self._under_way.values()):
            program.stop()

    def _leave(self, rank: int | None) -> None:
        program = self._under_way.pop(rank, None)
        if program and rank is not None:
            self._programs.forget(program)  # what ssh leaves behind is nothing; a host's program is ended at the end

    def _ended(self, rank: int | None) -> None:
        """This one is done with the phase; the last one leads to the next."""
        self._leave(rank)
        self._awaited.discard(rank)
        if self._awaited:
            return
        no_use = self._result.exit_code or self._stopping
        after_run = self._phase in ("run", "fetch")
        self._loop.call_later(0.0, self._then if after_run or not no_use else self._end)

    def _failed(self, rank: int, leaf: str, problem: str) -> None:
        self._fail(AppError.exit_code, leaf, f"{host_name(rank)}: {problem}")
        self._ended(rank)

    def _fail(self, code: int, leaf: str, problem: str) -> None:
        """`leaf` is the key of the step that it is about."""
        self._result.fail(code, f"{self._step.key}{leaf}: {problem}")

    # -- programs ----------------------------------------------------------------------------------------------------

    def _start_program(self, rank: int | None, argv: list[str], environment: Mapping[str, str]) -> None:
        """The step's own program, on the host or by ssh in a guest."""
        try:
            output = OutputLog(
                self._run.app_log(rank, self._step.name),
                show=self._step.show_output,
                prefix="" if rank is None else f"{host_name(rank)}: ",
                on_line=partial(self._take_line, rank),
            )
            self._outputs[rank] = output
            if rank is None:
                ended = partial(self._program_ended, rank)
                self._under_way[rank] = self._programs.start(argv, environment, output.take, ended, guarded=True)
            else:
                deadline_s = time.monotonic() + self._step.login_timeout_s * self._rounds(self._ranks)
                self._start_over_ssh(rank, argv, output, deadline_s)
        except MvpnetError as error:
            where = "" if rank is None else f"{host_name(rank)}: "
            self._fail(error.exit_code, ".command", f"{where}{error}")
            self._loop.call_later(0.0, lambda: self._ended(rank))

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
                if behind.seen or code != _SSH_FAILED or self._stopping or time.monotonic() > deadline_s:
                    behind.let_go()
                    self._program_ended(rank, code)
                else:
                    self._leave(rank)
                    self._loop.call_later(_RETRY_S, lambda: self._start_over_ssh(rank, argv, output, deadline_s))

            if self._stopping or self._late:
                self._loop.call_later(0.0, lambda: ended(_SSH_FAILED))
                return
            try:
                self._under_way[rank] = self._programs.start(argv, os.environ, heard, ended, with_stdin=True)
            except HostError as error:
                self._cannot_start(rank, f"{host_name(rank)}: {error}", over)

        self._turns.ask(begin)

    def _cannot_start(self, rank: int, problem: str, over: Over) -> None:
        self._fail(HostError.exit_code, ".command", problem)

        def ended() -> None:
            over()
            self._ended(rank)

        self._loop.call_later(0.0, ended)

    def _copy(self, rank: int, leaf: str, argv: list[str], tries_left: int = _COPY_TRIES) -> None:
        """Send or fetch files; again where ssh did not get through, as it does no harm."""

        def ended(code: int) -> None:
            if code == 0:
                self._ended(rank)
            elif code != _SSH_FAILED or tries_left == 1 or self._late:
                self._failed(rank, leaf, self._last_words(rank) or f"the copying program ended with {code}")
            else:
                self._leave(rank)
                self._loop.call_later(_RETRY_S, lambda: self._copy(rank, leaf, argv, tries_left - 1))

        self._start_helper(rank, argv, ended)

    def _program_ended(self, rank: int | None, code: int) -> None:
        self._outputs[rank].close()
        if rank is not None:
            self._result.exit_codes[host_name(rank)] = code
            if code == _SSH_FAILED:
                lost = f"{self._step.key}: {host_name(rank)}: ssh lost the guest, or the program ended with 255"
                self._result.problems.append(lost)
        self._result.exit_code = self._result.exit_code or code
        self._ended(rank)

    def _start_helper(self, rank: int, argv: list[str], on_end: Callable[[int], None]) -> None:
        """A program of ours, whose output is only of interest when it fails."""
        self._words[rank] = b""

        def heard(data: bytes) -> None:
            self._words[rank] = (self._words[rank] + data)[-_KEPT_WORDS_BYTES:]

        def begin(over: Over) -> None:
            def ended(code: int) -> None:
                over()
                on_end(code)

            if self._late or (self._stopping and self._phase != "fetch"):
                self._words[rank] = b"its turn did not come in time"
                self._loop.call_later(0.0, lambda: ended(_NO_TURN))
                return
            try:
                self._under_way[rank] = self._programs.start(argv, os.environ, heard, ended)
            except HostError as error:
                problem = str(error)
                self._loop.call_later(0.0, over)
                self._loop.call_later(0.0, lambda: self._failed(rank, "", problem))

        self._turns.ask(begin)

    def _last_words(self, rank: int) -> str:
        lines = self._words.get(rank, b"").decode(errors="replace").split("\n")
        return "; ".join(line.strip() for line in lines if line.strip())

    def _take_line(self, rank: int | None, line: bytes) -> None:
        if problem := self._metrics.take_line(line, self._suffix(rank)):
            self._result.problems.append(f"warning: {self._step.key}: {_name(rank)} printed {problem}")

    def _suffix(self, rank: int | None) -> str:
        """Behind the names of metrics that several guests may measure."""
        return "" if rank is None or len(self._ranks) == 1 else f".{host_name(rank)}"

    def _ssh(self, rank: int) -> list[str]:
        return guest_shell.ssh_argv(self._run.ssh_config, rank, self._step.user)


def _name(rank: int | None) -> str:
    return "the host" if rank is None else host_name(rank)
