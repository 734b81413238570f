"""Scripts that can run nowhere are refused by their key, before any guest starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mvpnet.cloudinit.seed_files import rank_seed
from mvpnet.cloudinit.user_data import SeedFacts
from mvpnet.errors import ConfigError, HostError, MvpnetError
from mvpnet.images.store.request import declaration
from mvpnet.spec.app_steps import check_steps, steps_of
from mvpnet.spec.checks import check_job
from mvpnet.spec.model import JobSpec
from mvpnet.spec.schema import App, AppKind, CloudInit, Config, Image, ImageKind, Job, Prepare
from mvpnet.spec.script_text import first_line_fault, interpreter

FAULTS = [
    (b"#!/bin/sh\r\necho\r\n", "CR LF"),
    (b"#!/usr/bin/env python3\r\n", "CR LF"),
    (b"#!/bin/sh -e\r", "CR LF"),
    (b"\xef\xbb\xbf#!/bin/sh\n", "byte order mark"),
    (b"#!\necho\n", "names no interpreter"),
    (b"#!python3\n", "no absolute path"),
]
FINE = [b"", b"#!/bin/sh\n", b"#! /bin/sh -e\nprintf 'a\r\n'\n", b"echo\n", b"\x7fELF", b"#!/bin/sh"]


@pytest.mark.parametrize(("head", "what"), FAULTS)
def test_faults_of_a_first_line(head: bytes, what: str) -> None:
    assert what in str(first_line_fault(head))


@pytest.mark.parametrize("head", FINE)
def test_first_lines_that_work(head: bytes) -> None:
    assert first_line_fault(head) is None


def test_the_interpreter() -> None:
    assert interpreter(b"#! /usr/bin/env  python3\nx") == "/usr/bin/env" and interpreter(b"echo") == ""


def by_script(path: Path) -> None:
    check_steps(steps_of(App(kind=AppKind.guest, script=[str(path), "1"])), 1)


def by_step(path: Path) -> None:
    check_steps(steps_of(App(kind=AppKind.guest, steps={"one": {"script": [str(path)]}})), 1)


def by_push(path: Path) -> None:
    check_steps(steps_of(App(kind=AppKind.guest, command="date", push={"run": str(path)})), 1)


def by_command(path: Path | str) -> None:
    check_steps(steps_of(App(command=[str(path)])), 1)


def by_files(path: Path) -> None:
    config = Config(
        job=Job(name="job"), image=Image(kind=ImageKind.cloud), cloud_init=CloudInit(files={"/run": str(path)})
    )
    rank_seed(JobSpec(1, Path("/run"), config).for_rank(0), "alice", SeedFacts("ssh-ed25519 JOB", "PRIVATE\n"))


def by_prepare(path: Path) -> None:
    image = Image(kind=ImageKind.cloud, source="/images/x.qcow2", prepare=Prepare(script=str(path)))
    declaration(image)


def by_written(path: Path) -> None:
    asked = CloudInit(write_files=[{"path": "/run", "content": path.read_bytes().decode()}])
    check_job(JobSpec(1, Path("/run"), Config(job=Job(name="job"), cloud_init=asked)))


GIVEN: dict[str, Any] = {
    "app.script": by_script,
    "app.steps.one.script": by_step,
    "app.push": by_push,
    "app.command": by_command,
    "cloud_init.files./run": by_files,
    "image.prepare.script": by_prepare,
    "cloud_init.write_files[0].content": by_written,
}


@pytest.mark.parametrize("key", GIVEN)
def test_windows_lines_are_told_wherever_a_script_is_given(tmp_path: Path, key: str) -> None:
    path = tmp_path / "run.sh"
    path.write_bytes(b"#!/bin/sh\r\necho\r\n")
    path.chmod(0o755)
    with pytest.raises(MvpnetError) as caught:
        GIVEN[key](path)
    assert str(caught.value).startswith(f"{key}: ") and "CR LF" in str(caught.value)
    path.write_bytes(b"#!/bin/sh\necho\n")
    GIVEN[key](path)


def test_data_may_have_windows_lines(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,b\r\n")
    path.chmod(0o777)
    by_push(path)
    with pytest.raises(ConfigError, match="CR LF"):
        by_script(path)


@pytest.mark.parametrize(
    ("line", "what"), [("#!/no/such/bash", "the interpreter /no/such/bash"), ("#!/usr/bin/env no-such", "for no-such")]
)
def test_an_interpreter_that_this_host_lacks_is_told_for_programs_of_the_host(
    tmp_path: Path, line: str, what: str
) -> None:
    path = tmp_path / "run.sh"
    path.write_text(f"{line}\n")
    path.chmod(0o755)
    with pytest.raises(ConfigError, match=rf"^app\.command: .*{what}"):
        by_command(path)
    by_script(path)  # guests may have it


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("./nosuch", "there is no program"),
        ("no-such-program", "on this host's PATH"),
        ("./text", "cannot be run"),
        ("/tmp", "there is no program /tmp"),
    ],
)
def test_a_program_that_this_host_lacks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("x")
    with pytest.raises(HostError, match=rf"^app\.command: .*{told}"):
        by_command(program)


def test_a_folder_is_no_script(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^app\.script: .* is a folder"):
        by_script(tmp_path)
