"""Python processes of ours in a launch folder whose files are named as modules of the standard library."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mvpnet.app.guest_shell import fetch_argv, push_argv
from mvpnet.cloudinit.schema_check import check_user_data
from mvpnet.runtime.helper_python import helper_argv
from mvpnet.spec.schema import Validate

NAMES = ("copy", "signal", "json", "typing", "tarfile", "struct", "logging", "socket", "mvpnet")
HOSTILE = "import os\nos.close(os.open(os.path.join({folder!r}, 'executed'), os.O_CREAT))\nraise SystemExit(66)\n"


@pytest.fixture
def launch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, full of modules that tell when they are executed."""
    folder = tmp_path / "launch"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(HOSTILE.format(folder=str(folder)))
    monkeypatch.chdir(folder)
    paths = [str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    return folder


def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)


def test_the_files_would_be_executed(launch_folder: Path) -> None:
    assert run([sys.executable, "-m", "json.tool"]).returncode == 66
    assert (launch_folder / "executed").exists()


def test_files_are_carried(launch_folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    ssh = ["sh", "-c", f'cd {home}; exec sh -c "$1"', "ssh"]
    done = run(push_argv({"sent": launch_folder / "json.py"}, None, ssh))
    assert (done.returncode, done.stderr) == (0, "")
    done = run(fetch_argv(tmp_path / "back", ["sent"], ssh))
    assert (done.returncode, done.stderr) == (0, "")
    assert not (launch_folder / "executed").exists()


def test_disks_are_copied(launch_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"disk")
    done = run(helper_argv("mvpnet.snapshot.copy_disks", str(tmp_path), str(tmp_path / "disk"), str(tmp_path / "copy")))
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "copy").read_bytes() == b"disk"
    assert not (launch_folder / "executed").exists()


def test_the_bench_s_guest_runs(launch_folder: Path) -> None:
    """It ends in order when its control socket does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link, link_end = socket.socketpair()
    with ours, theirs, link, link_end:
        argv = helper_argv("mvpnet.bench.guest", "stream", "0", str(link_end.fileno()), str(theirs.fileno()))
        guest = subprocess.Popen(argv, pass_fds=[link_end.fileno(), theirs.fileno()], stderr=subprocess.PIPE)
        theirs.close()
        ours.close()
        _, words = guest.communicate(timeout=120)
    assert (guest.returncode, words) == (0, b"")
    assert not (launch_folder / "executed").exists()


def test_user_data_is_checked(launch_folder: Path) -> None:
    if shutil.which("cloud-init") is None:
        pytest.skip("there is no cloud-init on the PATH")
    assert check_user_data("#cloud-config\nlocale: C.UTF-8\n", Validate.always) is None
    assert not (launch_folder / "executed").exists()


def test_the_program_itself_plans(launch_folder: Path) -> None:
    done = run(helper_argv("mvpnet", "plan", "-n", "1", "--json", "vm.accel=tcg"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    assert not (launch_folder / "executed").exists()
