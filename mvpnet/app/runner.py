"""Runs the app's steps, one after another, while the guests run: on rank 0, by its loop, without waiting anywhere.

A step in guests goes through phases, in each of them in all its guests at once: log in, send files, run, fetch files.
The first step that fails is the last; its files are fetched all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mvpnet.app.guest_shell import NOT_FOUND, NOT_RUNNABLE, SSH_FAILED
from mvpnet.app.limiter import CapacityLimiter
from mvpnet.app.metrics import Metrics
from mvpnet.app.step_context import Login, StepContext, StepResult
from mvpnet.app.step_run import StepRun
from mvpnet.dataplane.address import host_name
from mvpnet.errors import AppError
from mvpnet.paths import RunFolder
from mvpnet.runtime.loop import Loop
from mvpnet.runtime.processes import Programs
from mvpnet.spec.app_steps import Step


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
        self._current: StepRun | None = None
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
        context = StepContext(
            self._loop,
            self._programs,
            step,
            result,
            self._run,
            step.ranks(self._world_size),
            environment=self._environment,
            metrics=self.metrics,
            let_in=self._let_in,
            limiter=CapacityLimiter(step.max_parallel_ssh),
        )
        self._current = StepRun(context, on_end=lambda: self._ended(number))
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
    own = failed and code not in (SSH_FAILED, NOT_FOUND, NOT_RUNNABLE)  # needs no other reason
    why = f": {errors[0]}" if code and errors and not own else ""
    what = f"step {step.name}" if step.name and code else "the app"
    return f"{what} ended with exit code {code}{where}{why}"
