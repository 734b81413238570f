"""Who may reach what of a job on its host, seen from outside while it runs. docs/security.md tells it."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from support import RunningJob
from whole_jobs.conftest import Bench, nothing_left

OPEN_UMASK = ["sh", "-c", 'umask 0; exec "$@"', "sh", sys.executable, "-m", "mvpnet"]
PASSWORD = "gehe1m-of-the-proxy"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def registry() -> Path:
    return Path(os.environ["MVPNET_REGISTRY"])


def private_lines(job: RunningJob) -> list[str]:
    """The private key's own lines."""
    lines = (job.cwd / "run/id_ed25519").read_text().splitlines()
    return [line for line in lines if not line.startswith("-----")]


def test_folders_are_private_whatever_the_umask(bench: Bench) -> None:
    logs = bench.folder / "logs"
    job = bench.up("image.use=overlay", "cloud_init.seed=make", f"logging.dir={logs}", program=OPEN_UMASK)
    folders = [job.cwd / "run", *(path for path in job.scratch.iterdir() if path.name.startswith("mvpnet-"))]
    folders += [registry(), *(path for path in registry().iterdir() if path.is_dir())]
    folders += logs.glob("*/rank-*")
    assert len(folders) == 6
    assert {str(path): oct(mode(path)) for path in folders if mode(path) != 0o700} == {}
    inside = [path for top in folders[:3] for path in top.rglob("*")]
    keys = [path for path in inside if path.name == "id_ed25519"]
    assert len(keys) == 3  # the job's, and one a rank
    assert {str(path): oct(mode(path)) for path in keys if mode(path) != 0o600} == {}
    scratch = [path for path in folders[1].iterdir() if path.is_dir()]
    assert len(scratch) == 2
    assert {mode(path) for path in scratch} == {0o700}
    assert {mode(path) for path in registry().rglob("*.sock")} == {0o600}
    everything = [*job.scratch.rglob("*"), *registry().rglob("*")]
    sockets = [path for path in everything if path.is_socket()]
    assert len(sockets) == 3, "two consoles and the job's control socket"
    for path in sockets:
        assert any(path.is_relative_to(folder) for folder in folders), f"{path} is in no private folder"
    for rank in range(2):
        bench.tell(f"poweroff.{rank}")
    job.finish()
    nothing_left(job)


def test_a_folder_that_was_there_keeps_its_mode(bench: Bench) -> None:
    run = bench.disk.parent / "run"
    run.mkdir(mode=0o755)
    (run / "mine").touch()
    _, end = bench.run('app.command=["true"]', ranks=1)
    assert end.code == 0, end
    assert mode(run) == 0o755


def test_no_secret_is_in_logs_records_or_command_lines(bench: Bench) -> None:
    proxy = dict.fromkeys(("http_proxy", "https_proxy"), f"http://user:{PASSWORD}@127.0.0.1:9")
    options = ["cloud_init.seed=make", "cloud_init.proxy=env", "logging=debug", "logging.wrapper=true"]
    job = bench.up(*options, env=proxy)
    secrets = [PASSWORD, *private_lines(job)]
    assert len(secrets) > 3
    commands = [process.command for process in job.processes()]
    assert any("monwrap" in command for command in commands)
    assert [command for command in commands if any(secret in command for secret in secrets)] == []
    for rank in range(2):
        bench.tell(f"poweroff.{rank}")
    end = job.finish()
    files = [path for path in (job.cwd / "run").rglob("*") if path.is_file() and path.name != "id_ed25519"]
    assert {"manifest.json", "job.json", "mvpnet.log", "monwrap.log", "config.yaml"} <= {path.name for path in files}
    texts = {str(path): path.read_text(errors="replace") for path in files} | {"terminal": end.stdout + end.stderr}
    assert [name for name, text in texts.items() if any(secret in text for secret in secrets)] == []
    nothing_left(job)


def test_wrappers_listen_on_no_network(bench: Bench) -> None:
    """Ranks do, as MPI has them."""
    job = bench.up()
    wrappers = {process.pid for process in job.processes("monwrap.py")}
    assert len(wrappers) == 2
    assert listening(wrappers) == set()
    for rank in range(2):
        bench.tell(f"poweroff.{rank}")
    job.finish()
    nothing_left(job)


def listening(pids: set[int]) -> set[str]:
    """Local addresses, in hex as proc(5) has them, of these processes' TCP sockets that listen, and UDP sockets."""
    inodes = {
        str(fd.readlink()).removeprefix("socket:[").removesuffix("]")
        for pid in pids
        for fd in Path(f"/proc/{pid}/fd").iterdir()
    }
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] in inodes and (words[3] == "0A" or table.startswith("udp")):  # 0A: TCP_LISTEN
                found.add(words[1])
    return found


SSH = """#!/bin/sh
# In place of ssh: runs the command in a folder of this machine.
for command do :; done
cd "$GUEST" && exec sh -c "$command"
"""


def test_a_launch_folder_of_any_name_whose_files_are_named_as_python_s_modules(bench: Bench, tmp_path: Path) -> None:
    """None of them is executed, and files go to the guest and back."""
    launch, guest, programs = tmp_path / 'lau"nch 100% #1', tmp_path / "guest", tmp_path / "bin"
    for folder in (launch, guest, programs):
        folder.mkdir()
    for name in ("copy", "signal", "json", "typing"):
        (launch / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nraise SystemExit(66)\n")
    (programs / "ssh").write_text(SSH)
    (programs / "ssh").chmod(0o755)
    steps = "app=guest", "app.push={in/: '*.py'}", "app.command=[sh,-c,'ls in > ~/out.txt']", "app.collect=[~/out.txt]"
    job, done = bench.run(
        *steps,
        program=[sys.executable, "-P", "-m", "mvpnet"],
        cwd=launch,
        env={"PATH": f"{programs}:{os.environ['PATH']}", "GUEST": str(guest), "HOME": str(guest)},
    )
    assert done.code == 0, done
    assert (job.cwd / "run/rank-0000/collected/out.txt").read_text().split() == [
        "copy.py",
        "json.py",
        "signal.py",
        "typing.py",
    ]
    assert not (tmp_path / "executed").exists()
    assert "to log in: ssh -F run/ssh_config n0000" in done.stderr
    assert str(job.scratch) in (job.cwd / "run/ssh_config").read_text()
