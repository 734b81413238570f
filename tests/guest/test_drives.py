"""Drives: what is written for them, what qemu is told, and the files made and removed for it (real qemu-img)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvpnet.errors import ConfigError, HostError, ImageError
from mvpnet.guest.drive_files import prepare_drives, remove_leftovers
from mvpnet.guest.drives import DrivePlan, check_shared_writes, plan_drives, seed_drive
from mvpnet.guest.seed_folder import pack_seed_folder
from mvpnet.images.disk_image import Progress, copy_image, image_format
from mvpnet.paths import host_path
from mvpnet.spec import option_string
from mvpnet.spec.drive_text import DriveText, absolute_drive, drive_of_file, drive_text, expand, parse_drive
from mvpnet.spec.model import JobSpec, RankSpec
from mvpnet.spec.schema import CloudInit, Config, Image, ImageKind, ImageUse, Job, Qemu

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def make_spec(rank: int = 3, cloud_init: str | None = None, **image: Any) -> RankSpec:
    config = Config(
        job=Job(name="job7"), image=Image(kind=ImageKind.file, **image), cloud_init=CloudInit(path=cloud_init)
    )
    return JobSpec(world_size=4, run_dir=Path("/run"), config=config).for_rank(rank)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A raw image with data at both ends and a hole between, in a folder of its own."""
    path = tmp_path / "images" / "disk.img"
    path.parent.mkdir()
    with path.open("wb") as image:
        image.write(b"first sector".ljust(4096, b"\1"))
        image.seek(8 * 2**20)
        image.write(b"last sector".ljust(4096, b"\2"))
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    path = tmp_path / "copies"
    path.mkdir()
    return path


def qemu_img(*arguments: str | Path) -> str:
    return subprocess.run(["qemu-img", *arguments], check=True, capture_output=True, text=True).stdout


def write_into(image: Path, format_name: str, what: str = "write -P 0xab 0 64k") -> None:
    subprocess.run(["qemu-io", "-f", format_name, "-c", what, image], check=True, capture_output=True)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def quiet(line: str) -> None:
    raise AssertionError(f"nothing was to be said, but was: {line}")


def only(plans: tuple[DrivePlan, ...]) -> DrivePlan:
    assert len(plans) == 1
    return plans[0]


# What is written


_names = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True).filter(lambda name: name not in ("mvpctl", "file"))
_values = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12) | st.text(",=ab")
_paths = _values.map(lambda text: f"/{text}")


@given(st.none() | _paths, st.dictionaries(_names, _values, max_size=4), st.none() | st.text("cjrJRdDps"))
def test_what_is_put_together_is_cut_up_again(path: str | None, properties: dict[str, str], flags: str | None) -> None:
    if path is None:
        properties, flags = {"file": "x", **properties}, None
    drive = DriveText(path, properties, flags)
    assert parse_drive(drive_text(drive), "key") == drive


@given(_values, st.lists(_values.filter(lambda part: part and not part.startswith(","))))
def test_option_strings_round_trip(first: str, rest: list[str]) -> None:
    assert option_string.split(option_string.joined([first, *rest])) == [first, *rest]


@pytest.mark.parametrize(
    ("text", "drive"),
    [
        ("/a.img", DriveText("/a.img", {})),
        ("/a,,b.img,cache=none", DriveText("/a,b.img", {"cache": "none"})),
        ("/a,,,x=1", DriveText("/a,", {"x": "1"})),
        ("/a=b.img,x=1=2", DriveText("/a=b.img", {"x": "1=2"})),
        ("/a,mvpctl=", DriveText("/a", {}, "")),
        ("/a,mvpctl=cjrd,if=scsi", DriveText("/a", {"if": "scsi"}, "cjrd")),
        ("file=/a,if=none", DriveText(None, {"file": "/a", "if": "none"})),
    ],
)
def test_parse(text: str, drive: DriveText) -> None:
    assert parse_drive(text, "key") == drive


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no image"),
        (",if=ide", "names no image"),
        ("/a,b", "'b' in '/a,b' is no property=value"),
        ("/a,", "'' in '/a,' is no property=value"),
        ("/a,x=1,x=2", "x is given twice"),
        ("/a,file=/b", "names an image twice"),
        ("file=/a,mvpctl=c", "mvpctl cannot be used"),
        ("file=/a,b", "'b' in 'file=/a,b'"),
    ],
)
def test_parse_refuses(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"image\.drives\[2\]: ") as error:
        parse_drive(text, "image.drives[2]")
    assert message in str(error.value)


def test_absolute_drive(monkeypatch: pytest.MonkeyPatch) -> None:
    def located(text: str, key: str) -> str:
        return str(host_path(text, key, Path("/w,{x}"), template=True))

    monkeypatch.setenv("HOME", "/home/me")
    assert absolute_drive("a,,b{rank}.img,cache=none,mvpctl=s", "key", located) == (
        "/w,,{{x}}/a,,b{rank}.img,cache=none,mvpctl=s"
    )
    assert absolute_drive("~/a.img", "key", located) == "/home/me/a.img"
    assert absolute_drive("/a.img", "key", located) == "/a.img"
    assert absolute_drive("file=a.img,if=none", "key", located) == "file=a.img,if=none"


def test_a_drive_of_a_file_is_that_file() -> None:
    path = Path("/w,{rank}/{{x}}/a,,b.img")
    drive = parse_drive(drive_of_file(path), "key")
    assert expand(drive.path or "", make_spec(), "key") == str(path)


def test_expand() -> None:
    assert expand("/{job}/d{rank}-{rank:04d}{{x}}", make_spec(), "key") == "/job7/d3-0003{x}"


@pytest.mark.parametrize(
    "text", ["{user}", "{}", "{0}", "{rank.real}", "{rank!r}", "{rank:{job}}", "{rank", "{job:04d}"]
)
def test_expand_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^image\.path: "):
        expand(text, make_spec(), "image.path")


# What qemu is told


@pytest.mark.parametrize(
    ("use", "option", "writes"),
    [
        (ImageUse.overlay, "file={scratch}/drive0-3.qcow2,format=qcow2,media=disk,if=virtio", True),
        (ImageUse.snapshot, "file={disk},format=raw,media=disk,if=virtio,snapshot=on", False),
        (ImageUse.copy, "file={scratch}/disk.job7.3.img,format=raw,media=disk,if=virtio", True),
        (ImageUse.direct, "file={disk},format=raw,media=disk,if=virtio", True),
        (ImageUse.readonly, "file={disk},format=raw,media=disk,if=virtio,read-only=on", False),
    ],
)
def test_uses(use: ImageUse, option: str, writes: bool, disk: Path, scratch: Path) -> None:
    plan = only(plan_drives(make_spec(path=str(disk), use=use), scratch))
    assert plan.option == option.format(disk=disk, scratch=scratch)
    assert (plan.key, plan.use, plan.source, plan.source_format) == ("image.path", use, disk, "raw")
    assert plan.writes is writes
    assert plan.remove == ((plan.target,) if use in (ImageUse.overlay, ImageUse.copy) else ())


@pytest.mark.parametrize(
    ("flags", "use", "target", "extra", "removed"),
    [
        ("", ImageUse.direct, "{disk}", "", []),
        ("p", ImageUse.readonly, "{disk}", ",read-only=on", []),
        ("s", ImageUse.snapshot, "{disk}", ",snapshot=on", []),
        ("ps", ImageUse.readonly, "{disk}", ",read-only=on,snapshot=on", []),
        ("D", ImageUse.direct, "{disk}", "", ["{disk}"]),
        ("c", ImageUse.copy, "{copies}/disk.img", "", []),
        ("cp", ImageUse.copy, "{copies}/disk.img", ",read-only=on", []),
        ("cj", ImageUse.copy, "{copies}/disk.job7.img", "", []),
        ("cr", ImageUse.copy, "{copies}/disk.3.img", "", []),
        ("cjrd", ImageUse.copy, "{copies}/disk.job7.3.img", "", ["{copies}/disk.job7.3.img"]),
        ("cdD", ImageUse.copy, "{copies}/disk.img", "", ["{copies}/disk.img", "{disk}"]),
    ],
)
def test_mvpctl(
    flags: str, use: ImageUse, target: str, extra: str, removed: list[str], disk: Path, scratch: Path, copies: Path
) -> None:
    spec = make_spec(drives=[f"{disk},mvpctl={flags}"], copy_dir=str(copies))
    plan = only(plan_drives(spec, scratch))

    def filled(text: str) -> str:
        return text.format(disk=disk, copies=copies)

    assert plan.option == f"file={filled(target)},format=raw,media=disk,if=virtio{extra}"
    assert plan.use is use
    assert list(map(str, plan.remove)) == list(map(filled, removed))


@pytest.mark.parametrize(("flags", "tags"), [("J", ".job7"), ("R", ".3"), ("JR", ".job7.3")])
def test_mvpctl_names_in_the_image_itself(flags: str, tags: str, tmp_path: Path) -> None:
    folder = tmp_path / "fol.der"
    folder.mkdir()
    for ext in (".x", ""):
        image = folder / f"a{tags}{ext}"
        image.touch()
        plan = only(plan_drives(make_spec(path=f"{folder}/a{ext},mvpctl={flags}D"), tmp_path))
        assert (plan.source, plan.target, plan.remove) == (image, image, (image,))


@pytest.mark.parametrize(
    ("flags", "copy_dir", "message"),
    [
        ("cx", "/c", "'x' in mvpctl=cx is no flag"),
        ("c", None, "set image.copy_dir"),
        ("jr", "/c", "'j' in mvpctl=jr is about a copy"),
        ("pd", "/c", "'d' in mvpctl=pd is about a copy"),
    ],
)
def test_mvpctl_refuses(flags: str, copy_dir: str | None, message: str, disk: Path, scratch: Path) -> None:
    with pytest.raises(ConfigError, match=r"^image\.path: ") as error:
        plan_drives(make_spec(path=f"{disk},mvpctl={flags}", copy_dir=copy_dir), scratch)
    assert message in str(error.value)


def test_first_is_the_boot_drive_and_gets_the_properties(disk: Path, scratch: Path) -> None:
    drives = [f"{disk},mvpctl=s,media=cdrom,if=ide", "file=/x,format=raw"]
    properties = {"cache": "none", "aio": "native"}
    with_path = plan_drives(make_spec(path=str(disk), drives=drives, properties=properties), scratch)
    assert [plan.option for plan in with_path] == [
        f"file={scratch}/drive0-3.qcow2,format=qcow2,media=disk,if=virtio,cache=none,aio=native",
        f"file={disk},format=raw,media=cdrom,if=ide,snapshot=on",
        "file=/x,format=raw",
    ]
    without = plan_drives(make_spec(drives=drives, properties=properties), scratch)
    assert without[0].option == f"file={disk},format=raw,media=cdrom,if=ide,snapshot=on,cache=none,aio=native"
    passed = plan_drives(make_spec(drives=["file=/x"], properties={"id": "a,b"}), scratch)
    assert only(passed).option == "file=/x,id=a,,b"


def test_commas_in_every_place(tmp_path: Path) -> None:
    (tmp_path / "a,b.img").touch()
    spec = make_spec(path=f"{tmp_path}/a,,b.img,serial=1,,2", use=ImageUse.direct, properties={"x": ","})
    option = only(plan_drives(spec, tmp_path)).option
    assert option == f"file={tmp_path}/a,,b.img,format=raw,media=disk,if=virtio,serial=1,,2,x=,,"


def test_rank_and_job_in_paths(tmp_path: Path) -> None:
    (tmp_path / "job7-0003.img").touch()
    (tmp_path / "c3").mkdir()
    spec = make_spec(path=f"{tmp_path}/{{job}}-{{rank:04d}}.img", copy_dir=f"{tmp_path}/c{{rank}}", use=ImageUse.copy)
    assert only(plan_drives(spec, tmp_path)).target == tmp_path / "c3" / "job7-0003.job7.3.img"


def test_a_drive_that_passes_through_may_hold_braces(scratch: Path) -> None:
    text = 'file=json:{"driver":"null-co"}'
    assert only(plan_drives(make_spec(drives=[text]), scratch)).option == text


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({}, "there is nothing to boot"),
        ({"kernel": "/k", "properties": {"a": "b"}}, "there is no boot drive to add them to"),
        ({"path": "{disk},cache=none", "properties": {"cache": "unsafe"}}, "cache is given twice"),
        ({"path": "{disk},read-only=off", "use": ImageUse.readonly}, "read-only=off contradicts"),
        ({"path": "{disk},readonly=off,mvpctl=p"}, "read-only=off contradicts"),
        ({"path": "{disk},snapshot=off,mvpctl=s"}, "snapshot=off contradicts"),
        ({"path": "{disk},format=raw,driver=raw"}, "driver and format are one property"),
        ({"path": "{disk},if=ide", "use": ImageUse.readonly}, "an IDE disk cannot be write-protected"),
        ({"path": "{disk}", "use": ImageUse.copy, "keep_copies": True}, "the scratch folder is not kept"),
        ({"path": "{disk},mvpctl=", "drives": ["{disk},mvpctl="]}, "which image.path uses"),
        ({"path": "{disk}", "use": ImageUse.copy, "drives": ["/other/disk.img"]}, "which image.path uses"),
        ({"path": "/{nobody}"}, "{nobody} in"),
    ],
)
def test_plan_refuses(image: dict[str, Any], message: str, disk: Path, scratch: Path) -> None:
    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(item) for item in value]
        return value.replace("{disk}", str(disk)) if isinstance(value, str) else value

    with pytest.raises(ConfigError, match=r"^image\.") as error:
        plan_drives(make_spec(**{key: filled(value) for key, value in image.items()}), scratch)
    assert message in str(error.value)


def test_a_kernel_needs_no_drive(scratch: Path) -> None:
    assert plan_drives(make_spec(kernel="/k"), scratch) == ()
    tiny = dataclasses.replace(make_spec(), image=Image())
    assert plan_drives(tiny, scratch) == ()


def test_missing_image_names_key_and_near_miss(disk: Path, scratch: Path) -> None:
    wrong = disk.with_name("dsik.img")
    with pytest.raises(
        ImageError, match=rf"^image\.path: there is no {wrong}\n  hint: in that folder there is disk\.img"
    ):
        plan_drives(make_spec(path=str(wrong)), scratch)
    with pytest.raises(ImageError, match=r"there is no folder /no/where"):
        plan_drives(make_spec(path="/no/where/disk.img"), scratch)


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^image\.drives\[0\]: .* is a folder, not a disk image"):
        plan_drives(make_spec(drives=[str(tmp_path)]), tmp_path)
    with pytest.raises(ImageError, match="neither a file nor a block device"):
        plan_drives(make_spec(path="/dev/null"), tmp_path)


# Formats


def test_format_by_content(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(b"")
    assert image_format(raw, "key") == "raw"
    raw.write_bytes(b"QFI\xfb")
    assert image_format(raw, "key") == "raw"


@needs_qemu_img
@pytest.mark.parametrize("name", ["raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vhdx", "vpc"])
def test_format_as_qemu_tells_it(name: str, tmp_path: Path) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", name, image, "16M")
    assert image_format(image, "key") == name == json.loads(qemu_img("info", "--output=json", image))["format"]


@needs_qemu_img
def test_the_users_format_wins(disk: Path, scratch: Path) -> None:
    qemu_img("create", "-q", "-f", "qcow2", disk, "16M")
    assert only(plan_drives(make_spec(path=str(disk)), scratch)).source_format == "qcow2"
    told = only(plan_drives(make_spec(path=f"{disk},format=raw"), scratch))
    assert (told.source_format, told.format) == ("raw", "qcow2")
    assert ",format=qcow2," in told.option
    direct = only(plan_drives(make_spec(path=f"{disk},driver=raw,mvpctl="), scratch))
    assert direct.option == f"file={disk},format=raw,media=disk,if=virtio"


# cloud-init


def test_seed_folder_and_image(disk: Path, scratch: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s,eed"
    folder.mkdir()
    spec = make_spec(path=str(disk), drives=["file=/x"], cloud_init=f"{tmp_path}/s,eed")
    with pytest.raises(ImageError, match=r"^cloud_init\.path: .* has no user-data"):
        plan_drives(spec, scratch)
    (folder / "user-data").touch()
    (folder / "meta-data").touch()
    plans = plan_drives(spec, scratch)
    assert [plan.key for plan in plans] == ["image.path", "cloud_init.path", "image.drives[0]"]
    assert plans[1].option == (
        f"file.driver=vvfat,file.dir={tmp_path}/s,,eed,file.label=cidata,format=raw,media=disk,if=virtio,snapshot=on"
    )
    assert seed_drive(disk).option == f"file={disk},format=raw,media=disk,if=virtio,snapshot=on"
    alone = plan_drives(make_spec(kernel="/k", cloud_init=str(folder)), scratch)
    assert only(alone).key == "cloud_init.path"
    with pytest.raises(ImageError, match=r"^cloud_init\.path: there is no "):
        seed_drive(tmp_path / "nothing")


def test_a_seed_folder_is_packed_for_a_qemu_that_shows_no_folders(disk: Path, scratch: Path, tmp_path: Path) -> None:
    """As qemu answers that was built with --disable-vvfat."""
    program = tmp_path / "qemu-system-x86_64"
    program.write_text('#!/bin/sh\ncase "$*" in *format=help*) echo "Supported formats: file qcow2 raw";; esac\n')
    program.chmod(0o755)
    folder = tmp_path / "seed"
    folder.mkdir()
    (folder / "user-data").touch()
    (folder / "meta-data").touch()
    spec = dataclasses.replace(make_spec(path=str(disk), cloud_init=str(folder)), qemu=Qemu(binary=str(program)))
    plans = plan_drives(spec, scratch)
    assert plans[1].key == "cloud_init.path"
    assert plans[1].option == f"file={scratch}/seed-3.iso,format=raw,media=disk,if=virtio,read-only=on"
    assert not list(scratch.glob("*.iso")), "planning makes nothing"
    pack_seed_folder(plans)
    prepare_drives(plans[1:2], pytest.fail)
    assert (scratch / "seed-3.iso").stat().st_size > 0
    remove_leftovers(plans[1:2], pytest.fail)
    assert not list(scratch.glob("*.iso")) and folder.is_dir()
    image = dataclasses.replace(spec, cloud_init=CloudInit(path=str(disk)))
    assert plan_drives(image, scratch)[1].source == disk, "an image is passed as it is"


# Across ranks


def test_two_ranks_do_not_write_one_image() -> None:
    def specs(**image: Any) -> list[RankSpec]:
        return [make_spec(rank=rank, **image) for rank in range(4)]

    with pytest.raises(ConfigError, match=r"^image\.path: /d would be written by rank 0 while rank 1 uses it"):
        check_shared_writes(specs(path="/d", use=ImageUse.direct))
    with pytest.raises(ConfigError, match=r"^image\.drives\[1\]: /e would be written by rank 0"):
        check_shared_writes(specs(drives=["/d", "/e,mvpctl="]))
    mixed = [*specs(path="/d"), make_spec(rank=4, path="/d", use=ImageUse.direct)]
    with pytest.raises(ConfigError, match="written by rank 4 while rank 0"):
        check_shared_writes(mixed)
    for use in set(ImageUse) - {ImageUse.direct}:
        check_shared_writes(specs(path="/d", use=use))
    check_shared_writes(specs(path="/d{rank}", use=ImageUse.direct))
    check_shared_writes(specs(path="/d,mvpctl=R"))
    check_shared_writes(specs(path="/d,read-only=on", use=ImageUse.direct))
    check_shared_writes(specs(path="/d,media=cdrom", use=ImageUse.direct))


def test_two_ranks_of_one_host_do_not_write_one_copy() -> None:
    shared = [make_spec(rank=rank, path="/d,mvpctl=c", copy_dir="/c") for rank in range(2)]
    check_shared_writes(shared)
    check_shared_writes(shared, ["a", "b"])
    with pytest.raises(ConfigError, match="/c/d would be written by rank 0 while rank 1"):
        check_shared_writes(shared, ["a", "a"])
    protected = [make_spec(rank=rank, path="/d,mvpctl=cp", copy_dir="/c") for rank in range(2)]
    check_shared_writes(protected, ["a", "a"])


# The files


@needs_qemu_img
@pytest.mark.parametrize("format_name", ["raw", "qcow2"])
def test_overlay_leaves_its_source_alone(format_name: str, tmp_path: Path, scratch: Path) -> None:
    source = tmp_path / "so,ur:ce.img"
    qemu_img("create", "-q", "-f", format_name, source, "8M")
    write_into(source, format_name, "write -P 0x11 0 128k")
    before = digest(source)
    plans = plan_drives(make_spec(path=option_string.escaped(source)), scratch)
    prepare_drives(plans, quiet)
    overlay = only(plans).target
    assert overlay is not None
    chain = json.loads(qemu_img("info", "--output=json", "--backing-chain", overlay))
    assert [(layer["filename"], layer["format"]) for layer in chain] == [
        (str(overlay), "qcow2"),
        (str(source), format_name),
    ]
    write_into(overlay, "qcow2")
    write_into(overlay, "qcow2", "read -P 0x11 64k 64k")
    assert digest(source) == before
    remove_leftovers(plans, quiet)
    assert list(scratch.iterdir()) == []
    assert digest(source) == before


@needs_qemu_img
def test_copy_keeps_content_and_holes(disk: Path, copies: Path, scratch: Path) -> None:
    disk.chmod(0o444)
    plans = plan_drives(make_spec(path=str(disk), use=ImageUse.copy, copy_dir=str(copies)), scratch)
    prepare_drives(plans, quiet)
    copy = copies / "disk.job7.3.img"
    assert list(copies.iterdir()) == [copy]
    assert digest(copy) == digest(disk)
    assert copy.stat().st_blocks * 512 < copy.stat().st_size // 2
    assert copy.stat().st_mode & 0o777 == 0o600
    remove_leftovers(plans, quiet)
    assert list(copies.iterdir()) == []
    assert disk.exists()


def test_kept_copy_stays(disk: Path, copies: Path, scratch: Path) -> None:
    spec = make_spec(path=str(disk), use=ImageUse.copy, copy_dir=str(copies), keep_copies=True)
    plans = plan_drives(spec, scratch)
    prepare_drives(plans, quiet)
    remove_leftovers(plans, quiet)
    assert [path.name for path in copies.iterdir()] == ["disk.job7.3.img"]


def test_an_existing_copy_is_used_and_said(disk: Path, copies: Path, scratch: Path) -> None:
    (copies / "disk.img").write_bytes(b"an earlier one")
    plans = plan_drives(make_spec(path=f"{disk},mvpctl=c", copy_dir=str(copies)), scratch)
    said: list[str] = []
    prepare_drives(plans, said.append)
    assert [f"{copies}/disk.img is there already" in line for line in said] == [True]
    assert (copies / "disk.img").read_bytes() == b"an earlier one"
    assert len(list(copies.iterdir())) == 1


def test_ranks_that_make_one_copy_at_the_same_time(disk: Path, copies: Path, scratch: Path) -> None:
    plans = plan_drives(make_spec(path=f"{disk},mvpctl=cp", copy_dir=str(copies)), scratch)
    start, said = threading.Barrier(4), list[str]()

    def rank() -> None:
        start.wait()
        prepare_drives(plans, said.append)

    threads = [threading.Thread(target=rank) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in copies.iterdir()] == ["disk.img"]
    assert digest(copies / "disk.img") == digest(disk)
    assert len(said) <= 3


def test_flag_d_removes_the_copy_and_capital_d_the_image(disk: Path, copies: Path, scratch: Path) -> None:
    spec = make_spec(path=f"{disk},mvpctl=cdD", copy_dir=str(copies))
    plans = plan_drives(spec, scratch)
    prepare_drives(plans, quiet)
    assert (copies / "disk.img").exists()
    remove_leftovers(plans, quiet)
    assert not (copies / "disk.img").exists()
    assert not disk.exists()
    remove_leftovers(plans, quiet)  # another rank may have been first


def test_what_cannot_be_removed_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    remove_leftovers([DrivePlan("key", "", remove=(tmp_path, tmp_path / "x"))], said.append)
    assert [line.startswith(f"{tmp_path} could not be removed") for line in said] == [True]


@needs_qemu_img
def test_copy_of_an_image_with_a_relative_backing_file(tmp_path: Path, copies: Path, scratch: Path) -> None:
    base, top = tmp_path / "base.raw", tmp_path / "top.qcow2"
    qemu_img("create", "-q", "-f", "raw", base, "8M")
    write_into(base, "raw", "write -P 0x22 0 64k")
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base.raw", top], check=True, cwd=tmp_path
    )
    before = digest(top)
    plans = plan_drives(make_spec(path=str(top), use=ImageUse.copy, copy_dir=str(copies)), scratch)
    prepare_drives(plans, quiet)
    copy = only(plans).target
    assert copy is not None
    write_into(copy, "qcow2", "read -P 0x22 0 64k")
    assert digest(top) == before


@needs_qemu_img
@pytest.mark.parametrize("use", list(ImageUse))
def test_missing_backing_file(use: ImageUse, tmp_path: Path, scratch: Path) -> None:
    base, top = tmp_path / "base.qcow2", tmp_path / "top.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", base, "8M")
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, top)
    base.unlink()
    plans = plan_drives(make_spec(path=str(top), use=use), scratch)
    with pytest.raises(
        ImageError, match=rf"^image\.path: {top} cannot be opened as qcow2: .*base\.qcow2.*No such file"
    ):
        prepare_drives(plans, quiet)
    assert list(scratch.iterdir()) == []


@needs_qemu_img
def test_what_was_made_before_a_failure_goes(disk: Path, copies: Path, scratch: Path) -> None:
    doomed = disk.with_name("doomed.img")
    doomed.touch()
    spec = make_spec(path=str(disk), drives=[f"{disk},mvpctl=cD", str(doomed)], copy_dir=str(copies))
    plans = plan_drives(spec, scratch)
    doomed.unlink()
    with pytest.raises(ImageError, match=r"image\.drives\[1\]: there is no "):
        prepare_drives(plans, quiet)
    assert list(scratch.iterdir()) == list(copies.iterdir()) == []
    assert disk.exists()


def test_no_qemu_img(disk: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = plan_drives(make_spec(path=str(disk)), scratch)
    monkeypatch.setenv("PATH", str(scratch))
    with pytest.raises(HostError, match="there is no qemu-img"):
        prepare_drives(plans, quiet)
    prepare_drives(plan_drives(make_spec(path=f"{disk},mvpctl=s"), scratch), quiet)  # which needs none


def test_a_folder_for_copies_that_is_not_there(disk: Path, scratch: Path, tmp_path: Path) -> None:
    spec = make_spec(path=str(disk), use=ImageUse.copy, copy_dir=str(tmp_path / "nowhere"))
    with pytest.raises(ImageError, match=rf"^image\.path: there is no folder {tmp_path}/nowhere"):
        prepare_drives(plan_drives(spec, scratch), quiet)


AS_NOBODY = """
import os, sys
from pathlib import Path
from mvpnet.errors import ImageError
from mvpnet.guest.drive_files import prepare_drives
from mvpnet.guest.drives import DrivePlan
from mvpnet.images.disk_image import image_format
from mvpnet.spec.schema import CloudInit, Config, Image, ImageKind, ImageUse, Job, Qemu
os.setgroups([]); os.setgid(65534); os.setuid(65534)
use, source, target = sys.argv[1:]
try:
    found = image_format(Path(source), "key")
    prepare_drives([DrivePlan("key", "", ImageUse[use], Path(source), found, Path(target), found, True)], print)
except ImageError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user than the images' owner")
@pytest.mark.parametrize(
    ("use", "mode", "message"),
    [
        ("direct", 0o600, "may not be read by this user"),
        ("direct", 0o644, "is to be used directly and may not be written by this user"),
        ("copy", 0o644, "may not be written by this user"),
        ("overlay", 0o644, "may not be written by this user"),
    ],
)
def test_what_this_user_may_not(use: str, mode: int, message: str, public_folder: Path) -> None:
    image = public_folder / "disk.img"
    image.write_bytes(b"x" * 512)
    image.chmod(mode)
    target = image if use == "direct" else public_folder / "other"
    command = [sys.executable, "-c", AS_NOBODY, use, str(image), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert message in done.stderr
    assert done.returncode == 1


@pytest.fixture
def public_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that other users may enter: pytest's own may not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


# Full disks


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    options_ = ["-t", "tmpfs", "-o", "size=256k", "mvpnet-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(["mount", *options_], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_copy_that_does_not_fit(tmp_path: Path, tiny_disk: Path) -> None:
    image = tmp_path / "big.img"
    image.write_bytes(b"\1" * 2**20)
    plans = plan_drives(make_spec(path=str(image), use=ImageUse.copy, copy_dir=str(tiny_disk)), tmp_path)
    with pytest.raises(
        ImageError, match=rf"^image\.path: no space left in {tiny_disk} for {image}: 1048576 bytes needed"
    ):
        prepare_drives(plans, quiet)
    assert list(tiny_disk.iterdir()) == []


def test_a_disk_that_fills_up_while_copying(disk: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    try:
        os.mknod(full, stat.S_IFCHR | 0o600, os.makedev(1, 7))  # null(4)'s sibling, which is always full
        full.open("wb").close()
    except PermissionError:
        pytest.skip("needs the right to make a device")
    with pytest.raises(ImageError, match=rf"^image\.path: no space left in {tmp_path} for {disk}: \d+ bytes needed"):
        copy_image(disk, full, "image.path", quiet)
    assert not full.exists()


def test_a_copy_past_the_largest_file(disk: Path, copies: Path, scratch: Path) -> None:
    plans = plan_drives(make_spec(path=str(disk), use=ImageUse.copy, copy_dir=str(copies)), scratch)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(ImageError, match=rf"^image\.path: copying {disk} to .* failed: File too large"):
            prepare_drives(plans, quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(copies.iterdir()) == []


def test_a_disk_without_room_for_one_more_file(disk: Path, tiny_disk: Path, scratch: Path) -> None:
    subprocess.run(["mount", "-o", "remount,nr_inodes=1", str(tiny_disk)], check=True)
    plans = plan_drives(make_spec(path=str(disk), use=ImageUse.copy, copy_dir=str(tiny_disk)), scratch)
    with pytest.raises(ImageError, match=rf"^image\.path: no space left in {tiny_disk} for {disk}"):
        prepare_drives(plans, quiet)


@needs_qemu_img
def test_an_overlay_that_does_not_fit(disk: Path, tiny_disk: Path) -> None:
    (tiny_disk / "ballast").write_bytes(b"\1" * 252 * 1024)
    plans = plan_drives(make_spec(path=str(disk)), tiny_disk)
    with pytest.raises(
        ImageError, match=rf"^image\.path: no space left in {tiny_disk} for .*: \d+ bytes needed, \d+ free"
    ):
        prepare_drives(plans, quiet)
    assert [path.name for path in tiny_disk.iterdir()] == ["ballast"]


# Copying


def test_copy_between_file_systems(disk: Path) -> None:
    other = Path("/dev/shm")
    if not os.access(other, os.W_OK) or other.stat().st_dev == disk.stat().st_dev:
        pytest.skip("needs a second file system")
    target = other / f"mvpnet-test-{os.getpid()}"
    try:
        copy_image(disk, target, "key", quiet)
        assert digest(target) == digest(disk)
        assert target.stat().st_blocks * 512 < 2**20
    finally:
        target.unlink(missing_ok=True)


def test_copy_of_nothing_but_a_hole(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    with source.open("wb") as file:
        file.truncate(2**20)
    copy_image(source, target, "key", quiet)
    assert (target.stat().st_size, target.stat().st_blocks) == (2**20, 0)
    source.write_bytes(b"")
    copy_image(source, target, "key", quiet)
    assert target.read_bytes() == b""


def test_progress_is_said_after_two_seconds_and_then_every_five() -> None:
    times, said = iter([0.0, 1.9, 2.0, 2.0, 6.9, 7.0, 7.0]), list[str]()
    progress = Progress("copying x", 400 * 2**20, said.append, lambda: next(times))
    for _ in range(4):
        progress.add(100 * 2**20)
    assert said == ["copying x: 50 % of 400 MiB", "copying x: 100 % of 400 MiB"]


@pytest.mark.parametrize("name", ["size=5.qcow2", "a=b", "d=1.qcow2,cache=none", "./file=x"])
def test_a_name_with_an_equals_sign_is_a_path(name: str) -> None:
    assert parse_drive(name, "key").path == name.split(",")[0]


@pytest.mark.parametrize("text", ["id=3.qcow2", "if=virtio,format=raw", "cache=none"])
def test_properties_without_a_file_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^key: .* name no file"):
        parse_drive(text, "key")


@pytest.mark.parametrize(
    "text", ["if=ide,media=cdrom", "if=pflash,file=/x", "driver=null-co,if=none", "file.driver=vvfat"]
)
def test_properties_of_a_drive_are_passed_through(text: str) -> None:
    assert parse_drive(text, "key").path is None
