"""A rank's part in a save that is dropped at awkward moments: no guest goes on before qemu has ended writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mvpnet.control.rank_messages import SaveRequest
from mvpnet.guest.states import GuestState
from mvpnet.runtime.loop import Loop
from mvpnet.snapshot.agent import SnapshotAgent, SnapshotFacts
from mvpnet.snapshot.layout import SaveFolder

Reply = dict[str, Any]


class Machine:
    """A guest whose qemu answers QMP at once, and begins to save when the test lets it."""

    state = GuestState.running
    qemu_pid = None
    qemu_version = "7.2.0"

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.begin: Callable[[Reply], None] = lambda reply: None

    def qmp(self, command: Mapping[str, Any], on_reply: Callable[[Reply], None]) -> None:
        self.commands.append(command["execute"])
        status = "cancelled" if "migrate_cancel" in self.commands else "active"
        answers = {"query-status": {"status": "running"}, "query-migrate": {"status": status}}
        on_reply({"return": answers.get(command["execute"], {})})

    def save_memory(self, path: Path, on_reply: Callable[[Reply], None]) -> None:
        self.commands.append("save")
        self.begin = on_reply


class Bench:
    def __init__(self, folder: Path) -> None:
        self.machine = Machine()
        self.agent = SnapshotAgent(Loop(), lambda: self.machine, SnapshotFacts(0, "tcg", [], [], [], [], None, ()))
        self.work = SaveRequest("", "1", str(folder / ".up.1.part"), str(folder / "up"))
        self.answers: list[dict[str, Any]] = []

    def step(self, *steps: str) -> None:
        for step in steps:
            self.agent.hear(replace(self.work, step=step), self.answers.append)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_dropped_before_qemu_has_begun_to_write(bench: Bench, tmp_path: Path) -> None:
    bench.step("check", "freeze", "write", "drop")
    assert "cont" not in bench.machine.commands
    bench.machine.begin({"return": {}})
    assert bench.machine.commands[-3:] == ["migrate_cancel", "query-migrate", "cont"]
    assert all("ok" in answer for answer in bench.answers) and len(bench.answers) == 4
    assert list(tmp_path.iterdir()) == []


def test_dropped_and_given_up_at_once(bench: Bench, tmp_path: Path) -> None:
    bench.step("check", "freeze", "write", "drop")
    bench.agent.give_up()
    bench.machine.begin({"error": {"class": "GenericError", "desc": "no"}})
    assert bench.machine.commands[-1] == "cont"
    assert [next(iter(answer)) for answer in bench.answers] == ["ok", "ok", "error", "ok"]
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_it_knows_nothing_of(bench: Bench) -> None:
    bench.step("freeze", "drop")
    assert bench.answers == [{"error": {"message": "this rank knows of no such save"}}, {"ok": None}]
    assert bench.machine.commands == []


def test_a_rank_that_does_not_share_the_folder_gives_its_part_the_name(bench: Bench, tmp_path: Path) -> None:
    bench.step("check")
    (tmp_path / "up").mkdir()
    bench.step("keep")
    assert "is there already" in bench.answers[-1]["error"]["message"]
    bench.step("drop")
    assert [path.name for path in tmp_path.iterdir()] == ["up"]
    assert not SaveFolder(tmp_path / "up").save_json.exists()
