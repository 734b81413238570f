"""One rank of `mvpnet bench`: its guest, link and switch, and rank 0's orders to all guests.

Rank 0 sends an order to a rank as a control message. That rank passes it to its guest, and returns the guest's answer
together with its own resource usage. A rank has at most one order at a time.
"""

from __future__ import annotations

import resource
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import cast

from mvpnet.bench.messages import Answer, Failed, GoHome, Order, Outcome, decode, encode
from mvpnet.dataplane.address import host_name
from mvpnet.dataplane.switch import Switch, loop_for, open_link
from mvpnet.errors import HostError, InterruptedJobError
from mvpnet.mpi.world import World
from mvpnet.runtime.helper_python import helper_argv
from mvpnet.runtime.signals import StopSignals
from mvpnet.spec.schema import Net
from mvpnet.util.text import and_more

PATIENCE_S = 30.0  # added to the duration of an order
_GUEST_END_S = 5.0
_LOOK_S = 0.1  # interval of checks for signals and deadlines
_GUEST_ENDED = Failed("the bench's guest has ended")


class Node:
    """One rank's node. Rank 0 calls `ask` and then `end`, the others call `follow`; all call `close`.

    Raises OSError where sockets or the guest's process cannot be made.
    """

    def __init__(self, world: World, signals: StopSignals, net: Net) -> None:
        self._world = world
        self._signals = signals
        self._answers: dict[int, Answer] = {}
        self._failed: dict[int, str] = {}
        self._stop_when: Callable[[], object] = lambda: False
        self._loop = loop_for(net)
        link = open_link(world.rank, world.size, net)
        assert link.qemu_fd is not None
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = [net.kind.name, str(world.rank), str(link.qemu_fd), str(theirs.fileno())]
            self.guest = subprocess.Popen(
                helper_argv("mvpnet.bench.guest", *words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[link.qemu_fd, theirs.fileno()],
                start_new_session=True,  # a Ctrl-C is for us alone
            )
        link.detach_qemu_end()
        self.switch = Switch(
            world.fabric, world.doorbell, link, net, on_control=self._heard, on_link_lost=lambda _: None
        )
        self._loop.worker = self.switch
        self._loop.watch(self._control.fileno(), self._guest_answered)

    # -- rank 0 --------------------------------------------------------------------------------------------------------

    def ask(self, orders: Mapping[int, Order], takes_s: float = 0.0) -> dict[int, Answer]:
        """Give each rank its order, and wait for all answers.

        Raises:
            HostError: A guest ended or did not answer.
            InterruptedJobError: A signal arrived.
        """
        self._answers.clear()
        for rank, order in orders.items():
            self.switch.send_control(rank, encode(order))
        timeout_s = takes_s + PATIENCE_S
        answered = self._run_until(lambda: self._failed or orders.keys() <= self._answers.keys(), timeout_s)
        for rank, failure in self._failed.items():
            raise HostError(f"{self.named(rank)}: {failure}")
        if not answered:
            late = sorted(orders.keys() - self._answers.keys())
            more = and_more(len(late) - 1, after=" ranks")
            raise HostError(f"no answer in {timeout_s:g} s from {self.named(late[0])}{more}")
        return dict(self._answers)

    def ask_all(self, order: Order, takes_s: float = 0.0) -> dict[int, Answer]:
        return self.ask(dict.fromkeys(range(self._world.size), order), takes_s)

    def wait(self, seconds: float) -> None:
        """Run the loop for some seconds; raise InterruptedJobError after a signal."""
        end_s = time.monotonic() + seconds
        self._run_until(lambda: time.monotonic() >= end_s, seconds + 1)

    def end(self) -> None:
        """Tell the other ranks that the bench is over."""
        for rank in range(1, self._world.size):
            self.switch.send_control(rank, encode(GoHome()))

    def named(self, rank: int) -> str:
        return f"{host_name(rank)} on {self._world.hosts[rank]}"

    def _run_until(self, condition: Callable[[], object], timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s

        def look() -> None:
            if condition() or self._signals.received or time.monotonic() > deadline_s:
                self._loop.stop()
            else:
                timers[0] = self._loop.call_later(min(_LOOK_S, timeout_s / 10), look)

        timers = [self._loop.call_later(0.0, look)]
        self._stop_when = condition
        self._loop.run()
        self._stop_when = lambda: False  # a late answer must not end a later wait
        timers[0].cancel()
        if number := self._signals.received:
            raise InterruptedJobError(f"stopped by {number.name}", exit_code=128 + number)
        return bool(condition())

    # -- every rank ----------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Execute rank 0's orders until the bench is over."""
        self._loop.run()

    def close(self) -> None:
        """End the guest, and this node's part in the data path together with all others'.

        Raises HostError when the others do not end theirs.
        """
        self._loop.unwatch(self._control.fileno())
        self._control.close()
        deadline = self._loop.call_later(PATIENCE_S, self._stuck)
        self.switch.finish(self._loop.stop)
        self._loop.run()
        deadline.cancel()
        try:
            self.guest.wait(_GUEST_END_S)
        except subprocess.TimeoutExpired:
            self.guest.kill()
            self.guest.wait()

    def _stuck(self) -> None:
        raise HostError(f"{self.named(self._world.rank)}: other ranks did not end their part in {PATIENCE_S:g} s")

    def _heard(self, source: int, payload: bytes) -> None:
        match decode(payload):
            case GoHome():
                self._loop.stop()
            case Answer() as answer:
                self._answered(source, answer)
            case _:
                self._tell_guest(payload)

    def _answered(self, source: int, answer: Answer) -> None:
        if isinstance(answer.outcome, Failed):
            self._failed[source] = answer.outcome.reason
        else:
            self._answers[source] = answer
        if self._stop_when():
            self._loop.stop()

    def _tell_guest(self, order: bytes) -> None:
        try:
            self._control.send(order)
        except ConnectionError:
            self._answer(_GUEST_ENDED)
        except OSError as error:
            self._answer(Failed(f"the bench's guest cannot be told what to do: {error.strerror}"))

    def _guest_answered(self) -> None:
        try:
            said = self._control.recv(1 << 16)
        except ConnectionError:
            said = b""
        if said:
            self._answer(cast(Outcome, decode(said)))
        else:
            self._loop.unwatch(self._control.fileno())
            self._answer(_GUEST_ENDED)

    def _answer(self, outcome: Outcome) -> None:
        """Send the outcome to rank 0, with this rank's resource usage. ru_maxrss is in KiB (getrusage(2))."""
        rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        dropped = sum(self.switch.counters.drops.values())
        self.switch.send_control(0, encode(Answer(outcome, time.process_time(), rss_mb, dropped)))
