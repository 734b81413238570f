"""Prepared images, without a guest: what is declared, what is refused, and the job that would prepare."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from mvpnet.cli import main
from mvpnet.cloudinit.schema_check import check_user_data
from mvpnet.cloudinit.seed_files import rank_seed
from mvpnet.cloudinit.user_data import SeedFacts
from mvpnet.config import compose
from mvpnet.errors import ConfigError, ImageError
from mvpnet.images import prepare
from mvpnet.images.store.fetch import ensure
from mvpnet.images.store.request import ImageRequest, parse_request
from mvpnet.images.store.resolve import pin_images, planned, provide_image
from mvpnet.images.store.sources import SourceRecord
from mvpnet.images.store.store import Store
from mvpnet.spec.escape import resolved_already
from mvpnet.spec.schema import Config, ImageUse, Validate, WaitFor
from mvpnet.util.text import timestamp

SOURCE = "https://example.org/disk-amd64.qcow2"
COMMON = ["image=file", f"image.source={SOURCE}"]


@pytest.fixture(autouse=True)
def launch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home-config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def config(*overrides: str) -> Config:
    return compose.compose([*COMMON, *overrides], 1).config


def want(*overrides: str) -> ImageRequest:
    found = parse_request(config(*overrides).image)
    assert found
    return found


def kept(asked: ImageRequest, content: bytes = b"QFI\xfb" + bytes(1020)) -> str:
    """Have something in the store under what is asked for; its digest."""
    store, digest = asked.store, hashlib.sha256(content).hexdigest()
    with store.transfers.locked(asked.address, asked.name, print), store.transfers.staging(asked.address) as staging:
        (staging / "disk").write_bytes(content)
        facts: dict[str, Any] = {"sha256": digest, "size_bytes": len(content), "format": "qcow2", "virtual_bytes": 1}
        facts |= {"disk_sha256": digest, "disk_bytes": len(content), "compression": "none", "source": asked.address}
        store.publish(
            staging, facts | {"fetched_at": timestamp(), "checked_by": "made here", "made_from": {"base": "b"}}
        )
    store.source_records.remember(SourceRecord(asked.address, digest, timestamp()))
    return digest


# -- what is declared ---------------------------------------------------------------------------------------------


def test_the_same_declaration_is_the_same_image_and_any_other_is_another(launch_folder: Path) -> None:
    script = launch_folder / "setup.sh"
    script.write_text("true\n")
    packages = "image.prepare.packages=[gcc]"
    variants = [
        [packages],
        [packages, "image.prepare.size=+1G"],
        [packages, f"image.sha256={'0' * 64}"],
        [packages, f"image.source={SOURCE}.xz"],
        ["image.prepare.packages=[gcc,mpich]"],
        ["image.prepare.runcmd=[gcc]"],
        [packages, "image.prepare.script=setup.sh"],
        [packages, "image.prepare.user_data={timezone: UTC}"],
        ["image=debian12-built", "image.source=null", packages],
        ["image=debian12-built", "image.source=null", "image.packages=[gcc]", packages],
    ]
    urls = [want(*variant).url for variant in variants]
    assert len(set(urls)) == len(urls)
    assert want(packages, "image.prepare.timeout_s=5", "vm.memory=2G", "cloud_init.packages=[x]").url == urls[0]
    script.write_text("false\n")
    assert want(packages, "image.prepare.script=setup.sh").url != urls[6]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["image.prepare.size=+1G"], "image.prepare.size: nothing is prepared"),
        (["image.prepare.packages=[x]", "image.path=disk.img"], "image.source"),
        (["image=tiny", "image.source=null", "image.prepare.packages=[x]"], "cloud-init"),
        (["image.prepare.script=nosuch.sh"], "nosuch.sh"),
        (["image.prepare.packages=[x]", "image.prepare.sha256=12"], "image.prepare.sha256"),
        (["image.prepare.packages=[x]", "image.use=direct"], "image.use"),
        (["image.prepare.packages=[x]", "image.locked=true"], "image.locked"),
    ],
)
def test_what_cannot_be_prepared_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        want(*overrides)
    assert says in str(caught.value)


def test_the_verb_refuses_a_job_that_prepares_nothing() -> None:
    with pytest.raises(ConfigError, match="nothing is asked for"):
        main.run(["image", "prepare", *COMMON])


# -- a job that wants one -------------------------------------------------------------------------------------------


def test_a_job_without_its_prepared_image_is_refused_with_what_to_do() -> None:
    job = compose.compose([*COMMON, "image.prepare.packages=[gcc]"], 2)
    with pytest.raises(ImageError, match=r"disk-amd64\.qcow2 is not in (.|\n)*mvpnet image prepare"):
        pin_images(job, print)


def test_a_job_takes_the_prepared_image_and_records_its_digest() -> None:
    from contextlib import ExitStack

    overrides = [*COMMON, "image.prepare.packages=[gcc]"]
    digest = kept(want(overrides[-1]))
    job = pin_images(compose.compose(overrides, 2), print)
    assert job.for_rank(1).image.prepare.sha256 == digest
    assert digest in json.dumps([dataclasses.asdict(one)["changes"] for one in job.overrides])
    with ExitStack() as stack:
        spec = provide_image(job.for_rank(1), stack, print)
        disk = ensure(want(overrides[-1]), print).disk
        assert spec.image.path == str(disk)
        assert parse_request(spec.image) is None, "what it is used as is a plain disk"
    assert planned(compose.compose(overrides, 1).for_rank(0)).image.path == str(disk)


def test_another_prepared_image_than_the_pinned_one_is_not_taken() -> None:
    kept(want("image.prepare.packages=[gcc]"))
    asked = want("image.prepare.packages=[gcc]", f"image.prepare.sha256={'1' * 64}")
    with pytest.raises(ImageError, match="1" * 64):
        ensure(asked, print)


def test_the_source_is_what_is_fetched_and_locked(capsys: pytest.CaptureFixture[str], launch_folder: Path) -> None:
    source = launch_folder / "disk.raw"
    source.write_bytes(bytes(510) + b"\x55\xaa" + bytes(512))
    words = ["image=file", f"image.source={source}", "image.prepare.packages=[gcc]"]
    assert main.run(["image", "fetch", "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)[0]["source"] == source.as_uri()
    assert main.run(["image", "lock", "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)[0]["url"] == source.as_uri()


def test_a_rank_override_changes_single_keys_of_the_preparation() -> None:
    override = "+ranks.a={on: '1', image: {prepare: {size: +2G}}}"
    job = compose.compose([*COMMON, "image.prepare.packages=[gcc]", override], 2)
    assert [job.for_rank(rank).image.prepare.size for rank in (0, 1)] == [None, "+2G"]
    assert job.for_rank(1).image.prepare.packages == ["gcc"]


# -- the job that prepares --------------------------------------------------------------------------------------------


def test_the_job_that_prepares(launch_folder: Path) -> None:
    (launch_folder / "setup.sh").write_text("true\n")
    asked = config(
        "image.prepare.packages=[gcc]",
        "image.prepare.runcmd=['echo \\${HOME}']",
        "image.prepare.script=setup.sh",
        "image.prepare.size=+3G",
        "image.size=+9G",
        "image.user=alice",
        "cloud_init.packages=[of-the-job]",
        "cloud_init.proxy=env",
        "shutdown.on_stdin_eof=true",
    )
    job = prepare.preparing(asked, launch_folder / "work")
    assert (job.image.user, job.image.size, job.image.use) == ("root", "+3G", ImageUse.copy)
    assert parse_request(job.image) == parse_request(config().image), "it boots the source"
    assert (job.boot.wait_for, job.boot.timeout_s) == (WaitFor.cloud_init, 1800)
    assert job.cloud_init.packages == ["gcc"]
    assert job.cloud_init.runcmd[:2] == ["set -e", "echo ${HOME}"]
    assert not job.shutdown.on_stdin_eof
    assert job.app.command[-1] == "--proxy"


def test_a_preparation_that_fails_is_told_and_leaves_the_store_as_it_was(launch_folder: Path) -> None:
    source = launch_folder / "disk.raw"
    source.write_bytes(bytes(510) + b"\x55\xaa" + bytes(512))
    words = ["image=file", f"image.source={source}", "image.prepare.packages=[gcc]", "qemu.binary=no-such-qemu"]
    with pytest.raises(ImageError, match=r"exit code 3(.|\n)*runs/prepare-"):
        main.run(["image", "prepare", *words])
    store = Store(launch_folder / "cache/mvpnet/images")
    assert [image.source for image in store.images()] == [source.as_uri()]
    assert store.transfers.unfinished() == []


def test_the_job_that_prepares_composes_to_itself_again_and_its_seed_is_valid(
    launch_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["image.prepare.runcmd=['echo \\${HOME} 1e3','1e3']", "image.prepare.packages=['1e5']"]
    job = prepare.preparing(config(*words, "cloud_init=always"), launch_folder / "work")
    folder = launch_folder / "more"
    prepare.write_recipe(job, folder)
    again = compose.compose(["recipe=mvpnet-prepare"], 1, str(folder))
    assert dataclasses.replace(again.config, ranks={}) == job
    assert resolved_already("a ${b}") == "a \\${b}"
    facts = SeedFacts("ssh-ed25519 JOB", "key\n")
    check_user_data(rank_seed(again.for_rank(0), "root", facts).user_data, Validate.auto)
