"""The watch on a console: a panic's last line, however it comes, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvpnet.guest import panic_watch
from mvpnet.guest.panic_watch import PanicWatch
from mvpnet.runtime.loop import Loop
from waiting import run_until

LINE = "[ 9.2] ---[ end Kernel panic - not syncing: Attempted to kill init! ]---\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panic_watch, "LOOK_EVERY_S", 0.01)


def caught_up(loop: Loop, watch: PanicWatch, log: Path) -> None:
    run_until(loop, lambda: watch._at == log.stat().st_size, what="the watch to read all")


@pytest.mark.parametrize("cut", [1, 12, 30])
def test_the_line_may_come_in_two_parts(tmp_path: Path, cut: int) -> None:
    loop, log, told = Loop(), tmp_path / "console.log", []
    watch = PanicWatch(loop, log, 0, lambda: told.append(1))
    with log.open("w") as console:
        console.write("x" * 5000 + LINE[:cut])
        console.flush()
        caught_up(loop, watch, log)
        assert not told
        console.write(LINE[cut:])
    run_until(loop, lambda: told)
    assert told == [1]


def test_what_was_there_before_and_a_kernel_that_starts_again_are_no_panic(tmp_path: Path) -> None:
    loop, log, told = Loop(), tmp_path / "console.log", []
    log.write_text(LINE)
    watch = PanicWatch(loop, log, len(LINE), lambda: told.append(1))
    with log.open("a") as console:
        console.write("[ 9.1] Kernel panic - not syncing: Fatal exception\n[ 9.2] Rebooting in 10 seconds..\n")
    caught_up(loop, watch, log)
    watch.cancel()
    assert told == []
