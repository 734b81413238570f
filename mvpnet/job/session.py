"""One rank's running part of a job."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loguru import logger

from mvpnet.app.runner import AppRun
from mvpnet.control.agent import ControlAgent
from mvpnet.control.console import Console
from mvpnet.control.registry import ANSWERING, ENDING, Registration
from mvpnet.control.server import Server
from mvpnet.dataplane.address import host_name
from mvpnet.dataplane.link import DgramLink
from mvpnet.dataplane.switch import Switch, loop_for
from mvpnet.errors import HostError, MvpnetError, RanksLostError
from mvpnet.guest.image_guard import changed, stat_snapshot
from mvpnet.guest.requirements import console_socket
from mvpnet.guest.states import Ending, GuestState
from mvpnet.guest.supervisor import Guest
from mvpnet.job.coordinator import FAILURES, Coordinator, Phase
from mvpnet.job.heartbeat import Heartbeat
from mvpnet.job.inventory import inventory
from mvpnet.job.messages import JobOrder
from mvpnet.job.prepare import GuestStart, PreparedRank, child_environment, seed_image
from mvpnet.logs import say
from mvpnet.mpi.world import World
from mvpnet.paths import RankLogs, RunFolder
from mvpnet.records.sampling import Sampler
from mvpnet.runtime.loop import Timer
from mvpnet.runtime.signals import StopSignals
from mvpnet.snapshot.agent import SnapshotAgent
from mvpnet.snapshot.agent import SnapshotFacts as KeeperFacts
from mvpnet.snapshot.coordinator import Content, SnapshotCoordinator
from mvpnet.snapshot.layout import SaveFolder
from mvpnet.snapshot.machine import machine_of, this_cpu_flags
from mvpnet.spec.app_steps import steps_of
from mvpnet.spec.plain import plain
from mvpnet.spec.schema import Accel, NetKind, NetSocket, OnGuestExit
from mvpnet.ssh import SshEndpoint, ssh_config
from mvpnet.util.text import count, timestamp

_PROGRESS_EVERY_S = 1.0
_SAME_SIGNAL_S = 1.0  # Ctrl-C may reach a rank twice, from the terminal and from mpiexec
_RESTART_PAUSE_S = 1.0
_SOCKET_LOOK_S = 5.0
_LINK_GRACE_S = 2.0  # for qemu's own end to be told after its link closed


class RankSession:
    """One rank's part while the guests run: its guest, its switch, and what it and rank 0 tell each other."""

    def __init__(
        self,
        world: World,
        signals: StopSignals,
        order: JobOrder,
        ready: PreparedRank,
        run: RunFolder,
        doors: list[SshEndpoint],
        listing: Registration | None = None,
    ) -> None:
        self.started = timestamp()
        self.conductor: Coordinator | None = None
        self._world = world
        self._signals = signals
        self._order = order
        self._job = job = order.spec
        self._ready = ready
        self._run = run
        self._doors = doors
        self._loop = loop_for(ready.spec.net)
        self.switch = Switch(
            world.fabric,
            world.doorbell,
            ready.first.link,
            ready.spec.net,
            on_control=self._hear,
            on_shutdown_request=None if ready.spec.shutdown.ignore_address else self._shutdown_requested,
            on_link_lost=self._link_lost,
        )
        self._loop.worker = self.switch
        self._peers = range(1, world.size) if world.rank == 0 else [0]  # that hear of this rank, and it of them
        self._heartbeat = Heartbeat(
            self._loop,
            job.config.job.heartbeat_timeout_s,
            self._peers,
            beat=self._beat,
            lost=self._ranks_lost,
        )
        self._stopped_why: str | None = None  # of this guest, where we stopped it for a reason of its own
        self._guest = self._guest_of(ready.first)
        self.restarts: list[dict[str, Any]] = []
        self._dead: dict[str, Any] | None = None  # the end of a guest that is about to be started again
        self._start_timer: Timer | None = None
        self._late_timer: Timer | None = None
        self._has_booted = False
        self._all_up = False
        self.states: list[tuple[str, float]] = []  # that the guest passed, with the time in seconds since 1970
        self._sources = stat_snapshot(ready.drives)
        self._sampler = Sampler(self._loop, self.switch, ready.logs.traffic, ready.spec.net.sample_interval_s)
        self.app: AppRun | None = None
        socket, log = console_socket(ready.folder), ready.first.launch.console_log
        self._console = Console(self._loop, socket, log, lambda number, told: self._tell({"hands": number, **told}))
        self._keeper = SnapshotAgent(self._loop, lambda: self._guest, keeper_facts(ready))
        self._desk = ControlAgent(
            machine=lambda: self._guest,
            facts=self._facts,
            console=self._console,
            keeper=self._keeper,
            tell=self._tell,
        )
        self._listing = listing
        self._server: Server | None = None
        self._saver: SnapshotCoordinator | None = None
        self._told_to_stop = False
        self._signalled_s: float | None = None
        self._said = ""
        self._took_s: dict[str, float] = {}
        if world.rank == 0:
            steps = steps_of(job.config.app)
            if steps:
                self.app = AppRun(
                    self._loop,
                    steps,
                    run,
                    world.size,
                    environment=self._app_environment,
                    say=say,
                    on_end=self._app_ended,
                )
            self.conductor = Coordinator(
                world.size,
                has_app=bool(steps),
                stop_on_guest_exit=job.config.shutdown.on_guest_exit is OnGuestExit.stop,
                tell_all=self._tell_all,
                on_running=self._all_running,
                stop_app=self._stop_app,
                on_over=self._finish,
            )
            if listing:
                self._server = Server(
                    self._loop, listing.socket, world.size, tell=self._tell_rank, overview=self._overview
                )
                self._saver = SnapshotCoordinator(self._server, self._to_save, lambda: self._overview()["phase"])
                self._server.saver = self._saver

    def run(self) -> None:
        """Start the guest and run until the whole job is over."""
        self._began_s = time.monotonic()
        self._signals.on_signal = self._signalled
        if self._signals.received:
            self._signalled(self._signals.received)
        if self.conductor:
            self._lead_the_way(self.conductor)
        self._start(self._guest)
        if self._listing:
            self._listing.enter(ANSWERING)
        self._look_after_socket()
        try:
            self._loop.run()
        finally:
            self._signals.on_signal = None
            if self._listing:
                self._listing.enter(ENDING)
            for change in changed(self._sources):
                logger.error("{}", change)

    def write_ways_in(self, conductor: Coordinator) -> None:
        """ssh_config and inventory.yaml, for whom wants into the guests; the job is of no use without."""
        run = self._run
        try:
            run.ssh_config.write_text(ssh_config(self._doors, run.ssh_key, self._world.hosts[0]))
            run.inventory.write_text(inventory(self._doors, run.ssh_config))
        except OSError as error:
            conductor.stop(f"cannot write {error.filename or run.root}: {error.strerror}", HostError.exit_code)

    def close(self) -> None:
        """Leave no process behind, whatever happened."""
        if self._server:
            self._server.close()
        self._console.close("the job is over")
        self._sampler.close()
        if self.app:
            self.app.close()
        self._guest.close()
        self._keeper.close()
        if self._saver:
            self._saver.close()

    def seconds(self) -> dict[str, float]:
        """How long it took until all guests were up, the app ran, and the whole took."""
        return {name: round(took_s, 3) for name, took_s in {**self._took_s, "total_s": self._so_far_s()}.items()}

    def _so_far_s(self) -> float:
        return time.monotonic() - self._began_s

    # -- what happens here -----------------------------------------------------------------------------------------

    def _state_changed(self, state: GuestState) -> None:
        logger.info("the guest is {}", state.value)
        self.states.append((state.value, round(time.time(), 3)))
        self._tell({"state": state.value})
        match state:
            case GuestState.booting:
                # one that loads saved memory does not boot: without the memory it would be another guest
                self._has_booted = not self._guest.launch.loads
            case GuestState.loaded:
                self._has_booted = True
            case GuestState.up if self._late_timer:
                self._late_timer.cancel()
                if self._all_up:
                    self._guest.announce_running()
            case GuestState.gone:
                self._guest_gone()

    def _guest_gone(self) -> None:
        self.switch.close_link()
        why = self._stopped_why or self._guest.setup_failure
        end = {**_end_report(self._guest, self._world.hosts[self._world.rank], why), "restarts": self.restarts}
        if self._is_to_start_again(end):
            self._start_again_soon(end)
        else:
            self._ended(end)

    def _ended(self, end: dict[str, Any]) -> None:
        logger.log("ERROR" if end["how"] in FAILURES and not self._told_to_stop else "INFO", "{}", _told(end))
        self._tell({"end": end})
        if self._told_to_stop and not self.conductor:
            self._finish()

    def _link_lost(self, reason: str) -> None:
        logger.debug("link lost: {}", reason)
        guest = self._guest
        self._loop.call_later(_LINK_GRACE_S, lambda: self._without_link(guest, reason))

    def _without_link(self, guest: Guest, reason: str) -> None:
        """A guest without its network is of no use; that qemu closed the link because it left is no such case."""
        if guest is self._guest and guest.state.precedes(GuestState.stopping):
            logger.error("{}; stopping the guest", reason)
            self._stopped_why = reason
            guest.stop()

    def _look_after_socket(self) -> None:
        """qemu sends each datagram to our socket by its path: without that, what the guest sends is lost, unseen."""
        net = self._ready.spec.net
        if net.socket is not NetSocket.path or net.kind is not NetKind.dgram:
            return
        link = self.switch.link
        if isinstance(link, DgramLink) and link.path and not link.path.exists():
            self._without_link(self._guest, f"the socket {link.path} was removed")
        self._loop.call_later(_SOCKET_LOOK_S, self._look_after_socket)

    # -- a guest that died and is started again (vm.restart) ---------------------------------------------------------

    def _guest_of(self, start: GuestStart) -> Guest:
        guest = Guest(
            self._loop, start.launch, on_state=self._state_changed, link_connected=lambda: self.switch.link_ready
        )
        start.descriptors.hand_over()
        self._stopped_why = None
        self._is_late = False
        return guest

    def _start(self, guest: Guest) -> None:
        logger.info("starting {}", shlex.join(guest.launch.qemu_argv))
        guest.start()

    def _is_to_start_again(self, end: dict[str, Any]) -> bool:
        """It died of itself, having run before: not a guest that left, or that was stopped, by whomever."""
        died = end["how"] in (Ending.crashed.value, Ending.panicked.value, Ending.failed_to_start.value)
        stopped = (self._stopped_why is not None and not self._is_late) or self._guest.setup_failure is not None
        left = len(self.restarts) < self._ready.spec.vm.restart
        return died and left and self._has_booted and not stopped and not self._told_to_stop

    def _start_again_soon(self, end: dict[str, Any]) -> None:
        """After a pause: what holds its port or disks may take a moment to end."""
        if self._late_timer:
            self._late_timer.cancel()
        self._dead = end
        self.restarts.append({"at": round(time.time(), 3), "how": end["how"], "reason": end["reason"]})
        which = f"{len(self.restarts)} of {self._ready.spec.vm.restart}"
        logger.error("{}\n  starting it again on its disks, {}", _told(end), which)
        self._tell({"restart": len(self.restarts)})
        self._start_timer = self._loop.call_later(_RESTART_PAUSE_S, self._start_again)

    def _start_again(self) -> None:
        assert self._dead
        dead, self._dead = self._dead, None
        try:
            start = self._ready.again()
        except (MvpnetError, OSError) as error:
            self._ended({**dead, "reason": f"{dead['reason']}; it could not be started again: {error}"})
            return
        self.switch.link = start.link
        self._guest = self._guest_of(start)
        timeout_s = self._ready.spec.boot.timeout_s
        self._late_timer = self._loop.call_later(timeout_s, lambda: self._not_up_again(timeout_s))
        self._start(self._guest)

    def _not_up_again(self, timeout_s: float) -> None:
        if self._guest.state.precedes(GuestState.up):
            self._stopped_why, self._is_late = f"the guest was not up again after {timeout_s:g} s", True
            self._guest.kill()

    def _start_no_more(self) -> None:
        """The job ends while a guest waits for its next start."""
        if self._dead:
            assert self._start_timer
            self._start_timer.cancel()
            dead, self._dead = self._dead, None
            self._ended(dead)

    def _shutdown_requested(self) -> None:
        self._tell({"stop": f"{host_name(self._world.rank)} asked for the shutdown address", "code": 0})

    def _signalled(self, number: signal.Signals) -> None:
        """In the signal handler, between any two lines of ours: leave it to the loop."""
        self._loop.call_later(0.0, lambda: self._stop_at_signal(number))

    def _stop_at_signal(self, number: signal.Signals) -> None:
        now_s = time.monotonic()
        if self._signalled_s is None:
            self._signalled_s = now_s
            self._tell({"stop": f"{number.name} received", "code": 128 + number, "signal": True})
        elif self.conductor and now_s - self._signalled_s > _SAME_SIGNAL_S:
            self.conductor.hurry()

    # -- between the ranks -------------------------------------------------------------------------------------------

    def _tell(self, message: dict[str, Any]) -> None:
        """Tell rank 0."""
        self._tell_rank(0, message)

    def _tell_rank(self, rank: int, message: dict[str, Any]) -> bool:
        return self.switch.send_control(rank, json.dumps(message).encode())

    def _tell_all(self, message: dict[str, Any]) -> None:
        payload = json.dumps(message).encode()
        for rank in range(self._world.size):
            self.switch.send_control(rank, payload)

    def _beat(self) -> None:
        for rank in self._peers:
            self._tell_rank(rank, {"beat": True})

    def _ranks_lost(self, ranks: list[int]) -> None:
        hosts = sorted({self._world.hosts[rank] for rank in ranks})
        raise RanksLostError(
            f"{count(len(ranks), 'rank')} on {', '.join(hosts[:4])}{' and more' if hosts[4:] else ''} "
            f"not heard of for {self._job.config.job.heartbeat_timeout_s:g} s: a link is cut, or a host is gone"
        )

    def _hear(self, source: int, payload: bytes) -> None:
        message = json.loads(payload)
        self._heartbeat.heard(source)
        if "beat" in message:
            return
        if "hands" in message and "do" in message:
            self._desk.hear(message)
        elif "hands" in message:
            if self._server:
                self._server.heard(message)
        elif message.get("do") == "run":
            self._all_up = True
            self._guest.announce_running()
        elif message.get("do") == "go on":
            self._guest.go_on()
        elif message.get("do") == "stop":
            self._stop()
        elif self.conductor:
            self.conductor.heard(source, message)

    def _stop(self) -> None:
        self._told_to_stop = True
        if self._saver:
            self._saver.give_up("the job is ending")
        self._keeper.give_up()
        if self._dead:
            self._start_no_more()
        elif self._guest.state is not GuestState.gone:
            self._guest.stop()
        elif not self.conductor:
            self._finish()

    def _finish(self) -> None:
        self.switch.finish(self._loop.stop)

    def account(self) -> dict[str, Any]:
        """What this rank did in the job, for stats.json."""
        counted = self.switch.counters.as_dict()
        return {**counted, "restarts": len(self.restarts), "compiled": self.switch.compiles}

    def _facts(self) -> dict[str, Any]:
        """What this rank tells who asks how it is; times in seconds since 1970."""
        return {
            "time_s": time.time(),
            "state": "restarting" if self._dead else self._guest.state.value,
            "states": self.states,
            "restarts": len(self.restarts),
            "qemu_pid": self._guest.qemu_pid,
            "qemu_version": self._guest.qemu_version,
            "counters": self.switch.counters.as_dict(),
        }

    # -- rank 0 ------------------------------------------------------------------------------------------------------

    def _lead_the_way(self, conductor: Coordinator) -> None:
        hosts = count(len(set(self._world.hosts)), "host")
        say(
            f"job {self._job.name}: {count(self._world.size, 'guest')} on {hosts}, "
            f"{self._ready.spec.image.kind.value} image, {self._ready.accel.name.upper()} as {self._ready.accel_why}"
        )
        timeout_s = self._job.config.boot.timeout_s
        self._loop.call_later(timeout_s, lambda: conductor.boot_timed_out(timeout_s))
        if self._job.config.shutdown.on_stdin_eof:
            self._watch_stdin(conductor)
        self._show_progress(conductor)

    def _overview(self) -> dict[str, Any]:
        """What is known here of the job, for who asks how it is."""
        assert self.conductor
        return {
            "phase": self.conductor.phase.value,
            "states": self.conductor.states,
            "doors": [asdict(door) for door in self._doors],
            "ends": {rank: asdict(report) for rank, report in self.conductor.reports.items()},
        }

    def _to_save(self) -> Content:
        """What rank 0 puts into a save."""
        image, resume = self._ready.spec.image, self._order.resume
        return Content(
            job=self._job.name,
            hosts=self._world.hosts[: self._world.size],
            image=image.source or image.path or image.kind.value,
            spec=plain(self._job),
            # the saved disks of a job that was resumed stand on what those of that save do
            manifest=SaveFolder(resume.folder).manifest if resume else self._run.manifest,
            public_key=self._order.keys.public,
            private_key=self._order.keys.private,
            stands_on={str(resume.folder): resume.id, **dict(resume.stands_on)} if resume else {},
        )

    def _show_progress(self, conductor: Coordinator) -> None:
        """A line whenever something changed, at most one a second."""
        if conductor.phase is not Phase.booting:
            return
        line = conductor.progress(time.monotonic() - self._began_s)
        if line.split("s", 1)[1] != self._said:
            self._said = line.split("s", 1)[1]
            say(line)
        self._loop.call_later(_PROGRESS_EVERY_S, lambda: self._show_progress(conductor))

    def _all_running(self) -> None:
        assert self.conductor
        say(self.conductor.progress(time.monotonic() - self._began_s))
        say(f"to log in: ssh -F {_short(self._run.ssh_config)} n0000")
        self._took_s["boot_s"] = self._so_far_s()
        if self.app:
            self.app.start()

    def _app_environment(self, rank: int | None) -> dict[str, str]:
        """The job's facts; on the host with all that is set there."""
        spec = self._job.for_rank(rank or 0)
        logs = RankLogs(self._run.rank_folder(spec.rank, spec.logging.dir, spec.job_name))
        facts = child_environment(spec, self._doors[spec.rank], logs)
        return {**os.environ, **facts} if rank is None else facts

    def _app_ended(self, code: int, how: str) -> None:
        assert self.conductor
        self._took_s["app_s"] = self._so_far_s() - self._took_s["boot_s"]
        self.conductor.app_ended(code, how)

    def _stop_app(self) -> bool:
        assert self.conductor and self.conductor.verdict
        say(f"stopping: {self.conductor.verdict.how}")
        if self.app is None or not self.app.running:
            return False
        self.app.stop()
        return True

    def _watch_stdin(self, conductor: Coordinator) -> None:
        if sys.stdin is None:  # it was closed when we were started
            conductor.stop("there is no standard input", 0)
            return
        fd = sys.stdin.fileno()

        def read() -> None:
            if not os.read(fd, 65536):
                self._loop.unwatch(fd)
                conductor.stop("standard input ended", 0)

        self._loop.watch(fd, read)


def keeper_facts(ready: PreparedRank) -> KeeperFacts:
    """What a rank's part of a save says of the guest."""
    made_seed = ready.spec.makes_seed
    return KeeperFacts(
        rank=ready.spec.rank,
        accel=ready.accel.name,
        cpu_flags=this_cpu_flags() if ready.accel is Accel.kvm else [],
        machine=machine_of(ready.first.launch.qemu_argv),
        drives=ready.drives,
        extra_args=ready.spec.qemu.extra_args,
        seed=seed_image(ready.folder) if made_seed else None,
        seeds=("cloud_init.path",),
    )


def _end_report(guest: Guest, host: str, stopped_why: str | None) -> dict[str, Any]:
    """How this rank's guest ended, as a message: the fields of GuestReport but for the rank."""
    assert guest.end
    failure = guest.failure()
    how = Ending.crashed if stopped_why else guest.end.how
    failed = how.value in FAILURES or failure.reached.precedes(GuestState.up)
    return {
        "host": host,
        "how": how.value,
        "phase": failure.reached.value,
        "reason": stopped_why or failure.reason,
        "cause": failure.cause if failed else None,
        "console": list(failure.console_lines[-5:]),
    }


def _told(end: dict[str, Any]) -> str:
    """Why a guest ended; of a panic, with the last that was on its console."""
    lines = end["console"] if end["how"] == Ending.panicked.value else []
    return "\n  ".join([end["reason"], *(["its console ended with:", *lines] if lines else [])])


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
