"""Cloud-init guests, made here from Debian's packages: an image that is prepared once, two new guests of it looked at
from inside, and booted again from kept disks.

Those are the guests of recipe=mpi-hello, with one package that was installed when their image was prepared, and one
that is installed when they boot. They run the recipe's MPI program, and the other recipes' check looks at them too,
when something in them was broken. One more guest, whose image nobody prepared, cannot have its package.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from boot.aptrepository import LATER, PACKAGE, SAYS, apt_repository
from boot.test_guests import answers, nothing_left, ssh
from imageserver import ImageServer
from mvpnet.images import debian
from mvpnet.paths import cache_base
from mvpnet.util.yaml_text import yaml_text
from support import Finished, RunningJob

pytestmark = pytest.mark.timeout(2000)  # four boots, and a machine that others use too

COMMON = ["image.user=alice", "vm.accel=tcg", "vm.memory=512M", "boot.timeout_s=800", "net.mtu=9000"]
COMMON += ["boot.wait_for=cloud_init"]  # it restarts sshd once after the first banner
# One image for all tests of such guests: that of recipe=mpi-hello.
PACKAGES = ["python3-mpi4py"]
BUILT = ["image=debian12-built", f"image.packages={PACKAGES}"]
WAIT = "while [ ! -e finish ]; do sleep 0.2; done"
UNTIL_TOLD = f'app.command=["sh","-c","{WAIT}; exit 3"]'
# recipe=mpi-hello with its own app as the first of three steps; the last is the other recipes' check.
STEPS = [
    "app.command=null",
    '+app.steps.hello.command=["${mvpnet.python:}","${mvpnet.recipe_file:mpi-hello/run.py}"]',
    f'+app.steps.wait.command=["sh","-c","{WAIT}"]',
    '+app.steps.check.command=["${mvpnet.python:}","${mvpnet.recipe_file:guests/check.py}"]',
]

OPTION = """
defaults: [schema]
files: {/srv/hello.txt: hello.txt}
runcmd: ["echo ${rank} of ${world_size} > /srv/rank"]
"""


def written_option(file: Path, text: str, only_this: str, package: str) -> None:
    """An option of cloud_init with this package to install, from the only repository that the guest then has."""
    file.parent.mkdir(parents=True)
    file.write_text(text + yaml_text({"packages": [package], "user_data": {"bootcmd": [only_this]}}))


def up(start_mvpnet, *options: str) -> RunningJob:
    job = start_mvpnet(*COMMON, *options, ranks=2)
    job.wait_for("2/2 guests up", 850)
    return job


def finished(job: RunningJob, code: int = 3) -> Finished:
    """The app's exit code is the job's."""
    (job.cwd / "finish").touch()
    end = job.finish(180)
    (job.cwd / "finish").unlink()
    assert end.code == code, end
    nothing_left(job)
    return end


def installed(server: ImageServer, package: str) -> int:
    """How many guests have fetched it."""
    return sum(request.path.endswith(f"{package}.deb") for request in server.requests)


def prepared_image(start_mvpnet, folder: Path, only_this: str) -> list[str]:
    """The words for an image that needs preparing, once that is done."""
    built = cache_base(None) / "debian"
    debian.ensure(built, PACKAGES, print)
    cache = folder / "cache"
    cache.mkdir()
    (cache / "debian").symlink_to(built)
    (folder / "script.sh").write_text("#!/bin/sh\nid -un >/srv/by-script\n")
    declared = {
        "packages": [PACKAGE],
        "runcmd": ["echo \\${PWD} >/srv/by-runcmd"],
        "script": "script.sh",
        "user_data": {"bootcmd": [only_this]},
        "size": "+1G",
    }
    option = folder / "mvpnet.d/image/mine.yaml"
    option.parent.mkdir(parents=True)
    option.write_text(yaml_text({"defaults": ["debian12-built"], "packages": PACKAGES, "prepare": declared}))
    words = ["image=mine", f"image.cache_dir={cache}"]

    refused = start_mvpnet(*COMMON, *words, "hydra.run.dir=run", ranks=1).finish(60)
    assert refused.code == 4 and "mvpnet image prepare" in refused.stderr, refused
    prepare = ["image", "prepare", "--json", *COMMON, *words]
    made = start_mvpnet(*prepare, ranks=None).finish(900)
    assert made.code == 0, made
    [image] = json.loads(made.stdout)
    assert image["made_from"]["packages"] == [PACKAGE] and image["made_from"]["base"] == debian.image_digest(PACKAGES)
    again = start_mvpnet(*prepare, ranks=None).finish(60)
    assert again.code == 0 and "is here already" in again.stderr, again
    assert json.loads(again.stdout) == [image]
    return words


def test_guests_of_a_prepared_image_know_each_other_and_boot_again(start_mvpnet, tmp_path: Path) -> None:
    (tmp_path / "hello.txt").write_text("from the host\n")
    copies = tmp_path / "copies"
    copies.mkdir()
    with apt_repository(tmp_path / "repository") as (server, only_this):
        image = prepared_image(start_mvpnet, tmp_path, only_this)
        written_option(tmp_path / "mvpnet.d/cloud_init/mine.yaml", OPTION, only_this, LATER)
        job = up(
            start_mvpnet,
            "recipe=mpi-hello",
            *image,
            *STEPS,
            "image.size=+1G",
            "image.use=copy",
            f"image.copy_dir={copies}",
            "image.keep_copies=true",
            "job.name=first",
            "cloud_init=mine",
            "hydra.run.dir=run",
        )
        assert (installed(server, PACKAGE), installed(server, LATER)) == (1, 2)
    assert json.loads((tmp_path / "run/job.json").read_text())["digest"]
    job.wait_for("n0000 (configuring)")
    job.wait_for("20, whole", 300)
    assert all(text in job.stdout for text in ("Open MPI", "60, as it should be")), job.stdout
    identities = [identity for rank in range(2) for identity in look_around(job, rank)]
    assert len(set(identities)) == 4, "machine ids and host keys are each guest's own"
    for rank in range(2):
        ssh(job, rank, "echo kept | sudo tee /srv/kept; sudo rm /etc/sudoers.d/90-cloud-init-users; sync")
    the_check_tells_what_is_not_as_it_should_be(finished(job, code=1))

    disks = sorted(copies.iterdir())
    assert len(disks) == 2
    built = debian.image_in(cache_base(None) / "debian" / debian.image_digest(PACKAGES))
    again = up(
        start_mvpnet,
        UNTIL_TOLD,
        "image=file",
        f'image.path="{copies}/disk.first.{{rank}}"',
        "image.use=direct",
        f"image.kernel={built.kernel}",
        f"image.initrd={built.initrd}",
        f'image.kernel_args="{debian.KERNEL_COMMAND_LINE}"',
        "cloud_init=always",
        "job.name=second",
        "hydra.run.dir=run2",
    )
    config = "run2/ssh_config"
    assert ssh(again, 0, "cat /srv/kept; ssh n0001 hostname", config=config).split() == ["kept", "n0001"]
    finished(again)


def look_around(job: RunningJob, rank: int) -> list[str]:
    """A guest from inside: what it was given, whom it knows, and whom it may log in to; its machine id and host key."""
    other = f"n{1 - rank:04d}"
    asked = {
        "status": f"{LATER}; cloud-init status",
        "prepared": f"{PACKAGE}; cat /srv/by-runcmd /srv/by-script",
        "keys": "sudo cat /root/.ssh/authorized_keys | wc -l",
        "left": "sudo find /root/mvpnet-prepare /home -name 'mvpnet-prepare' | wc -l",
        "identity": "cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub",
        "result": "cat /run/cloud-init/result.json",
        "name": "hostname; whoami",
        "hosts": "getent hosts n0000; getent hosts n0001",
        "mpi": "cat /etc/hosts.mpi",
        "links": "ip -o link; ip -o addr",
        # guest to guest, as the user and as root, in both directions and without a question
        "user": f"ssh {other} hostname",
        "sudo": f"sudo ssh {other} whoami",
        "root": f"ssh root@{other} whoami",
        "files": "cat /srv/hello.txt /srv/rank",
        "size": "df --output=size -BM / | tail -1",
        "ping": f"ping -c 3 -i 0.2 -s 8900 -M do {other}",
    }
    said = dict(zip(asked, answers(job, rank, *asked.values()), strict=True))
    assert said["status"].splitlines() == [SAYS[LATER], "status: done"]
    assert said["prepared"].splitlines() == [SAYS[PACKAGE], "/", "root"]
    assert (said["keys"].strip(), said["left"].strip()) == ("1", "0")
    assert json.loads(said["result"])["v1"]["errors"] == []
    assert said["name"].split() == [f"n{rank:04d}", "alice"]
    known = [line.split() for line in said["hosts"].splitlines()]
    assert known == [[f"10.0.0.{number + 1}", f"n{number:04d}"] for number in range(2)]
    assert said["mpi"].split() == ["n0000", "n0001"]
    assert f"10.0.0.{rank + 1}/8" in said["links"] and "mtu 9000" in said["links"]
    assert (said["user"].strip(), said["sudo"].strip(), said["root"].strip()) == (other, "root", "root")
    assert said["files"].splitlines() == ["from the host", f"{rank} of 2"]
    assert int(said["size"].strip().rstrip("M")) > 3500
    assert "3 received" in said["ping"]
    return said["identity"].split()


def the_check_tells_what_is_not_as_it_should_be(end: Finished) -> None:
    """Of guests without sudo."""
    assert len(re.findall(r"n000[01] +Debian GNU/Linux 12 .* 5 of 7", end.stdout)) == 2, end
    for rank in range(2):
        assert f"n{rank:04d}: sudo without a password: " in end.stdout, end
        assert f"n{rank:04d}: ssh to n{1 - rank:04d} as root: " in end.stdout, end


def test_a_package_that_cannot_be_had_is_told_and_fails_the_boot(start_mvpnet, tmp_path: Path) -> None:
    with apt_repository(tmp_path / "repository") as (_, only_this):
        file = tmp_path / "mvpnet.d/cloud_init/packages.yaml"
        written_option(file, "defaults: [schema]\nseed: make\n", only_this, "mvpnet-nosuch")
        words = [*COMMON, *BUILT, "cloud_init=packages", "hydra.run.dir=run", UNTIL_TOLD]
        job = start_mvpnet(*words, ranks=1)
        end = job.finish(600)
    assert end.code == 5, end
    assert "n0000 did not come up: cloud-init in the guest failed: " in end.stderr, end
    assert "Unable to locate package mvpnet-nosuch" in end.stderr, end
    nothing_left(job)
