"""Images that change under a guest."""

from __future__ import annotations

import os
from pathlib import Path

from mvpnet.guest.drives import DrivePlan, made_seed_drive
from mvpnet.guest.image_guard import changed, stat_snapshot
from mvpnet.spec.schema import ImageUse


def test_only_what_is_read_in_place_is_looked_at(tmp_path: Path) -> None:
    paths = {use: tmp_path / use.name for use in ImageUse}
    for path in paths.values():
        path.write_bytes(bytes(10))
    before = stat_snapshot(
        [*(DrivePlan("image.path", "", use, path) for use, path in paths.items()), DrivePlan("x", "file=y")]
    )
    assert set(before) == {paths[use] for use in (ImageUse.overlay, ImageUse.snapshot, ImageUse.readonly)}
    assert changed(before) == []
    for path in paths.values():
        os.truncate(path, 5)
    assert len(changed(before)) == 3
    assert all("has 5 bytes and had 10 since the guest started" in text for text in changed(before))
    paths[ImageUse.overlay].unlink()
    paths[ImageUse.snapshot].write_bytes(bytes(10))
    os.utime(paths[ImageUse.snapshot], (1, 1))
    said = "\n".join(changed(before))
    assert f"{paths[ImageUse.overlay]} is gone since" in said
    assert f"{paths[ImageUse.snapshot]} was written since" in said


def test_a_seed_that_mvpnet_made_goes_with_the_guest(tmp_path):
    seed = tmp_path / "seed.iso"
    seed.write_bytes(bytes(2048))
    assert stat_snapshot([made_seed_drive(seed)]) == {}
