"""One rank's part of a save: what it is checked for, and the drives that stand on it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mvpnet.errors import ConfigError, HostError
from mvpnet.guest.drives import DrivePlan
from mvpnet.snapshot.layout import RankPart, SaveFolder, as_text
from mvpnet.snapshot.machine import this_cpu_flags
from mvpnet.snapshot.restore import Resume, Resumed, resumed
from mvpnet.spec.schema import Accel, ImageUse
from mvpnet.util.files import write_private

STANDIN = str(Path(__file__).parent.parent / "standin.py")
PART = RankPart("id1", 0, "7.2.0", "tcg", [], ["-m 1G"], {"0": "raw"}, {"memory": 3})


def saved(root: Path, part: RankPart = PART) -> Path:
    folder = SaveFolder(root).rank(part.rank)
    folder.root.mkdir(parents=True)
    folder.memory.write_text("abc")
    write_private(folder.rank_json, as_text(part))
    return root


def opened(root: Path, part: RankPart = PART) -> Resumed:
    found = resumed(Resume(saved(root, part), part.save), part.rank)
    assert found
    return found


def test_a_job_that_boots_has_none():
    assert resumed(None, 0) is None


def test_a_part_that_fits(tmp_path: Path):
    part = opened(tmp_path)
    part.check_host(STANDIN, Accel.tcg)
    part.check_machine(["-m 1G"])


@pytest.mark.parametrize(
    ("part", "accel", "problem"),
    [
        (replace(PART, qemu_version="8.1.0"), Accel.tcg, "is 7.2.0, and the save is of qemu 8.1.0"),
        (replace(PART, accel="kvm"), Accel.tcg, "saved under KVM, and this host runs them under TCG"),
        (PART, Accel.kvm, "saved under TCG, and this host runs them under KVM"),
        (replace(PART, accel="kvm", cpu_flags=[*this_cpu_flags(), "warp"]), Accel.kvm, "lacks what .*: warp$"),
    ],
)
def test_hosts_that_it_does_not_fit(tmp_path: Path, part: RankPart, accel: Accel, problem: str):
    with pytest.raises(HostError, match=problem):
        opened(tmp_path, part).check_host(STANDIN, accel)


def test_a_program_that_is_no_qemu(tmp_path: Path):
    with pytest.raises(HostError, match="an unknown version"):
        opened(tmp_path).check_host(sys.executable, Accel.tcg)


def test_the_cpu_that_it_was_saved_with(tmp_path: Path):
    machine = ["-m 1G", "-cpu max", "-cpu of the user's own qemu.extra_args"]
    assert opened(tmp_path, replace(PART, machine=machine)).cpu_model == "max"
    assert opened(tmp_path / "other").cpu_model is None


def test_another_machine(tmp_path: Path):
    with pytest.raises(HostError, match="saved with -m 1G; here there is -m 2G"):
        opened(tmp_path).check_machine(["-m 2G"])


def test_a_part_that_is_not_on_this_host(tmp_path: Path):
    with pytest.raises(HostError, match="rank-0001: is not on this host"):
        resumed(Resume(saved(tmp_path), "id1"), 1)


def test_a_part_of_another_save(tmp_path: Path):
    with pytest.raises(ConfigError, match="part of another save"):
        resumed(Resume(saved(tmp_path), "id2"), 0)


def test_a_part_that_is_cut_short_or_broken(tmp_path: Path):
    folder = SaveFolder(saved(tmp_path)).rank(0)
    folder.memory.write_text("ab")
    with pytest.raises(ConfigError, match="memory: is not whole any more: 3 bytes were saved"):
        resumed(Resume(tmp_path, "id1"), 0)
    folder.rank_json.write_text(json.dumps({"save": "id1", "wings": 2}))
    with pytest.raises(ConfigError, match="is not what mvpnet writes there"):
        resumed(Resume(tmp_path, "id1"), 0)
    folder.rank_json.unlink()
    with pytest.raises(ConfigError, match="is no rank's part of a save"):
        resumed(Resume(tmp_path, "id1"), 0)


def test_the_save_below_it_has_to_be_there(tmp_path: Path):
    below = tmp_path / "below"
    with pytest.raises(HostError, match="below/rank-0000: is not on this host"):
        resumed(Resume(saved(tmp_path / "up"), "id1", ((str(below), "id0"),)), 0)


def test_overlays_stand_on_the_saved_disks(tmp_path: Path):
    seed = DrivePlan("cloud_init.seed", "file=/seed,format=raw", ImageUse.readonly, Path("/seed"), "raw", Path("/seed"))
    option = "file=/scratch/drive0-0.qcow2,format=qcow2,media=disk,if=virtio"
    target = Path("/scratch/drive0-0.qcow2")
    disk = DrivePlan("image.path", option, ImageUse.overlay, Path("/i"), "raw", target, "qcow2", True, (target,), "9G")
    new, same = opened(tmp_path).drives((disk, seed), Path("/other,place"))
    assert same is seed
    assert new.option == "file=/other,,place/resumed0.qcow2,format=qcow2,media=disk,if=virtio"
    assert (new.source, new.source_format) == (tmp_path / "rank-0000/drive0.disk", "raw")
    assert (new.target, new.remove, new.size) == (
        *(Path("/other,place/resumed0.qcow2"), (Path("/other,place/resumed0.qcow2"),), None),
    )
