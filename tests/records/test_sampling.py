"""Counters over time, taken by a real loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mvpnet.dataplane.counters import Counters
from mvpnet.records.sampling import Sampler
from mvpnet.runtime.loop import Loop


class Counted:
    """What a switch shows of itself."""

    def __init__(self) -> None:
        self.counters = Counters()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_for(loop: Loop, seconds: float) -> None:
    loop.call_later(seconds, loop.stop)
    loop.run()


def test_what_changes_is_written_and_an_idle_time_is_bracketed(tmp_path: Path) -> None:
    loop, counted, path = Loop(), Counted(), tmp_path / "traffic.jsonl"
    sampler = Sampler(loop, counted, path, 0.01)
    run_for(loop, 0.2)
    counted.counters.frames_from_guest, counted.counters.drops["guest_full"] = 7, 2
    sampler.close()
    idle, last = lines(path)
    assert (idle["frames_from_guest"], last["frames_from_guest"]) == (0, 7)
    assert idle["t"] <= last["t"]
    assert last["drops"] == {"guest_full": 2} and "bytes_by_destination" not in last


def test_a_guest_without_traffic_has_no_file(tmp_path: Path) -> None:
    loop = Loop()
    sampler = Sampler(loop, Counted(), tmp_path / "traffic.jsonl", 0.01)
    run_for(loop, 0.05)
    sampler.close()
    assert list(tmp_path.iterdir()) == []


def test_zero_is_never(tmp_path: Path) -> None:
    loop = Loop()
    sampler = Sampler(loop, Counted(), tmp_path / "traffic.jsonl", 0)
    run_for(loop, 0.02)
    sampler.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_ends_the_sampling_and_not_the_loop(tmp_path: Path) -> None:
    loop, counted = Loop(), Counted()
    sampler = Sampler(loop, counted, tmp_path / "nowhere" / "traffic.jsonl", 0.01)
    run_for(loop, 0.05)
    counted.counters.frames_from_guest = 1
    sampler.close()


def test_a_full_disk_is_no_end(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    loop, counted = Loop(), Counted()
    sampler = Sampler(loop, counted, Path("/dev/full"), 0.01)
    run_for(loop, 0.03)
    counted.counters.frames_from_guest = 1
    sampler.close()
