"""A user's own file of cloud-config: merged over ours and below user_data, or refused with the reason."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
import yaml

from mvpnet.cloudinit.seed_files import rank_seed
from mvpnet.cloudinit.user_data import SeedFacts
from mvpnet.errors import ConfigError, ImageError, MvpnetError
from mvpnet.spec.model import JobSpec
from mvpnet.spec.schema import CloudInit, Config, Image, ImageKind, Job

FACTS = SeedFacts("ssh-ed25519 JOB", "PRIVATE\n")


def user_data(path: Path | str, rank: int = 1, **cloud_init: Any) -> Any:
    asked = CloudInit(user_data_file=str(path), **cloud_init)
    config = Config(job=Job(name="job7"), image=Image(kind=ImageKind.cloud), cloud_init=asked)
    text = rank_seed(JobSpec(4, Path("/run"), config).for_rank(rank), "alice", FACTS).user_data
    assert text.startswith("#cloud-config\n")
    return yaml.safe_load(text)


def test_it_goes_over_ours_and_below_user_data(tmp_path: Path) -> None:
    (tmp_path / "mine-1.yaml").write_text(
        "#cloud-config\n"
        "timezone: Europe/Berlin\nlocale: de_DE.UTF-8\n"
        "runcmd: ['echo ${rank}']\n"
        "user: {shell: /bin/zsh, homedir: /u/alice}\n"
        "growpart: null\nntp: {enabled: true}\n"
    )
    asked = {"locale": "C", "runcmd": ["last"], "ntp": None}
    data = user_data(tmp_path / "mine-{rank}.yaml", timezone="UTC", runcmd=["first"], user_data=asked)
    assert (data["timezone"], data["locale"]) == ("Europe/Berlin", "C")
    assert data["runcmd"] == ["first", "echo 1", "last"]
    assert data["user"]["shell"] == "/bin/zsh" and data["user"]["name"] == "alice"
    assert not {"growpart", "ntp"} & data.keys()
    assert "/u/alice/.ssh/id_ed25519" in [entry["path"] for entry in data["write_files"]]


@pytest.mark.parametrize(
    "text", ["#cloud-config\n", "#cloud-config # mine\r\ntimezone: UTC\r\n", "\ufeff#cloud-config\n"]
)
def test_what_cloud_config_may_look_like(tmp_path: Path, text: str) -> None:
    (tmp_path / "f").write_bytes(text.encode())
    assert user_data(tmp_path / "f")["user"]["name"] == "alice"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"timezone: UTC\n", "its first line has to be #cloud-config"),
        (b"", "its first line has to be #cloud-config"),
        (b"#!/bin/sh\necho\n", "cloud_init.files"),
        (b"#include\nhttp://x\n", "a list of URLs"),
        (b"#cloud-boothook\necho\n", "bootcmd"),
        (b"#part-handler\n", "a part handler"),
        (b"#cloud-config-archive\n- x\n", "several parts"),
        (b"#cloud-config-jsonp\n[]\n", "a JSON patch"),
        (b"## template: jinja\n#cloud-config\n", "a template"),
        (b"Content-Type: multipart/mixed\n", "a multipart message"),
        (b"MIME-Version: 1.0\n", "a multipart message"),
        (gzip.compress(b"#cloud-config\n", mtime=0), "gzip -d"),
        (b"#cloud-config\n- a\n", "no mapping"),
        (b"#cloud-config\na: [\n", "is no YAML"),
        (b"#cloud-config\na: \xff\n", "no text in UTF-8"),
        (b"#cloud-config\nnetwork: {version: 2}\n", "cloud_init.network_config"),
        (b"#cloud-config\nssh_authorized_keys: [~/.ssh/id.pub]\n", "ssh_authorized_keys[0]: is no"),
    ],
)
def test_what_cannot_be_merged_is_refused_with_the_reason(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        user_data(tmp_path / "f")
    assert str(caught.value).startswith(f"cloud_init.user_data_file: {tmp_path}/f") and what in str(caught.value)


@pytest.mark.parametrize("trouble", ["missing", "folder", "large"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, trouble: str) -> None:
    path = tmp_path / "file"
    if trouble == "folder":
        path.mkdir()
    if trouble == "large":
        path.write_bytes(b"#cloud-config\n" + bytes(2**20))
    with pytest.raises(ImageError, match=r"^cloud_init\.user_data_file: "):
        user_data(path)


def test_an_unknown_name_in_its_path_is_refused() -> None:
    with pytest.raises(MvpnetError, match=r"^cloud_init\.user_data_file: \{node\}"):
        user_data("/data/{node}")


def test_no_secret_in_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("#cloud-config\npassword: s3cret\n  b: [\n")
    with pytest.raises(ConfigError, match="line") as caught:
        user_data(tmp_path / "f")
    assert "s3cret" not in str(caught.value)
