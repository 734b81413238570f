"""image.size: the boot disk's overlay or copy is grown as qemu-img resize would, and the image never."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mvpnet.errors import ConfigError, ImageError
from mvpnet.guest.drive_files import prepare_drives, remove_leftovers
from mvpnet.guest.drives import plan_drives
from mvpnet.spec.model import JobSpec, RankSpec
from mvpnet.spec.schema import Config, Image, ImageKind, ImageUse, Job

MIB = 2**20
pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


@pytest.fixture(params=["raw", "qcow2"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An image of 10 MiB."""
    path = tmp_path / f"disk.{request.param}"
    subprocess.run(["qemu-img", "create", "-q", "-f", request.param, path, "10M"], check=True)
    return path


def make_spec(path: Path, **image: Any) -> RankSpec:
    config = Config(job=Job(name="job7"), image=Image(kind=ImageKind.file, path=str(path), **image))
    return JobSpec(world_size=1, run_dir=Path("/run"), config=config).for_rank(0)


def virtual_bytes(path: Path) -> int:
    told = subprocess.run(["qemu-img", "info", "--output=json", path], check=True, capture_output=True)
    return int(json.loads(told.stdout)["virtual-size"])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("use", [ImageUse.overlay, ImageUse.copy])
@pytest.mark.parametrize(("size", "expected"), [("+3M", 13), ("20M", 20), ("10M", 10), ("+0", 10), ("1G", 1024)])
def test_the_overlay_or_copy_is_grown(disk, tmp_path, use, size, expected):
    before = digest(disk)
    [plan] = plans = plan_drives(make_spec(disk, use=use, size=size), tmp_path)
    prepare_drives(plans, pytest.fail)
    assert plan.target is not None
    assert virtual_bytes(plan.target) == expected * MIB
    assert (digest(disk), virtual_bytes(disk)) == (before, 10 * MIB)
    remove_leftovers(plans, pytest.fail)


def test_a_copy_that_is_kept_is_grown_once(disk, tmp_path):
    copies = tmp_path / "copies"
    copies.mkdir()
    for size, expected in (("+3M", 13), ("+3M", 13), ("+5M", 15), ("+3M", 15)):
        spec = make_spec(disk, use=ImageUse.copy, copy_dir=str(copies), keep_copies=True, size=size)
        prepare_drives(plan_drives(spec, tmp_path), lambda line: None)
        [copy] = copies.iterdir()
        assert virtual_bytes(copy) == expected * MIB


def test_a_disk_is_not_shrunk(disk, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for use in (ImageUse.overlay, ImageUse.copy):
        with pytest.raises(ImageError, match=r"image\.size: 9M is .* bytes, and .* shrinking would lose data"):
            prepare_drives(plan_drives(make_spec(disk, use=use, size="9M"), scratch), pytest.fail)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"size": "-3G"}, "would shrink the disk"),
        ({"size": "large"}, "is not a size"),
        ({"size": "+3G", "use": ImageUse.direct}, r"image\.size: with image\.use=direct there is no overlay"),
        ({"size": "+3G", "use": ImageUse.snapshot}, r"image\.size: with image\.use=snapshot"),
        ({"size": "+3G", "use": ImageUse.readonly}, r"image\.size: with image\.use=readonly"),
    ],
)
def test_sizes_that_are_refused(disk, tmp_path, image, message):
    with pytest.raises(ConfigError, match=message):
        plan_drives(make_spec(disk, **image), tmp_path)


def test_a_size_with_nothing_to_grow(disk, tmp_path):
    for image in (Image(size="+3G"), Image(kind=ImageKind.file, size="+3G", drives=[f"file={disk},if=virtio"])):
        spec = JobSpec(1, Path("/run"), Config(job=Job(name="job7"), image=image)).for_rank(0)
        with pytest.raises(ConfigError, match=r"image\.size: "):
            plan_drives(spec, tmp_path)


def test_only_the_boot_disk_is_grown(disk, tmp_path):
    second = tmp_path / "second.img"
    shutil.copy(disk, second)
    plans = plan_drives(make_spec(disk, size="+3M", drives=[str(second)]), tmp_path)
    prepare_drives(plans, pytest.fail)
    assert [virtual_bytes(plan.target) for plan in plans if plan.target] == [13 * MIB, 10 * MIB]
