"""Guests whose disk comes from the image store: fetched once, grown for each, and left in the store as it was."""

from __future__ import annotations

import hashlib
import lzma
import os
import re

from imageserver import image_server
from mvpnet.images import tiny
from mvpnet.images.store.store import Store
from mvpnet.paths import cache_base

DISK = bytes(510) + b"\x55\xaa" + os.urandom(2**20 - 512)


def test_two_guests_share_a_fetched_image_and_see_a_larger_disk(run_mvpnet, tmp_path):
    kernel = tiny.ensure(cache_base(None) / "tiny", print)
    with image_server() as server:
        done = run_mvpnet(
            "image=file",
            f"image.source={server.serve('disk.raw.xz', lzma.compress(DISK))}",
            "image.size=+2G",
            f"image.cache_dir={tmp_path / 'cache'}",
            f"image.kernel={kernel.kernel}",
            f"image.initrd={kernel.initrd}",
            "image.kernel_args='console=ttyS0'",
            "vm.memory=256M",
            'app.command=["true"]',
            "hydra.run.dir=run",
            env={"no_proxy": "127.0.0.1"},
        )
        assert done.code == 0, done
        assert len(server.requests) == 1
    [image] = Store(tmp_path / "cache" / "images").images()
    assert hashlib.sha256(image.disk.read_bytes()).hexdigest() == hashlib.sha256(DISK).hexdigest()
    for rank in (0, 1):
        console = (tmp_path / "run" / f"rank-{rank:04d}" / "console.log").read_text(errors="replace")
        found = re.search(r"\[vda\] (\d+) 512-byte logical blocks", console)
        assert found, console
        assert int(found[1]) * 512 == len(DISK) + 2 * 2**30
