"""Packing a run and unpacking it: what goes along, what is kept back, what is refused."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from mvpnet.errors import ConfigError
from mvpnet.records import digests
from mvpnet.records.archive import is_archive, pack, unpack
from mvpnet.records.inputs import Input
from mvpnet.records.run import open_run
from mvpnet.spec.schema import Image, ImageKind
from records.runs import job, make_run


def input_of(key: str, path: Path, content: bytes) -> Input:
    path.write_bytes(content)
    return Input(key, str(path), len(content), path.stat().st_mtime_ns, hashlib.sha256(content).hexdigest(), "cache")


@pytest.mark.parametrize("ending", ["tar.gz", "tgz", "tar.zst"])
def test_records_and_small_inputs_go_along_but_no_image_and_no_key(tmp_path: Path, ending: str) -> None:
    script = input_of("app.command[0]", tmp_path / "run.sh", b"#!/bin/sh\n")
    disk = input_of("image.path", tmp_path / "disk.raw", b"disk")
    folder = make_run(tmp_path / "run", inputs=[script, disk])
    for name in ("id_ed25519", "id_ed25519.pub", "ssh_config"):
        (folder.root / name).write_text("key")
    (folder.root / "overlay.qcow2").write_bytes(b"QFI\xfb\0\0\0\x03" + bytes(500))
    (folder.root / "rank-0000").mkdir()
    (folder.root / "rank-0000" / "console.log").write_text("booting")
    target = tmp_path / f"packed.{ending}"
    assert pack(open_run(folder.root), target) == [] and is_archive(target)
    (tmp_path / "out").mkdir()
    root = unpack(target, tmp_path / "out")
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert names == [f"inputs/{script.sha256}/run.sh", "job.json", "manifest.json", "rank-0000/console.log"]
    assert open_run(root).manifest == open_run(folder.root).manifest


def test_what_could_not_go_along_is_told(tmp_path: Path) -> None:
    script = input_of("app.command[0]", tmp_path / "run.sh", b"#!/bin/sh\n")
    gone = input_of("recipe", tmp_path / "mine.yaml", b"{}")
    unknown = Input("app.command[1]", "/somewhere", 5, 1, by="not digested: Permission denied")
    folder = make_run(tmp_path / "run", inputs=[script, gone, unknown])
    (tmp_path / "run.sh").write_text("changed since")
    (tmp_path / "mine.yaml").unlink()
    left_out = pack(open_run(folder.root), tmp_path / "packed.tar.gz")
    assert [line.partition(":")[0] for line in left_out] == ["app.command[0]", "recipe", "app.command[1]"]
    assert "not any more" in left_out[0] and "No such file" in left_out[1] and "Permission denied" in left_out[2]


def test_a_folder_goes_along_with_what_its_digest_covers(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__pycache__" / "a.pyc").write_text("compiled")
    (tmp_path / "data").write_text("data")
    (folder / "link").symlink_to(tmp_path / "data")
    digest = digests.sha256(folder)
    run = make_run(tmp_path / "run", inputs=[Input("recipe.files", str(folder), 4, 1, digest, "cache")])
    assert pack(open_run(run.root), tmp_path / "packed.tar.gz") == []
    (tmp_path / "out").mkdir()
    along = unpack(tmp_path / "packed.tar.gz", tmp_path / "out") / "inputs" / digest / "mine"
    assert [path.name for path in along.iterdir()] == ["link"] and digests.sha256(along) == digest


def test_an_archive_has_no_password_that_job_json_has(tmp_path: Path) -> None:
    image = Image(kind=ImageKind.cloud, source="https://me:hunter2@example.org/disk")
    folder = make_run(tmp_path / "run", job(tmp_path, image=image))
    (folder.root / ".hydra").mkdir()
    (folder.root / ".hydra" / "config.yaml").write_text("hunter2")
    folder.job_json.write_text('"hunter2"')
    pack(open_run(folder.root), tmp_path / "packed.tar.gz")
    with tarfile.open(tmp_path / "packed.tar.gz") as archive:
        assert archive.getnames() == ["run/manifest.json"]
        assert b"hunter2" not in archive.extractfile("run/manifest.json").read()  # type: ignore[union-attr]


def test_a_run_without_an_end_is_not_packed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ended=False)
    with pytest.raises(ConfigError, match="status is 'running'"):
        pack(open_run(folder.root), tmp_path / "packed.tar.gz")
    with pytest.raises(ConfigError, match=r"has to end in \.tar\.gz"):
        pack(open_run(folder.root), tmp_path / "packed.zip")


def test_what_is_no_archive_of_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="no such archive"):
        unpack(tmp_path / "nowhere.tar.gz", tmp_path / "out")
    for name in ("broken.tar.gz", "broken.tar.zst"):
        (tmp_path / name).write_bytes(b"no archive")
        with pytest.raises(ConfigError, match="no whole archive"):
            unpack(tmp_path / name, tmp_path / "out")
    whole = make_run(tmp_path / "run")
    (whole.root / "long.log").write_text("".join(map(str, range(20_000))))
    for ending in ("tar.gz", "tar.zst"):
        pack(open_run(whole.root), tmp_path / f"cut.{ending}")
        cut = tmp_path / f"cut.{ending}"
        cut.write_bytes(cut.read_bytes()[:-2000])
        with pytest.raises(ConfigError, match="no whole archive"):
            unpack(cut, tmp_path / "out")
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "broken.tar.gz", "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no archive of a run"):
        unpack(tmp_path / "other.tar.gz", tmp_path / "empty")


def test_an_archive_that_leads_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("../escaped")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(ConfigError, match="no whole archive"):
        unpack(tmp_path / "evil.tar.gz", tmp_path / "out")
    assert not (tmp_path / "escaped").exists()
