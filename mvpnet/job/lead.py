"""Duties of rank 0 besides its own guest: progress, the app, standard input, and the control server."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mvpnet.app.runner import AppRun
from mvpnet.control.rank_messages import ControlReply, ControlRequest
from mvpnet.control.registry import Registration
from mvpnet.control.server import Server
from mvpnet.dataplane.address import host_name
from mvpnet.errors import HostError
from mvpnet.job.access import write_access_files
from mvpnet.job.channel import ControlChannel
from mvpnet.job.coordinator import Coordinator, Phase
from mvpnet.job.guest_starter import child_environment
from mvpnet.job.messages import (
    GuestEnded,
    JobOrder,
    Restarting,
    StateChanged,
    StopRequested,
)
from mvpnet.job.prepare import PreparedRank
from mvpnet.job.recording import RunSummary
from mvpnet.logs import say
from mvpnet.paths import RankLogs, RunFolder
from mvpnet.runtime.loop import Loop
from mvpnet.snapshot.coordinator import Content, SnapshotCoordinator
from mvpnet.snapshot.layout import SaveFolder
from mvpnet.spec.app_steps import steps_of
from mvpnet.spec.plain import plain
from mvpnet.spec.schema import OnGuestExit
from mvpnet.spec.urls import with_addresses
from mvpnet.ssh import SshEndpoint
from mvpnet.util.text import count, timestamp

_PROGRESS_EVERY_S = 1.0


class LeadDuties:
    """Performs rank 0's duties for the whole job. `finish()` ends this rank's session once all guests have ended."""

    def __init__(
        self,
        loop: Loop,
        order: JobOrder,
        ready: PreparedRank,
        hosts: Sequence[str],
        endpoints: Sequence[SshEndpoint],
        channel: ControlChannel,
        registration: Registration | None,
        finish: Callable[[], None],
    ) -> None:
        self._started = timestamp()
        self._took_s: dict[str, float] = {}  # durations of the boot and of the app
        self._loop = loop
        self._order = order
        self._ready = ready
        self._hosts = hosts
        self._endpoints = endpoints
        self._run = RunFolder(order.spec.run_dir)
        self._began_s = time.monotonic()
        self._said = ""
        self._closing = ExitStack()
        steps = steps_of(order.spec.config.app)
        self.app = self._app_run(steps) if steps else None
        self.coordinator = Coordinator(
            order.spec.world_size,
            has_app=bool(steps),
            stop_on_guest_exit=order.spec.config.shutdown.on_guest_exit is OnGuestExit.stop,
            tell_all=channel.tell_all,
            on_running=self._all_running,
            stop_app=self._stop_app,
            on_over=finish,
        )
        channel.on(StateChanged, self.coordinator.heard)
        channel.on(Restarting, self.coordinator.heard)
        channel.on(GuestEnded, self.coordinator.heard)
        channel.on(StopRequested, self.coordinator.heard)
        self.snapshots = self._serve(channel, registration) if registration else None

    def begin(self) -> None:
        """Announce the job's start, and begin with progress lines, the boot's deadline, and standard input."""
        self._began_s = time.monotonic()
        config, image, host = self._order.spec.config, self._ready.spec.image, self._ready.host
        hosts = count(len(set(self._hosts)), "host")
        say(
            f"job {self._order.spec.name}: {count(self._order.spec.world_size, 'guest')} on {hosts}, "
            f"{image.kind.value} image, {host.accel.name.upper()} as {host.accel_why}"
        )
        timeout_s = config.boot.timeout_s
        self._loop.call_later(timeout_s, lambda: self.coordinator.boot_timed_out(timeout_s))
        if config.shutdown.on_stdin_eof:
            self._watch_stdin()
        self._show_progress()

    def write_access_files(self) -> None:
        """Write ssh_config and inventory.yaml, which users and programs need to reach the guests."""
        spec = self._order.spec
        opened = {rank for rank in range(spec.world_size) if spec.for_rank(rank).lets_job_key_in}
        try:
            write_access_files(self._run, self._ready.folder, self._endpoints, self._hosts[0], opened)
        except OSError as error:
            where = error.filename or self._run.root
            self.coordinator.stop(f"cannot write {where}: {error.strerror}", HostError.exit_code)

    def summary(self) -> RunSummary:
        """Return the summary of the run so far, for its records."""
        took_s = {**self._took_s, "total_s": self.elapsed_s()}
        return RunSummary(
            started=self._started,
            seconds={name: round(seconds, 3) for name, seconds in took_s.items()},
            reports=[report for _, report in sorted(self.coordinator.reports.items())],
            restarts=self.coordinator.restarts.total(),
            steps=[asdict(step) for step in self.app.results] if self.app else (),
            metrics=dict(self.app.metrics.values) if self.app else {},
        )

    def elapsed_s(self) -> float:
        """Return the seconds since the guests were started."""
        return time.monotonic() - self._began_s

    def close(self) -> None:
        """End what rank 0 runs for the job."""
        self._closing.close()

    # -- control requests ----------------------------------------------------------------------------------------------

    def _serve(self, channel: ControlChannel, registration: Registration) -> SnapshotCoordinator:
        server = Server(
            self._loop,
            registration.socket,
            self._order.spec.world_size,
            tell=lambda rank, number, request: channel.tell_rank(rank, ControlRequest(number, request)),
            overview=self._overview,
        )
        channel.on(ControlReply, lambda rank, reply: server.heard(reply.number, reply.what))
        snapshots = SnapshotCoordinator(server, self._to_save, lambda: self.coordinator.phase.value)
        server.save_coordinator = snapshots
        self._closing.callback(snapshots.close)
        self._closing.callback(server.close)
        return snapshots

    def _overview(self) -> dict[str, Any]:
        """Return rank 0's knowledge of the job for `mvpnet ls` and `mvpnet status`."""
        return {
            "phase": self.coordinator.phase.value,
            "states": self.coordinator.states,
            "doors": [asdict(endpoint) for endpoint in self._endpoints],
            "ends": {rank: asdict(report) for rank, report in self.coordinator.reports.items()},
        }

    def _to_save(self) -> Content:
        """Return rank 0's content of a save."""
        image, resume, job = self._ready.spec.image, self._order.resume, self._order.spec
        return Content(
            job=job.name,
            hosts=list(self._hosts),
            image=image.source or image.path or image.kind.value,
            spec=with_addresses(plain(job)),
            # the disks of a resumed job are overlays of that save's disks, and depend on the same saves
            manifest=SaveFolder(resume.folder).manifest if resume else self._run.manifest,
            public_key=self._order.keys.public,
            private_key=self._order.keys.private,
            stands_on={str(resume.folder): resume.id, **dict(resume.stands_on)} if resume else {},
        )

    # -- progress ------------------------------------------------------------------------------------------------------

    def _show_progress(self) -> None:
        """Print a line when something changed, at most one per second."""
        if self.coordinator.phase is not Phase.booting:
            return
        line = self.coordinator.progress(self.elapsed_s())
        if line.split("s", 1)[1] != self._said:
            self._said = line.split("s", 1)[1]
            say(line)
        self._loop.call_later(_PROGRESS_EVERY_S, self._show_progress)

    def _all_running(self) -> None:
        say(self.coordinator.progress(self.elapsed_s()))
        say(f"to log in: {shlex.join(['ssh', '-F', _short(self._run.ssh_config), host_name(0)])}")
        self._took_s["boot_s"] = self.elapsed_s()
        if self.app:
            self.app.start()

    # -- the app -------------------------------------------------------------------------------------------------------

    def _app_run(self, steps: list[Any]) -> AppRun:
        app = AppRun(
            self._loop,
            steps,
            self._run,
            self._order.spec.world_size,
            environment=self._app_environment,
            say=say,
            on_end=self._app_ended,
        )
        self._closing.callback(app.close)
        return app

    def _app_environment(self, rank: int | None) -> Mapping[str, str]:
        """Return the app's environment: the job's facts, and on the host also the host's environment."""
        spec = self._order.spec.for_rank(rank or 0)
        logs = RankLogs(self._run.rank_folder(spec.rank, spec.logging.dir, spec.job_name))
        facts = child_environment(spec, self._endpoints[spec.rank], logs)
        return {**os.environ, **facts} if rank is None else facts

    def _app_ended(self, code: int, how: str) -> None:
        self._took_s["app_s"] = self.elapsed_s() - self._took_s["boot_s"]
        self.coordinator.app_ended(code, how)

    def _stop_app(self) -> bool:
        assert self.coordinator.verdict
        say(f"stopping: {self.coordinator.verdict.how}")
        if self.app is None or not self.app.running:
            return False
        self.app.stop()
        return True

    def _watch_stdin(self) -> None:
        if sys.stdin is None:  # it was closed at the program's start
            self.coordinator.stop("there is no standard input", 0)
            return
        fd = sys.stdin.fileno()

        def read() -> None:
            if not os.read(fd, 65536):
                self._loop.unwatch(fd)
                self.coordinator.stop("standard input ended", 0)

        self._loop.watch(fd, read)


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except (OSError, ValueError):  # the folder of the launch was removed, or the path is elsewhere
        return str(path)
