"""The verbs, as a user types them: no MPI, no guest."""

from __future__ import annotations

import json
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
    assert all(verb in verbs for verb in ("plan", "image", "seed", "bench"))
