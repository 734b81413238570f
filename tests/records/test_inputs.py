"""What a run is made from: found, marked, and digested at the right time."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mvpnet.guest.drives import plan_drives
from mvpnet.records import digests, inputs
from mvpnet.records.inputs import Input, digest_all, job_inputs, rank_inputs, shared_out, with_digests
from mvpnet.spec.model import RankSpec
from mvpnet.spec.rank_set import ranks_text
from mvpnet.spec.schema import App, AppKind, CloudInit, Image, ImageKind, ImageUse
from records.runs import job

LARGE = 2 * 2**20  # more than is digested before the guests start


def aged(path: Path, content: bytes) -> Path:
    """A file that was last changed a minute ago."""
    path.write_bytes(content)
    an_age_ago_s = path.stat().st_mtime - 60
    os.utime(path, (an_age_ago_s, an_age_ago_s))
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def spec_with(tmp_path: Path, image: Image) -> RankSpec:
    return job(tmp_path / "run", image=replace(image, cache_dir=str(tmp_path / "cache"))).for_rank(0)


def found_with(spec: RankSpec, tmp_path: Path) -> list[Input]:
    return rank_inputs(spec, plan_drives(spec, tmp_path / "scratch"), None, None)


def test_a_large_image_is_digested_later_and_then_remembered(tmp_path: Path) -> None:
    disk = aged(tmp_path / "disk.raw", bytes(LARGE))
    spec = spec_with(tmp_path, Image(kind=ImageKind.file, path=str(disk)))
    (one,) = found_with(spec, tmp_path)
    assert (one.key, one.path, one.size_bytes, one.sha256, one.is_known) == (
        "image.path",
        str(disk),
        LARGE,
        None,
        False,
    )
    (done,) = digest_all([one], tmp_path / "cache", 60, lambda: True)
    assert (done.sha256, done.by) == (sha256(bytes(LARGE)), "read at the end")
    (again,) = found_with(spec, tmp_path)
    assert (again.sha256, again.by) == (done.sha256, "cache")
    aged(disk, b"x" * LARGE)
    os.utime(disk, ns=(0, 1))
    assert found_with(spec, tmp_path)[0].sha256 is None, "the file changed"


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(LARGE))
    spec = spec_with(tmp_path, Image(kind=ImageKind.file, path=str(disk)))
    digest_all(found_with(spec, tmp_path), tmp_path / "cache", 60, lambda: True)
    assert found_with(spec, tmp_path)[0].sha256 is None


def test_the_time_for_digests_is_bounded_and_a_signal_ends_it(tmp_path: Path) -> None:
    disk = aged(tmp_path / "disk.raw", bytes(LARGE))
    found = found_with(spec_with(tmp_path, Image(kind=ImageKind.file, path=str(disk))), tmp_path)
    for limit_s, go_on in ((0.0, True), (60.0, False)):
        (one,) = digest_all(found, tmp_path / "cache", limit_s, lambda go_on=go_on: go_on)
        assert one.sha256 is None and "longer than logging.digest_timeout_s" in one.by


def test_a_file_that_changes_while_the_job_runs_has_no_digest(tmp_path: Path) -> None:
    disk = aged(tmp_path / "disk.raw", bytes(LARGE))
    found = found_with(spec_with(tmp_path, Image(kind=ImageKind.file, path=str(disk))), tmp_path)
    disk.write_bytes(b"y" * LARGE)
    (one,) = digest_all(found, tmp_path / "cache", 60, lambda: True)
    assert one.sha256 is None and "changed while the job ran" in one.by
    disk.unlink()
    assert digest_all(found, tmp_path / "cache", 60, lambda: True)[0].sha256 is None


def test_an_image_that_the_guest_writes_is_not_digested(tmp_path: Path) -> None:
    disk = aged(tmp_path / "disk.raw", b"small")
    (one,) = found_with(spec_with(tmp_path, Image(kind=ImageKind.file, path=str(disk), use=ImageUse.direct)), tmp_path)
    assert one.written and one.sha256 is None and one.is_known


def test_the_stores_digest_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 64)
    folder.mkdir()
    disk = aged(folder / "disk", bytes(LARGE))
    (folder / "image.json").write_text(json.dumps({"disk_sha256": "b" * 64}))
    (one,) = found_with(spec_with(tmp_path, Image(kind=ImageKind.file, path=str(disk))), tmp_path)
    assert (one.sha256, one.by) == ("b" * 64, "store")


def test_files_for_the_guest_and_a_seed_without_what_is_the_users_own(tmp_path: Path) -> None:
    disk, motd = aged(tmp_path / "disk.raw", b"disk"), aged(tmp_path / "motd", b"welcome")
    image = Image(kind=ImageKind.cloud, path=str(disk))
    cloud_init = CloudInit(files={"/etc/motd": str(motd)})
    one = replace(spec_with(tmp_path, image), cloud_init=cloud_init)
    found = {each.key: each for each in found_with(one, tmp_path)}
    assert found["cloud_init.files./etc/motd"].sha256 == sha256(b"welcome")
    seed = found[inputs.SEED_KEY]
    assert seed.sha256 and seed.path is None
    of_another_job = {each.key: each for each in found_with(replace(one, job_name="other"), tmp_path)}
    assert of_another_job[inputs.SEED_KEY] == seed
    elsewhere = replace(one, cloud_init=replace(cloud_init, timezone="Europe/Berlin"))
    assert {each.key: each for each in found_with(elsewhere, tmp_path)}[inputs.SEED_KEY].sha256 != seed.sha256


def test_the_apps_files_and_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    aged(tmp_path / "run.py", b"print()")
    recipe = aged(tmp_path / "mine.yaml", b"{}")
    (tmp_path / "mine").mkdir()
    aged(tmp_path / "mine" / "data", b"data")
    spec = replace(job(tmp_path, app=App(command=[sys.executable, "run.py", "60", "x" * 5000])), recipe=recipe)
    found = {one.key: one for one in job_inputs(spec)}
    assert list(found) == ["app.command[1]", "recipe", "recipe.files"]
    assert found["app.command[1]"].sha256 == sha256(b"print()")
    assert found["recipe.files"].sha256 == sha256(f"{sha256(b'data')}  data\n".encode())


def test_of_an_app_in_guests_what_is_sent_there(tmp_path: Path) -> None:
    script, data = aged(tmp_path / "measure.sh", b"#!/bin/sh\n"), tmp_path / "data"
    data.mkdir()
    aged(data / "one", b"1")
    steps = {
        "prepare": {"command": [str(script)], "push": {"/tmp/data": str(data)}, "collect": ["/etc/hosts"]},
        "measure": {"script": [str(script), "60"]},
        "judge": {"kind": "host", "command": f"sh {script}"},
    }
    spec = job(tmp_path, app=App(kind=AppKind.guest, steps=steps))
    assert [one.key for one in job_inputs(spec)] == [
        "app.steps.prepare.push./tmp/data",
        "app.steps.measure.script[0]",
        "app.steps.judge.command[1]",
    ]


def test_a_folders_digest_tells_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "__pycache__").mkdir(parents=True)
    aged(folder / "a", b"1")
    first, seen = digests.sha256(folder), digests.mark(folder)
    aged(folder / "__pycache__" / "a.pyc", b"compiled")
    assert (digests.sha256(folder), digests.mark(folder)) == (first, seen)
    (folder / "a").rename(folder / "b")
    assert digests.sha256(folder) != first


def test_each_file_is_digested_once_and_told_for_all_its_users() -> None:
    one, other = Input("image.path", "/disk", 5, 1), Input("image.path", "/disk", 5, 2)
    known = Input("image.kernel", "/kernel", 5, 1, "c" * 64, "store")
    by_rank = {0: [one, known], 1: [one], 2: [other]}
    assert shared_out(by_rank) == {0: [one], 2: [other]}
    done = with_digests(by_rank, [replace(one, sha256="d" * 64, by="read at the end")])
    assert [each.sha256 for inputs in done.values() for each in inputs] == ["d" * 64, "c" * 64, "d" * 64, None]
    assert [(each["ranks"], each["sha256"]) for each in inputs.as_plain(done)] == [
        ("0-1", "d" * 64),
        ("0", "c" * 64),
        ("2", None),
    ]
    read = replace(one, sha256="d" * 64, by="read at the start")
    assert [each["ranks"] for each in inputs.as_plain({0: [read], 1: [replace(read, by="cache")]})] == ["0-1"]


@pytest.mark.parametrize(("ranks", "text"), [([0], "0"), ([0, 1, 2, 5], "0-2,5"), ([], "")])
def test_ranks_text(ranks: list[int], text: str) -> None:
    assert ranks_text(ranks) == text


def test_a_folder_with_names_that_are_no_text_has_a_digest(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"gr\xf6\xdfe")).write_bytes(b"x")
    assert digests.sha256(tmp_path) == sha256(f"{sha256(b'x')}  ".encode() + b"gr\xf6\xdfe\n")
