"""Scratch folders: private, gone at the end, and swept when their job was killed."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mvpnet.errors import HostError
from mvpnet.runtime.scratch import remove_stale, scratch_folder

HOLD = """
import sys, time
from pathlib import Path
from mvpnet.runtime.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1]), sys.argv[2], print) as scratch:
    (scratch.folder / "overlay").write_text("x")
    scratch.own_socket(Path(sys.argv[3]))
    print("held", flush=True)
    time.sleep(60)
"""


def no_word(line: str) -> None:
    raise AssertionError(line)


def killed(base: Path, name: str, socket_path: Path) -> None:
    """A process that held a scratch folder, and got SIGKILL."""
    command = [sys.executable, "-c", HOLD, str(base), name, str(socket_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        remove_stale(base, no_word)
        assert (base / name / "overlay").exists(), "a folder in use is left alone"
        holder.send_signal(signal.SIGKILL)


def test_a_folder_is_private_and_goes_with_its_lock(tmp_path: Path) -> None:
    base = tmp_path / "mvpnet-0"
    with scratch_folder(base, "job.0", no_word) as scratch:
        assert base.stat().st_mode & 0o777 == 0o700
        assert scratch.folder.stat().st_mode & 0o777 == 0o700
        with scratch.lock.open() as again, pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (scratch.folder / "file").write_text("x")
    assert not base.exists()


def test_it_goes_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), scratch_folder(tmp_path / "base", "job.0", no_word):
        raise RuntimeError
    assert not (tmp_path / "base").exists()


def test_what_a_killed_job_left_is_removed_and_told(tmp_path: Path, short_dir: Path) -> None:
    base, path = tmp_path / "base", short_dir / "link.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    killed(base, "old.0", path)
    said: list[str] = []
    with scratch_folder(base, "new.0", said.append):
        assert not (base / "old.0").exists() and not path.exists()
    assert said == [
        f"removing {base}/old.0, left by a job that was killed",
        f"removed the socket {path}, left by a job that was killed",
    ]
    assert not base.exists()


def test_only_sockets_are_removed_outside(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("no socket")
    killed(tmp_path / "base", "old.0", precious)
    remove_stale(tmp_path / "base", lambda line: None)
    assert precious.read_text() == "no socket"


def test_a_base_that_is_not_ours_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "base").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match=r"job\.scratch_dir"), scratch_folder(tmp_path / "base", "job.0", no_word):
        pass
    (tmp_path / "open").mkdir(mode=0o755)
    with scratch_folder(tmp_path / "open", "job.0", no_word):
        assert (tmp_path / "open").stat().st_mode & 0o077 == 0


def test_a_base_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"job\.scratch_dir"), scratch_folder(tmp_path / "file/base", "job.0", no_word):
        pass


def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("only root can make one")
    (tmp_path / "base").mkdir()
    os.chown(tmp_path / "base", 12345, 12345)
    with pytest.raises(HostError, match="not a folder of your own"), scratch_folder(tmp_path / "base", "a", no_word):
        pass


def test_ranks_that_start_at_once_may_sweep_the_same_leftovers(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir(mode=0o700)
    for number in range(300):
        (base / f"old.{number}").mkdir()
        (base / f"old.{number}.lock").touch()
    script = (
        "import sys; from pathlib import Path; from mvpnet.runtime.scratch import scratch_folder\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "with scratch_folder(Path(sys.argv[1]), sys.argv[2], print): sys.stdin.readline()"
    )
    pipe = subprocess.PIPE
    ranks = [
        subprocess.Popen([sys.executable, "-c", script, str(base), f"new.{rank}"], stdin=pipe, stdout=pipe, text=True)
        for rank in range(4)
    ]
    for rank in ranks:
        assert rank.stdout and rank.stdout.readline() == "ready\n"
    for rank in ranks:
        assert rank.stdin
        rank.stdin.write("go\n")
        rank.stdin.flush()
    said = [line for rank in ranks for line in rank.communicate("end\n", timeout=60)[0].splitlines()]
    assert [rank.returncode for rank in ranks] == [0] * 4
    assert {f"removing {base}/old.{number}, left by a job that was killed" for number in range(300)} == set(said)
    assert not base.exists()


def test_jobs_may_come_and_go_at_the_same_time(tmp_path: Path) -> None:
    """The last one out removes the base folder, perhaps just when another comes in."""
    script = (
        "import sys; from pathlib import Path; from mvpnet.runtime.scratch import scratch_folder\n"
        "for _ in range(500):\n"
        "    with scratch_folder(Path(sys.argv[1]), sys.argv[2], print): pass"
    )
    base = tmp_path / "base"
    jobs = [subprocess.Popen([sys.executable, "-c", script, str(base), f"job.{number}"]) for number in range(3)]
    assert [job.wait(120) for job in jobs] == [0] * 3
    assert not base.exists()
