"""The room that a save takes, and who makes it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mvpnet.snapshot import copy_disks
from mvpnet.snapshot.agent import resident_bytes
from mvpnet.snapshot.coordinator import NoSaveError, check_space
from mvpnet.util.files import size_on_disk

MB = 10**6


def rank(place: str, needs: int, free: int) -> dict[str, object]:
    return {"place": place, "needs_bytes": needs * MB, "free_bytes": free * MB}


def test_ranks_of_one_file_system_share_its_room():
    check_space([rank("", 40, 100), rank("", 60, 100), rank("other", 90, 95)])
    with pytest.raises(NoSaveError, match="not enough room: 120 MB are needed at most, 100 MB are free"):
        check_space([rank("", 60, 100), rank("", 60, 110)])
    with pytest.raises(NoSaveError, match="not enough room on other: 96 MB are needed at most, 95 MB"):
        check_space([rank("", 60, 100), rank("other", 96, 95)])


def test_memory_that_was_never_touched_takes_none():
    assert resident_bytes(os.getpid()) > 4096
    assert resident_bytes(None) == 0


def test_disks_are_copied_with_their_holes(tmp_path: Path):
    source, folder = tmp_path / "disk", tmp_path / "save"
    folder.mkdir()
    with source.open("wb") as file:
        file.write(b"a" * 4096)
        file.truncate(2**26)
    assert copy_disks.main([str(folder), str(source), str(folder / "drive0.disk")]) == 0
    assert (folder / "drive0.disk").stat().st_size == 2**26
    assert size_on_disk(folder) < 2**20
    shutil.rmtree(folder)


def test_a_disk_that_is_gone_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert copy_disks.main([str(tmp_path), str(tmp_path / "none"), str(tmp_path / "new")]) == 1
    assert "none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
