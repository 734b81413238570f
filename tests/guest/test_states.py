"""How an end is judged and told, as a table."""

from __future__ import annotations

import signal

import pytest

from mvpnet.guest.states import Ending, Exit, GuestState, Shutdown, how_it_ended, why_it_ended

GUEST_OFF = Shutdown(True, "guest-shutdown")
PANIC = Shutdown(True, "guest-panic")
QUIT = Shutdown(False, "host-qmp-quit")
TERM = Shutdown(False, "host-signal")


@pytest.mark.parametrize(
    ("seen", "how", "why"),
    [
        (Exit(0, None, shutdown=GUEST_OFF), Ending.powered_off, "the guest powered off (guest-shutdown)"),
        (
            Exit(0, None, shutdown=Shutdown(True, "guest-reset")),
            Ending.powered_off,
            "the guest powered off (guest-reset)",
        ),
        (Exit(0, None), Ending.powered_off, "the guest powered off"),
        (Exit(0, None, had_run=False), Ending.crashed, "qemu ended with exit code 0: last line"),
        (Exit(0, None, asked=True, shutdown=GUEST_OFF), Ending.stopped, "stopped (guest-shutdown)"),
        (Exit(0, None, steps=("eof", "powerdown"), shutdown=GUEST_OFF), Ending.stopped, "stopped (guest-shutdown)"),
        (Exit(0, None, asked=True, steps=("eof", "sigterm"), shutdown=TERM), Ending.stopped, "stopped by SIGTERM"),
        (Exit(None, signal.SIGTERM, asked=True, steps=("eof", "sigterm")), Ending.stopped, "stopped by SIGTERM"),
        (Exit(143, None, asked=True, steps=("eof", "sigterm")), Ending.stopped, "stopped by SIGTERM"),
        (Exit(0, None, shutdown=QUIT), Ending.stopped, "stopped (host-qmp-quit)"),
        (Exit(0, None, shutdown=TERM), Ending.stopped, "stopped (host-signal)"),
        (Exit(None, signal.SIGKILL, asked=True, steps=("sigkill",)), Ending.killed, "qemu was killed"),
        (
            Exit(None, signal.SIGKILL, asked=True, steps=("eof", "sigterm", "sigkill")),
            Ending.killed,
            "qemu was killed, as nothing gentler ended it",
        ),
        (
            Exit(None, signal.SIGKILL),
            Ending.crashed,
            "qemu was killed from outside (SIGKILL), perhaps for want of memory: last line",
        ),
        (Exit(None, signal.SIGSEGV), Ending.crashed, "qemu was killed by SIGSEGV: last line"),
        (
            Exit(None, signal.SIGABRT, asked=True, steps=("eof", "powerdown")),
            Ending.crashed,
            "qemu was killed by SIGABRT: last line",
        ),
        (Exit(1, None), Ending.crashed, "qemu ended with exit code 1: last line"),
        (Exit(0, None, shutdown=PANIC), Ending.panicked, "the guest panicked (kernel panic)"),
        (
            Exit(0, None, shutdown=PANIC, panic="Attempted to kill init!"),
            Ending.panicked,
            "the guest panicked (kernel panic): Attempted to kill init!",
        ),
        (
            Exit(None, signal.SIGKILL, steps=("sigkill",), panic=""),
            Ending.panicked,
            "the guest panicked (kernel panic)",
        ),
        (Exit(1, None, shutdown=GUEST_OFF), Ending.crashed, "qemu ended with exit code 1 (guest-shutdown): last line"),
    ],
)
def test_ends(seen, how, why):
    assert how_it_ended(seen) is how
    assert why_it_ended(seen, ("first line", "last line")) == why


def test_an_end_without_last_words():
    assert why_it_ended(Exit(2, None), ()) == "qemu ended with exit code 2"


def test_states_are_in_order():
    names = [state.value for state in GuestState]
    resumed = ("loading", "loaded")
    assert names == ["prepared", "starting", "booting", *resumed, "configuring", "up", "running", "stopping", "gone"]
    assert GuestState.prepared.precedes(GuestState.gone)
    assert not GuestState.up.precedes(GuestState.up)
    assert not GuestState.gone.precedes(GuestState.running)
