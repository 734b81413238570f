"""Session of one rank in a running job: its guest, switch and control channel, and on rank 0 the lead's duties."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from loguru import logger

from mvpnet.control.agent import ControlAgent
from mvpnet.control.console import Console
from mvpnet.control.rank_messages import ConsoleOutput, ControlReply, ControlRequest
from mvpnet.control.registry import ANSWERING, ENDING, Registration
from mvpnet.dataplane.address import host_name
from mvpnet.dataplane.switch import Switch, loop_for
from mvpnet.guest.image_guard import changed, stat_snapshot
from mvpnet.guest.requirements import console_socket
from mvpnet.job.channel import ControlChannel
from mvpnet.job.guest_runner import GuestRunner
from mvpnet.job.lead import LeadDuties
from mvpnet.job.messages import (
    GuestEnded,
    JobMessage,
    JobOrder,
    Resume,
    Run,
    Stop,
    StopRequested,
)
from mvpnet.job.prepare import PreparedRank
from mvpnet.mpi.world import World
from mvpnet.records.sampling import Sampler
from mvpnet.runtime.signals import StopSignals
from mvpnet.snapshot.agent import SnapshotAgent, SnapshotFacts
from mvpnet.snapshot.machine import machine_of, this_cpu_flags
from mvpnet.spec.schema import Accel
from mvpnet.ssh import SshEndpoint

_SAME_SIGNAL_S = 1.0  # Ctrl-C may reach a rank twice, from the terminal and from mpiexec


class RankSession:
    """Composes what runs on a rank while its guest does. `run` it, then `close` it, whatever happened."""

    def __init__(
        self,
        world: World,
        signals: StopSignals,
        order: JobOrder,
        ready: PreparedRank,
        endpoints: Sequence[SshEndpoint],
        registration: Registration | None = None,
    ) -> None:
        net = ready.spec.net
        self._signals = signals
        self._registration = registration
        self._loop = loop = loop_for(net)
        heartbeat_timeout_s = order.spec.config.job.heartbeat_timeout_s
        self._channel = channel = ControlChannel(
            loop, world, heartbeat_timeout_s, send=lambda rank, payload: self.switch.send_control(rank, payload)
        )
        self.switch = Switch(
            world.fabric,
            world.doorbell,
            ready.first.link,
            net,
            on_control=channel.hear,
            on_shutdown_request=None if ready.spec.shutdown.ignore_address else self._shutdown_requested(world.rank),
            on_link_lost=lambda reason: self.guest.link_lost(reason),
        )
        loop.worker = self.switch
        self.guest = GuestRunner(loop, world.hosts[world.rank], ready, self.switch, self._guest_tells)
        self._images = stat_snapshot(ready.drives)
        self.lead = (
            LeadDuties(loop, order, ready, world.hosts, endpoints, channel, registration, self._finish)
            if world.rank == 0
            else None
        )
        self._is_stopping = False
        self._closing = ExitStack()
        self._give_up_save = self._answer_requests(ready)
        channel.on(Run, lambda _, message: self.guest.announce_running())
        channel.on(Resume, lambda _, message: self.guest.guest.go_on())
        channel.on(Stop, lambda _, message: self._stop())

    def run(self) -> None:
        """Start the guest and run until the whole job is over."""
        self._signals.on_signal = on_signal = self._stop_at_signal()
        if self._signals.received:
            on_signal(self._signals.received)
        if self.lead:
            self.lead.begin()
        self.guest.start()
        if self._registration:
            self._registration.enter(ANSWERING)
        try:
            self._loop.run()
        finally:
            self._signals.on_signal = None
            if self._registration:
                self._registration.enter(ENDING)
            for change in changed(self._images):
                logger.error("{}", change)

    def close(self) -> None:
        """Leave no process behind, whatever happened."""
        self._closing.close()

    def account(self) -> dict[str, Any]:
        """Return this rank's counters for stats.json."""
        counted = self.switch.counters.as_dict()
        return {**counted, "restarts": len(self.guest.restarts), "compiled": self.switch.compiles}

    # -- events --------------------------------------------------------------------------------------------------------

    def _guest_tells(self, message: JobMessage) -> None:
        self._channel.tell(message)
        if isinstance(message, GuestEnded) and self._is_stopping and not self.lead:
            self._finish()

    def _stop(self) -> None:
        self._is_stopping = True
        self._give_up_save()
        if not self.guest.stop() and not self.lead:
            self._finish()

    def _finish(self) -> None:
        self.switch.finish(self._loop.stop)

    def _shutdown_requested(self, rank: int) -> Callable[[], None]:
        asked = StopRequested(f"{host_name(rank)} asked for the shutdown address", 0)
        return lambda: self._channel.tell(asked)

    def _stop_at_signal(self) -> Callable[[signal.Signals], None]:
        """A signal handler. It runs between any two lines of ours, and leaves all to the loop."""
        first_s: list[float] = []

        def stop(number: signal.Signals) -> None:
            now_s = time.monotonic()
            if not first_s:
                first_s.append(now_s)
                self._channel.tell(StopRequested(f"{number.name} received", 128 + number, by_signal=True))
            elif self.lead and now_s - first_s[0] > _SAME_SIGNAL_S:
                self.lead.coordinator.stop_guests_now()

        def on_signal(number: signal.Signals) -> None:
            self._loop.call_later(0.0, lambda: stop(number))

        return on_signal

    # -- control requests ----------------------------------------------------------------------------------------------

    def _answer_requests(self, ready: PreparedRank) -> Callable[[], None]:
        """Set up the answering of control requests, and return a function that cancels a save."""
        channel, loop, lead, guest = self._channel, self._loop, self.lead, self.guest
        socket, log = console_socket(ready.folder), ready.first.launch.console_log
        console = Console(
            loop, socket, log, lambda number, told: channel.tell(ControlReply(number, ConsoleOutput(told)))
        )
        snapshots = SnapshotAgent(loop, lambda: guest.guest, snapshot_facts(ready))
        agent = ControlAgent(
            machine=lambda: guest.guest,
            facts=self._status,
            console=console,
            save_agent=snapshots,
            tell=lambda number, reply: channel.tell(ControlReply(number, reply)),
        )
        channel.on(ControlRequest, lambda _, request: agent.hear(request.number, request.what))
        close = self._closing.callback
        if lead and lead.snapshots:
            close(lead.snapshots.close)
        close(snapshots.close)
        close(guest.close)
        if lead:
            close(lead.close)
        close(Sampler(loop, self.switch, ready.logs.traffic, ready.spec.net.sample_interval_s).close)
        close(lambda: console.close("the job is over"))

        def give_up_save() -> None:
            if lead and lead.snapshots:
                lead.snapshots.give_up("the job is ending")
            snapshots.give_up()

        return give_up_save

    def _status(self) -> dict[str, Any]:
        """Return this rank's status for `mvpnet status`; times in seconds since 1970."""
        guest = self.guest
        return {
            "time_s": time.time(),
            "state": guest.state,
            "states": guest.states,
            "restarts": len(guest.restarts),
            "qemu_pid": guest.guest.qemu_pid,
            "qemu_version": guest.guest.qemu_version,
            "counters": self.switch.counters.as_dict(),
        }


def snapshot_facts(ready: PreparedRank) -> SnapshotFacts:
    """Return the facts about the guest for the rank's part of a save."""
    accel = ready.host.accel
    return SnapshotFacts(
        rank=ready.spec.rank,
        accel=accel.name,
        cpu_flags=this_cpu_flags() if accel is Accel.kvm else [],
        machine=machine_of(ready.first.launch.qemu_argv),
        drives=ready.drives,
        extra_args=ready.spec.qemu.extra_args,
        seed=ready.seed,
        seeds=("cloud_init.path",),
    )
