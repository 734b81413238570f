"""File locks, as processes and threads that share a file see them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvpnet.util.locks import is_locked, lock, lock_shared, open_locked, try_lock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lock"


@pytest.fixture
def held(path: Path) -> Iterator[int]:
    """A descriptor that holds the lock, until the test closes it or ends."""
    fd = open_locked(path)
    yield fd
    if is_locked(path):
        os.close(fd)


@pytest.fixture
def another(path: Path, held: int) -> Iterator[int]:
    """Another descriptor of the same file: flock(2) counts it as another owner."""
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def test_one_has_it_alone(path: Path, held: int, another: int) -> None:
    assert is_locked(path)
    assert not try_lock(another)
    os.close(held)
    assert not is_locked(path)
    assert try_lock(another)
    assert is_locked(path)


def test_whoever_looks_leaves_it_free(path: Path, held: int, another: int) -> None:
    os.close(held)
    assert not is_locked(path)
    assert try_lock(another)


def test_many_users_are_no_owner(path: Path, held: int, another: int) -> None:
    os.close(held)
    lock_shared(another)
    assert not is_locked(path)
    third = os.open(path, os.O_RDWR)
    assert not try_lock(third)
    os.close(third)


def test_a_file_that_is_not_there_is_not_locked(path: Path) -> None:
    assert not is_locked(path)
    assert not path.exists()


def test_who_waits_says_so_first_and_gets_it(path: Path, held: int, another: int) -> None:
    lock(another, on_wait=lambda: os.close(held))
    assert is_locked(path)


def test_nobody_waits_for_a_free_one(path: Path, held: int, another: int) -> None:
    os.close(held)
    lock(another, on_wait=lambda: pytest.fail("it is free"))


def test_a_file_that_was_unlinked_is_made_again(path: Path, held: int) -> None:
    got: list[int] = []
    waiting = threading.Thread(target=lambda: got.append(open_locked(path)))
    waiting.start()
    path.unlink()  # as the owner does in the end, whether the other has opened it by now or not
    os.close(held)
    waiting.join()
    assert is_locked(path)
    os.close(got[0])
