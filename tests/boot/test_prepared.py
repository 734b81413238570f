"""An image that is prepared once: a package installed in one guest, the disk sealed, and two guests booted from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boot.aptrepository import PACKAGE, SAYS, apt_repository
from boot.test_cloud_init import COMMON, PACKAGES, UNTIL_TOLD, finished
from boot.test_guests import answers
from mvpnet.guest import debian
from mvpnet.guest.yamltext import yaml_text
from mvpnet.paths import cache_base

pytestmark = pytest.mark.timeout(2000)  # three boots, and a machine that others use too


def test_a_prepared_image_has_what_was_declared_and_nothing_of_who_made_it(start_mvpnet, tmp_path: Path) -> None:
    built = cache_base(None) / "debian"
    debian.ensure(built, PACKAGES, print)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "debian").symlink_to(built)
    (tmp_path / "script.sh").write_text("#!/bin/sh\nid -un >/srv/by-script\n")
    option = tmp_path / "mvpnet.d/image/mine.yaml"
    option.parent.mkdir(parents=True)
    with apt_repository(tmp_path / "repository") as (_, only_this):
        declared = {
            "packages": [PACKAGE],
            "runcmd": ["echo \\${PWD} >/srv/by-runcmd"],
            "script": "script.sh",
            "user_data": {"bootcmd": [only_this]},
            "size": "+1G",
        }
        option.write_text(yaml_text({"defaults": ["debian12-built"], "packages": PACKAGES, "prepare": declared}))
        ours = [*COMMON, "boot.timeout_s=800", "image=mine", f"image.cache_dir={cache}", "hydra.run.dir=run"]
        refused = start_mvpnet(*ours, ranks=1).finish(60)
        assert refused.code == 4 and "mvpnet image prepare" in refused.stderr, refused
        made = start_mvpnet("image", "prepare", "--json", *ours[:-1], ranks=None).finish(900)
        assert made.code == 0, made
    [image] = json.loads(made.stdout)
    assert image["made_from"]["packages"] == [PACKAGE] and image["made_from"]["base"] == debian.image_digest(PACKAGES)
    again = start_mvpnet("image", "prepare", "--json", *ours[:-1], ranks=None).finish(60)
    assert again.code == 0 and "is here already" in again.stderr, again
    assert json.loads(again.stdout) == [image]

    job = start_mvpnet(*ours, "boot.wait_for=cloud_init", UNTIL_TOLD, "image.size=+1G", ranks=2)
    job.wait_for("2/2 guests up", 850)
    assert json.loads((tmp_path / "run/job.json").read_text())["digest"]
    ids = []
    for rank in range(2):
        told, other, keys, left, size, own = answers(
            job,
            rank,
            f"{PACKAGE}; cat /srv/by-runcmd /srv/by-script; hostname; whoami",
            f"ssh n{1 - rank:04d} hostname",
            "sudo cat /root/.ssh/authorized_keys | wc -l",
            "sudo find /root/mvpnet-prepare /home -name 'mvpnet-prepare' | wc -l",
            "df --output=size -BM / | tail -1",
            "cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub",
        )
        assert told.splitlines() == [SAYS, "/", "root", f"n{rank:04d}", "alice"]
        assert other.strip() == f"n{1 - rank:04d}"
        assert (keys.strip(), left.strip()) == ("1", "0")
        assert int(size.strip().rstrip("M")) > 3500
        ids += own.split()
    assert len(set(ids)) == 4, "machine ids and host keys are each guest's own"
    finished(job)
