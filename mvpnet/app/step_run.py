"""One step of the app under way: its phases, one after another, and what comes of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from mvpnet.app.phases import FetchPhase, GuestRunPhase, HostRunPhase, LoginPhase, Phase, PushPhase
from mvpnet.app.step_context import StepContext
from mvpnet.errors import AppError
from mvpnet.spec.app_steps import Step
from mvpnet.spec.schema import AppKind

Then = Callable[[], None]


class StepRun:
    """Runs a step. `on_end` is called once, with the context's result complete.

    A phase that failed, or that was stopped, is the last; but for fetching files, which follows every run.
    """

    def __init__(self, context: StepContext, on_end: Callable[[], None]) -> None:
        self._context = context
        self._on_end = on_end
        self._began_s = time.monotonic()
        self._phase: Phase | None = None
        self._stopping = False

    @property
    def _step(self) -> Step:
        return self._context.step

    def start(self) -> None:
        self._began_s = time.monotonic()
        if self._step.kind is AppKind.host:
            self._enter(HostRunPhase(self._context, self._after(self._end, always=True)))
        else:
            self._log_in()

    def stop(self) -> None:
        """End the program; files that are being fetched come to their end, or to their time."""
        self._stopping = True
        if self._phase:
            self._phase.stop()

    def close(self) -> None:
        """Close the files that are open still."""
        if self._phase:
            self._phase.close()

    def _log_in(self) -> None:
        """Log in where nobody did before."""
        context = self._context
        if new := [rank for rank in context.ranks if (rank, self._step.user) not in context.let_in]:
            self._enter(LoginPhase(context, new, self._after(self._push)))
        else:
            self._push()

    def _push(self) -> None:
        if self._step.push:
            self._enter(PushPhase(self._context, self._context.ranks, self._after(self._run)))
        else:
            self._run()

    def _run(self) -> None:
        if self._step.argv:
            self._enter(GuestRunPhase(self._context, self._context.ranks, self._after(self._fetch, always=True)))
        else:
            self._fetch()

    def _fetch(self) -> None:
        if self._step.collect:
            then = self._after(self._take_metrics, always=True)
            self._enter(FetchPhase(self._context, self._context.ranks, then))
        else:
            self._end()

    def _take_metrics(self) -> None:
        """Take what programs in guests left in a metrics.json among the fetched files."""
        context = self._context
        for rank in context.ranks:
            path = context.run.collected(rank, self._step.name) / "metrics.json"
            if path.is_file() and not path.is_symlink():
                try:
                    context.metrics.take_file(path, context.suffix(rank))
                except AppError as error:
                    context.fail(error.exit_code, ".collect", str(error))
        self._end()

    def _end(self) -> None:
        self.close()
        result = self._context.result
        result.exit_code = result.exit_code or 0
        result.seconds = round(time.monotonic() - self._began_s, 3)
        self._on_end()

    def _enter(self, phase: Phase) -> None:
        self.close()
        self._phase = phase
        if self._stopping:
            phase.stop()
        phase.start()

    def _after(self, then: Then, *, always: bool = False) -> Then:
        """What a phase that is done leads to: `then`, or the end where that makes no sense any more."""

        def done() -> None:
            no_use = self._context.result.exit_code or self._stopping
            self._context.loop.call_later(0.0, then if always or not no_use else self._end)

        return done
