"""Guests that run already: booted and saved once a session, and resumed by each test that needs running guests.

Each kind of boot is done for real in a test of its own; these are for what comes after one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from boot.test_guests import stopped, up
from control.verbs import said
from support import RunningJob, StartMvpnet

ResumeGuests = Callable[..., RunningJob]


@pytest.fixture(scope="session")
def saves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the session's saves, which all workers of pytest-xdist share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "saves"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def resume_guests(saves: Path, start_mvpnet: StartMvpnet) -> ResumeGuests:
    """resume_guests(ranks, *words) gives a job of so many tiny guests that run, with its run folder in `run`."""

    def resume(ranks: int, *words: str) -> RunningJob:
        save = saves / f"tiny-{ranks}"
        with _locked(saves / "lock"):
            if not save.exists():
                _save(save, start_mvpnet, ranks)
        job = start_mvpnet(f"resume={save}", "hydra.run.dir=run", *words, ranks=ranks)
        job.wait_for(f"{ranks}/{ranks} guests up", 120)
        return job

    return resume


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _save(save: Path, start_mvpnet: StartMvpnet, ranks: int) -> None:
    job = up(start_mvpnet, ranks, f"job.name={save.name}")
    said("save", save.name, str(save))
    stopped(job)
    shutil.rmtree(job.cwd / "run")
