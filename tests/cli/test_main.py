"""The verbs, as a user types them: no MPI, no guest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mvpnet


def mvpnet_says(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mvpnet", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def test_plan_as_json_shows_what_each_rank_would_do(tmp_path: Path) -> None:
    said = mvpnet_says(tmp_path, "plan", "-n", "3", "--json", "net=dgram", "ranks=[big_head]", "vm.accel=tcg")
    assert said.returncode == 0, said
    ranks = json.loads(said.stdout)
    assert [rank["rank"] for rank in ranks] == [0, 1, 2]
    assert [rank["spec"]["vm"]["memory"] for rank in ranks] == ["8G", "1G", "1G"]
    for rank in ranks:
        argv = rank["qemu"]
        assert argv[argv.index("-m") + 1] == ("8192M" if rank["rank"] == 0 else "1024M")
        assert any(f"mac=52:55:00:00:00:0{rank['rank']}" in word for word in argv)
        assert any("mac=52:56:00:00:00:03" in word for word in argv)
        assert any(word.startswith("dgram,id=mvpnet") for word in argv)
    assert list(tmp_path.iterdir()) == [], "a plan makes nothing"


def test_a_plan_needs_no_mpi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPI4PY_LIBMPI", "/nowhere/libmpi.so")
    said = mvpnet_says(tmp_path, "plan", "vm.accel=tcg")
    assert said.returncode == 0, said


def test_plan_as_text(tmp_path: Path) -> None:
    said = mvpnet_says(tmp_path, "plan", "-n", "2", "+ranks.far={on: '9'}")
    assert said.returncode == 0, said
    assert "# rank 0" in said.stdout and "# rank 1" in said.stdout
    assert "qemu-system-x86_64 \\\n" in said.stdout
    assert "warning: ranks.far.on" in said.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan", "vm.cpos=2"], "vm.cpos"),
        (["plan", "-n", "many"], "many"),
        (["plan", "image=file"], "image.path"),
        (["plan", "-n", "1", "recipe=nfs"], "app.steps.measure.on: no rank of this world of 1"),
        (["plan", "--jsn"], "--json"),
        (["plann"], "Did you mean 'plan'"),
    ],
)
def test_mistakes_are_told_without_a_traceback(tmp_path: Path, arguments: list[str], says: str) -> None:
    said = mvpnet_says(tmp_path, *arguments)
    assert said.returncode == 2, said
    assert says in said.stderr and "Traceback" not in said.stderr


def test_help_and_version(tmp_path: Path) -> None:
    assert mvpnet_says(tmp_path, "--version").stdout == f"mvpnet {mvpnet.__version__}\n"
    verbs = mvpnet_says(tmp_path, "help").stdout
    assert all(verb in verbs for verb in ("plan", "image", "seed", "bench", "recipes"))


def test_the_resolved_configuration_keeps_what_is_each_ranks_own(tmp_path: Path) -> None:
    words = ["cloud_init.runcmd=['echo ${rank} ${job.name}']", "job.name=j1"]
    rank_override = "+ranks.a={on: all, cloud_init: {timezone: '${host_name}'}}"
    said = mvpnet_says(tmp_path, "--cfg", "job", "--resolve", *words, rank_override)
    assert said.returncode == 0, said
    assert "echo ${rank} j1" in said.stdout and "timezone: ${host_name}" in said.stdout
    part = mvpnet_says(tmp_path, "--cfg=job", "--resolve", "-p", "cloud_init", *words)
    assert part.stdout.startswith("# @package cloud_init\npath: null\n"), part
    assert "echo ${rank} j1" in part.stdout
    assert mvpnet_says(tmp_path, "--cfg", "job", "--resolve", "-p", "vm.cpus").stdout == "# @package vm.cpus\n1\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cloud_init.runcmd=['${rnk}']"], "rnk"),
        (["-p", "cloud_int"], "did you mean cloud_init"),
        (["vm.cpos=2"], "vm.cpus"),
    ],
)
def test_mistakes_in_a_resolved_configuration(tmp_path: Path, arguments: list[str], says: str) -> None:
    said = mvpnet_says(tmp_path, "--cfg", "job", "--resolve", *arguments)
    assert said.returncode == 2, said
    assert says in said.stderr and "Traceback" not in said.stderr


def test_a_plan_refuses_user_data_that_a_run_would_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}")
    if shutil.which("cloud-init") is None:
        pytest.skip("no cloud-init here, and tools/cloud-init.sh could not fetch it from the distribution")
    of_rank_1 = "+ranks.a={on: '1', cloud_init: {user_data: {growpart: 7}}}"
    job = ["-n", "3", "image=file", "image.path=disk.img", "cloud_init=always", of_rank_1]
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    refused = mvpnet_says(tmp_path, "plan", *job)
    assert refused.returncode == 2, refused
    assert "rank 1: cloud_init: " in refused.stderr and "growpart: 7" in refused.stderr
    assert mvpnet_says(tmp_path, "plan", *job, "cloud_init.validate=never").returncode == 0
    assert mvpnet_says(tmp_path, "plan", *job[:-1]).returncode == 0
