"""What seeds are read from and written to: keys and proxies of a user, files of the host, folders and ISO images."""

from __future__ import annotations

import base64
import gzip
import io
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pycdlib
import pytest
import yaml

from mvpnet.cloudinit.seed import Seed, make_seed
from mvpnet.cloudinit.seed_files import rank_seed, seed_facts, user_keys, write_folder, write_image
from mvpnet.cloudinit.user_data import SeedFacts
from mvpnet.errors import ConfigError, ImageError
from mvpnet.guest.drives import made_seed_drive
from mvpnet.images.disk_image import image_format
from mvpnet.spec.model import JobSpec, RankSpec
from mvpnet.spec.schema import CloudInit, Config, Image, ImageKind, Job

FACTS = SeedFacts("ssh-ed25519 JOB", "PRIVATE\n")
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUm0jwiMpCzGIxGGxkWwKZyJ/2L7QdKCk6PZ3rZyPqE"
SEED = Seed(
    meta_data="instance-id: é\n", user_data="#cloud-config\n" + "x: y\n" * 50_000, network_config="version: 2\n"
)


def rank_spec(rank: int = 1, **cloud_init: Any) -> RankSpec:
    config = Config(job=Job(name="job7"), image=Image(kind=ImageKind.cloud), cloud_init=CloudInit(**cloud_init))
    return JobSpec(4, Path("/run"), config).for_rank(rank)


# -- what is read ------------------------------------------------------------------------------------------------


def test_public_keys_are_those_of_the_home_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ssh = tmp_path / ".ssh"
    ssh.mkdir()
    (ssh / "id_rsa.pub").write_text(f"{KEY} me@here\n")
    (ssh / "id_rsa").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    (ssh / "id_rsa-cert.pub").write_text("ssh-rsa-cert-v01@openssh.com AAA certificate\n")
    (ssh / "deploy.pub").write_text("PGP KEY or whatever\n")
    (ssh / "authorized_keys").write_text(
        f"# comment: {KEY}\n\n{KEY} me@here\n"
        f'from="10.0.0.0/8",command="date" {KEY} x\nrubbish\n{KEY[:40]}\n'
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n"
    )
    assert user_keys(tmp_path) == [f"{KEY} me@here", f'from="10.0.0.0/8",command="date" {KEY} x']
    told = capsys.readouterr().err
    assert "deploy.pub: line 1 is no public key" in told and "authorized_keys: line 8 is no public key" in told
    assert told.count("warning: ") == 5 and "b3Blb" not in told and "rubbish" not in told


def test_keys_of_the_home_folder_are_looked_for_if_a_guest_takes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id.pub").write_text(f"{KEY}\nrubbish\n")
    without = [rank_spec(user_keys=False), replace(rank_spec(), image=Image(kind=ImageKind.file))]
    assert seed_facts("public", "private", without, tmp_path, {}).user_keys == ()
    assert capsys.readouterr().err == ""
    assert seed_facts("public", "private", [*without, rank_spec()], tmp_path, {}).user_keys == (KEY,)


def test_a_home_folder_without_keys_has_none(tmp_path: Path) -> None:
    assert user_keys(tmp_path) == []
    (tmp_path / ".ssh" / "authorized_keys").mkdir(parents=True)
    (tmp_path / ".ssh" / "lost.pub").symlink_to("nowhere")
    assert user_keys(tmp_path) == []


def test_proxies_are_taken_in_either_spelling(tmp_path: Path) -> None:
    environment = {"HTTP_PROXY": "http://upper", "https_proxy": "http://lower", "HTTPS_PROXY": "http://not", "FTP": "x"}
    facts = seed_facts("public", "private", (), tmp_path, environment)
    assert facts.environment == {"http_proxy": "http://upper", "https_proxy": "http://lower", "no_proxy": ""}


def test_files_of_the_host_go_into_the_seed(tmp_path: Path) -> None:
    script = tmp_path / "job7-1.sh"
    script.write_bytes(b"#!/bin/sh\n")
    script.chmod(0o750)
    spec = rank_spec(files={"/usr/local/bin/run": str(tmp_path / "{job}-{rank}.sh")}, hosts=False)
    entry = yaml.safe_load(rank_seed(spec, "alice", FACTS).user_data)["write_files"][-1]
    assert (entry["path"], entry["permissions"]) == ("/usr/local/bin/run", "0750")
    assert gzip.decompress(base64.b64decode(entry["content"])) == b"#!/bin/sh\n"


@pytest.mark.parametrize("trouble", ["missing", "folder", "large"])
def test_files_that_cannot_go_into_a_seed_are_refused(tmp_path: Path, trouble: str) -> None:
    path = tmp_path / "file"
    if trouble == "folder":
        path.mkdir()
    if trouble == "large":
        path.write_bytes(bytes(2**20 + 1))
    with pytest.raises(ImageError) as caught:
        rank_seed(rank_spec(files={"/opt/x": str(path)}), "alice", FACTS)
    assert "cloud_init.files./opt/x" in str(caught.value) and str(path) in str(caught.value)


def test_an_unknown_name_in_a_path_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cloud_init\.files\./opt/x.*\{node\}"):
        rank_seed(rank_spec(files={"/opt/x": "/data/{node}"}), "alice", FACTS)


# -- what is written ---------------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_is_the_user_s_alone(tmp_path: Path) -> None:
    write_folder(SEED, tmp_path / "seed")
    assert {path.name: path.read_text() for path in (tmp_path / "seed").iterdir()} == SEED.files()
    assert mode(tmp_path / "seed") == 0o700
    assert {mode(path) for path in (tmp_path / "seed").iterdir()} == {0o600}


def read_image(path: Path, **kind: str) -> dict[str, bytes]:
    """The files of an image by one of its sorts of names: rr_path, joliet_path."""
    (sort,) = kind
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    files = {}
    for name in SEED.files():
        content = io.BytesIO()
        iso.get_file_from_iso_fp(content, **{sort: f"/{name}"})
        files[name] = content.getvalue()
    iso.close()
    return files


@pytest.mark.parametrize("names", ["rr_path", "joliet_path"])
def test_an_image_reads_back_by_both_sorts_of_names(tmp_path: Path, names: str) -> None:
    write_image(SEED, tmp_path / "seed.iso")
    assert read_image(tmp_path / "seed.iso", **{names: ""}) == {k: v.encode() for k, v in SEED.files().items()}
    assert mode(tmp_path / "seed.iso") == 0o600


def test_an_image_has_the_label_that_nocloud_looks_for(tmp_path: Path) -> None:
    write_image(SEED, tmp_path / "seed.iso")
    volume_descriptor = (tmp_path / "seed.iso").read_bytes()[16 * 2048 : 17 * 2048]  # ECMA-119, 8.4
    assert volume_descriptor[1:6] == b"CD001"
    assert volume_descriptor[40:72] == b"cidata".ljust(32)


@pytest.mark.skipif(shutil.which("blkid") is None, reason="blkid (util-linux) is not installed")
def test_blkid_which_cloud_init_asks_finds_it(tmp_path: Path) -> None:
    write_image(SEED, tmp_path / "seed.iso")
    found = subprocess.run(["blkid", "-p", tmp_path / "seed.iso"], capture_output=True, text=True, check=True).stdout
    assert 'LABEL="cidata"' in found and 'TYPE="iso9660"' in found


@pytest.mark.skipif(shutil.which("xorriso") is None, reason="xorriso is not installed")
def test_xorriso_reads_it(tmp_path: Path) -> None:
    write_image(SEED, tmp_path / "seed.iso")
    command = ["xorriso", "-osirrox", "on", "-indev", tmp_path / "seed.iso", "-extract", "/", tmp_path / "out"]
    subprocess.run(command, capture_output=True, check=True)
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == SEED.files()
    assert {mode(path) for path in (tmp_path / "out").iterdir()} == {0o400}


def test_an_image_is_written_over_nothing(tmp_path: Path) -> None:
    (tmp_path / "seed.iso").write_text("someone else's")
    with pytest.raises(FileExistsError):
        write_image(SEED, tmp_path / "seed.iso")


def test_the_drive_is_write_protected_and_its_path_escaped(tmp_path: Path) -> None:
    path = tmp_path / "a,b.iso"
    write_image(make_seed(rank_spec(), "alice", FACTS), path)
    drive = made_seed_drive(path)
    assert drive.option == f"file={tmp_path}/a,,b.iso,format=raw,media=disk,if=virtio,read-only=on"
    assert not drive.writes and not drive.remove
    assert image_format(path, "cloud_init.seed") == drive.format == "raw"
