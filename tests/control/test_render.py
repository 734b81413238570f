"""What is shown of jobs, ranks and logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvpnet.control.registry import JobHandle, RegistryEntry
from mvpnet.control.render import amount, rates, status_facts, status_text
from mvpnet.control.tail import show
from mvpnet.control.terminal import escape_byte
from mvpnet.errors import ConfigError


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (12.34, "12.3"), (999, "999"), (999.6, "1 k"), (1234, "1.23 k"), (5e8, "500 M")]
)
def test_amount(number: float, text: str) -> None:
    assert amount(number) == text


def test_rates() -> None:
    keys = ("frames_from_guest", "bytes_from_guest", "frames_to_guest", "bytes_to_guest")
    before = {"time_s": 10.0, "counters": {**dict.fromkeys(keys, 100), "drops": {"forged": 2}}}
    now = {"time_s": 12.0, "counters": {**dict.fromkeys(keys, 300), "drops": {"forged": 2, "guest_full": 8}}}
    assert rates(before, now) == {**{f"{key}_per_s": 100.0 for key in keys}, "drops_per_s": 4.0}


def test_status_of_guests_that_run_are_gone_or_silent() -> None:
    counters = dict.fromkeys(("frames_from_guest", "bytes_from_guest", "frames_to_guest", "bytes_to_guest"), 0)
    counted = {**counters, "drops": {"forged": 3}}
    here = {"state": "running", "qemu_pid": 5, "qemu_version": "7.2.0", "counters": counted, "restarts": 0}
    lived = [["up", 20.0], ["gone", 30.0], ["up", 50.0], ["running", 60.0]]
    runs = {**here, "states": lived, "restarts": 1}
    gone = {**here, "state": "gone", "states": [["up", 50.0], ["gone", 70.0]]}
    end = {"how": "crashed", "reason": "qemu was killed", "cause": None, "phase": "running", "console": []}
    answer = {
        "phase": "running",
        "states": ["running", "gone", "running"],
        "doors": [{"rank": rank, "host": "h", "port": 2200 + rank, "user": "root"} for rank in range(3)],
        "ends": {"1": end},
    }
    first, second = (
        {
            **answer,
            "ranks": [{"ok": {**runs, "time_s": at}}, {"ok": {**gone, "time_s": at}}, {"error": {"message": "no"}}],
        }
        for at in (100.0, 101.0)
    )
    job = JobHandle(Path("/nowhere"), RegistryEntry("mine", 7, 3, "/run", "/scratch", started_s=40.0), True)
    status = status_facts(job, first, second)
    assert [rank["up_s"] for rank in status["ranks"]] == [51.0, None, None]
    assert [rank["state_since"] for rank in status["ranks"]] == [60.0, 70.0, None]
    assert [rank["answers"] for rank in status["ranks"]] == [True, True, False]
    assert status["ranks"][1]["end"] == {"how": "crashed", "reason": "qemu was killed", "cause": None}
    text = status_text(status, 200)
    assert "running, restarted once" in text
    assert "gone: qemu was killed" in text and "running, does not answer" in text and "51 s" in text
    before_boot = status_facts(job, None, None)
    assert (before_boot["job"]["phase"], before_boot["ranks"]) == ("preparing", [])
    assert status_text(before_boot, 200).startswith("job mine (id 7): preparing")


@pytest.mark.parametrize(("text", "byte"), [("^]", b"\x1d"), ("^a", b"\x01"), ("^A", b"\x01"), ("~", b"~")])
def test_escape(text: str, byte: bytes) -> None:
    assert escape_byte(text) == byte
    assert escape_byte("none") is None


@pytest.mark.parametrize("text", ["", "^", "^é", "^]x", "no"])
def test_no_escape(text: str) -> None:
    if text == "^":
        assert escape_byte(text) == b"^"
        return
    with pytest.raises(ConfigError, match="--escape"):
        escape_byte(text)


def test_logs_side_by_side_as_they_grow(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"one\ntwo\nthr")
    steps = iter([lambda: second.write_bytes(b"late\n"), lambda: first.write_bytes(b"one\ntwo\nthree\nlast"), None])

    def go_on() -> bool:
        step = next(steps)
        if step:
            step()
        return step is not None

    shown = bytearray()
    show({"n0000": first, "n0001": second}, 2, shown.extend, go_on)
    assert shown.splitlines() == [b"n0000 | two", b"n0001 | late", b"n0000 | three", b"n0000 | last"]


def test_one_log_is_shown_as_it_is(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo\nno end: ")
    shown = bytearray()
    show({"n0000": log}, 2, shown.extend, None)
    assert shown == b"two\nno end: "
    show({"n0000": log}, 0, shown.extend, None)
    assert shown == b"two\nno end: "
