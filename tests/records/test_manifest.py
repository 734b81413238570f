"""manifest.json: whole at every moment, without secrets, and refused when it is not one that can be read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mvpnet.paths import RunFolder
from mvpnet.records import environment
from mvpnet.records.inputs import Input
from mvpnet.records.manifest import FORMAT, ManifestError, Recorder, read_manifest
from mvpnet.spec.schema import CloudInit, Image, ImageKind
from records.runs import job, make_run, rank_told


def content(run: RunFolder) -> dict[str, Any]:
    return json.loads(run.manifest.read_text())


def test_it_goes_with_the_job(tmp_path: Path) -> None:
    run, spec = RunFolder(tmp_path), job(tmp_path, ranks=3)
    recorder = Recorder(run, spec, ["a", "a", "b"], {"run": "/old"})
    recorder.begin()
    assert content(run)["status"] == "preparing" and content(run)["replays"] == {"run": "/old"}
    disk = Input("image.path", "/disk", 5, 1)
    other_qemu = {"path": "/other", "version": "9.0.0"}
    told = [
        rank_told("a", [disk]),
        rank_told("a", [disk], host_facts=None, qemu=other_qemu),
        rank_told("b", [disk]),
    ]
    recorder.started(told, [Input("recipe", "/recipe", 1, 1, "e" * 64, "cache")])
    now = content(run)
    assert now["status"] == "running" and now["digest"] == spec.digest()
    assert {name: host["ranks"] for name, host in now["hosts"].items()} == {"a": "0-1", "b": "2"}
    assert now["ranks"]["1"]["qemu"] == other_qemu and "qemu" not in now["ranks"]["2"]
    assert [(one["key"], one["ranks"]) for one in now["inputs"]] == [("image.path", "0-2"), ("recipe", "0")]
    recorder.ended("completed", {"how": "over", "code": 0}, [], [[("up", 5.0)], [("up", 7.0)], [("up", 6.0)]])
    recorder.digested([replace(disk, sha256="f" * 64, by="read at the end")])
    now = content(run)
    assert now["status"] == "completed" and now["verdict"]["code"] == 0
    assert now["times"]["up"] == 7.0 and now["ranks"]["1"]["states"] == [["up", 7.0]]
    assert now["inputs"][0]["sha256"] == "f" * 64
    assert read_manifest(run) == now
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_software_is_named_with_its_versions() -> None:
    found = environment.software()
    assert found["mvpnet"]["version"] and found["python"]
    assert {"mpi4py", "hydra-core", "omegaconf"} <= found["packages"].keys()


def test_a_checkout_tells_commit_and_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    assert environment.checkout(tmp_path) == {}

    def git(*words: str) -> None:
        who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "mvpnet").write_text("source")
    git("add", "mvpnet")
    git("commit", "-m", "first")
    clean = environment.checkout(tmp_path)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (tmp_path / "mvpnet").write_text("changed")
    assert environment.checkout(tmp_path) == {**clean, "dirty": True}


def test_slurms_variables_without_its_secrets() -> None:
    variables = {"SLURM_JOB_ID": "7", "SLURM_JWT": "secret", "SLURM_SPANK_PASS": "secret", "HOME": "/"}
    assert environment.batch_system(variables) == {"SLURM_JOB_ID": "7"}


def test_no_password_of_a_url_is_recorded(tmp_path: Path) -> None:
    secret = "hunter2"
    source = f"https://user:{secret}@example.org/disk.qcow2"
    spec = job(
        tmp_path,
        image=Image(kind=ImageKind.cloud, source=source),
        cloud_init=CloudInit(user_data={"apt": {"proxy": f"http://proxy:{secret}@example.org:3128/"}}),
    )
    spec = replace(spec, typed=(f"image.source={source}",))
    Recorder(RunFolder(tmp_path), spec, ["a", "a"], None).begin()
    text = (tmp_path / "manifest.json").read_text()
    assert secret not in text and "https://example.org/disk.qcow2" in text
    assert json.loads(text)["left_out"] == ["config.image.source", "config.cloud_init.user_data.apt.proxy", "typed[0]"]


def test_the_environment_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:hunter2@example.org")
    monkeypatch.setenv("SLURM_JWT", "hunter2")
    assert "hunter2" not in make_run(tmp_path / "run").manifest.read_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"format": ', "no whole manifest"),
        ("[]", "no format number"),
        ('{"status": "completed"}', "no format number"),
        ('{"format": 1, "status": "completed"}', "has no digest, spec"),
        (
            json.dumps({"format": FORMAT + 1, "software": {"mvpnet": {"version": "9.9"}}}),
            f"format {FORMAT + 1}.*up to {FORMAT}(.|\n)*9.9",
        ),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match=says):
        read_manifest(RunFolder(tmp_path))


def test_a_folder_without_a_manifest_is_told_for_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such run folder"):
        read_manifest(RunFolder(tmp_path / "nowhere"))
    with pytest.raises(ManifestError, match="is no run folder"):
        read_manifest(RunFolder(tmp_path))
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "job.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"folder of a sweep(.|\n)*/0 "):
        read_manifest(RunFolder(tmp_path))
    (tmp_path / "job.json").write_text("{}")
    with pytest.raises(ManifestError, match="killed before it wrote one"):
        read_manifest(RunFolder(tmp_path))
