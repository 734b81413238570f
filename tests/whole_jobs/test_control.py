"""Hands on a running job: every verb, from another folder and without MPI, and what each refuses."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from control.verbs import PATIENCE_S, hands, jobs_listed, on_a_terminal, read_until, refused, said
from mvpnet.control.protocol import PROTOCOL
from mvpnet.control.registry import find_jobs
from support import RunningJob, poll_until
from whole_jobs.conftest import Bench, nothing_left, record, scratch_files
from whole_jobs.test_ways_to_stop import pid_of_rank


def test_one_job_and_every_verb(bench: Bench, tmp_path: Path) -> None:
    job = bench.up("job.name=mine", "logging.wrapper=true")
    pid = pid_of_rank(job, 0)

    listed = said("ls")
    assert "mine" in listed and str(pid) in listed and "running" in listed and str(job.cwd / "run") in listed
    (facts,) = jobs_listed()
    assert {key: facts[key] for key in ("name", "id", "phase", "ranks", "run_dir", "sweep_job")} == {
        "name": "mine",
        "id": pid,
        "phase": "running",
        "ranks": 2,
        "run_dir": str(job.cwd / "run"),
        "sweep_job": None,
    }

    check_status(json.loads(said("status", "--json", "--interval", "0.1")), pid)
    table = said("status", "mine", "--interval", "0.1")
    assert "n0000" in table and "n0001" in table and table.count("running") == 3

    for words in (["1"], ["n0001"], ["mine", "1"], [str(pid), "1"]):
        assert json.loads(said("monitor", *words, "query-status")) == {"status": "running", "running": True}
    assert said("monitor", "0", "--hmp", "info network") == "a human asked for info network\n"
    long = json.dumps({"command-line": '"long"', "cpu-index": 9000})
    assert len(json.loads(said("monitor", "1", "human-monitor-command", long))) > 200_000
    assert "n0001: The command fly has not been found" in refused(9, "monitor", "1", "fly")
    assert "not JSON" in refused(2, "monitor", "1", "query-status", "{")
    assert "no JSON object" in refused(2, "monitor", "1", "query-status", "[]")
    assert "QMP command is expected" in refused(2, "monitor", "1")
    assert "of more than 4000 bytes" in refused(8, "monitor", "1", "--hmp", 5000 * "x")
    assert "--hmp is the command" in refused(2, "monitor", "1", "--hmp", "info", "query-status")

    check_ssh(tmp_path)
    check_logs(job)
    check_refusals(pid)
    check_completion(pid)

    assert "pressed the reset button of n0001" in hands("reset", "1").stderr
    monwrap_log = job.cwd / "run/rank-0001/monwrap.log"
    poll_until(lambda: "qmp: RESET" in monwrap_log.read_text(), 60, "the guest to be reset")
    assert "pressed the power button of n0001" in hands("powerdown", "mine", "1").stderr
    poll_until(lambda: json.loads(said("status", "--json"))["ranks"][1]["state"] == "gone", 60, "the guest to be gone")
    (_, gone) = json.loads(said("status", "--json"))["ranks"]
    assert gone["end"]["how"] == "powered_off"
    assert "the guest powered off" in said("status")
    for verb in (["ssh", "1"], ["console", "1"], ["reset", "1"], ["powerdown", "1"], ["monitor", "1", "query-status"]):
        assert "gone" in refused(9, *verb)

    stopped = hands("stop", "mine")
    assert (stopped.returncode, stopped.stdout) == (0, ""), stopped
    assert f"job mine (id {pid}) is over" in stopped.stderr
    end = job.finish()
    assert record(job)["verdict"]["how"] == "SIGTERM received", end
    nothing_left(job)
    assert not Path(os.environ["MVPNET_REGISTRY"]).exists()
    assert jobs_listed() == []
    assert "no job of yours runs on this host" in refused(8, "status")


def check_status(status: dict[str, Any], pid: int) -> None:
    """What `mvpnet status --json` holds; programs rely on it."""
    assert set(status) == {"format", "job", "ranks"}
    assert (status["format"], status["job"]["id"], status["job"]["phase"]) == (1, pid, "running")
    assert [rank["name"] for rank in status["ranks"]] == ["n0000", "n0001"]
    for number, rank in enumerate(status["ranks"]):
        assert set(rank) == {
            *("rank", "name", "host", "address", "ssh_port", "user", "state", "state_since", "up_s", "answers"),
            *("restarts", "qemu_pid", "qemu_version", "end", "counters", "rates"),
        }
        assert (rank["rank"], rank["state"], rank["answers"], rank["end"]) == (number, "running", True, None)
        assert rank["qemu_version"] == "7.2.0" and Path(f"/proc/{rank['qemu_pid']}").exists()
        assert rank["up_s"] >= 0
        assert rank["counters"]["frames_from_guest"] == 0
        per_s = {"frames_from_guest", "bytes_from_guest", "frames_to_guest", "bytes_to_guest", "drops"}
        assert set(rank["rates"]) == {f"{key}_per_s" for key in per_s}


def check_ssh(folder: Path) -> None:
    """With a program in ssh's place that tells what it was asked for."""
    ssh = folder / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text('#!/bin/sh\necho "$@"\nexit 7\n')
    ssh.chmod(0o755)
    env = {"PATH": f"{ssh.parent}:{os.environ['PATH']}"}
    for job in ([], ["mine"]):
        done = hands("ssh", *job, "1", "ls", "-l", "--", "a b", env=env)
        config = folder / "run/ssh_config"
        assert (done.returncode, done.stdout) == (7, f"-F {config} n0001 ls -l -- a b\n"), done
    assert "ssh is not installed" in refused(3, "ssh", "0", env={"PATH": ""})


def check_logs(job: RunningJob) -> None:
    assert said("logs", "1") == "Linux 6.1 booting\nn0001 login: "
    assert sorted(said("logs", "mine", "-n", "1").splitlines()) == ["n0000 | n0000 login: ", "n0001 | n0001 login: "]
    assert "the guest is running" in said("logs", "0", "--log", "mvpnet")
    assert "monwrap[" in said("logs", "mine", "0", "--log", "wrapper")
    (job.cwd / "run/rank-0001/monwrap.log").rename(job.cwd / "elsewhere")
    assert "logging.wrapper=true" in refused(8, "logs", "1", "--log", "wrapper")
    (job.cwd / "elsewhere").rename(job.cwd / "run/rank-0001/monwrap.log")


def check_refusals(pid: int) -> None:
    assert "there is no rank 2 in job mine" in refused(8, "console", "2")
    assert "this job has ranks 0 to 1" in refused(8, "logs", "n0007")
    near = refused(8, "status", "mime")
    assert "there is no job mime (did you mean mine?)" in near and f"mine (id {pid})" in near
    assert "there is no job mime" in refused(8, "reset", "mime", "0")
    assert "a rank is missing" in refused(2, "console", "mine")
    assert "a rank is missing" in refused(2, "powerdown")
    assert "one job is expected" in refused(2, "stop", "mine", "0")
    assert "what is 1 for" in refused(2, "reset", "0", "1")
    assert "is no character" in refused(2, "console", "--escape", "many", "0")
    assert "status" in refused(2, "statsu")  # click's near miss


def check_completion(pid: int) -> None:
    script = said("completion", "bash")
    assert "_MVPNET_COMPLETE=bash_complete" in script
    for shell in ("zsh", "fish"):
        assert "_MVPNET_COMPLETE" in said("completion", shell)
    assert completed("mvpnet", "stat") == ["status"]
    assert completed("mvpnet", "console", "") == ["0", "1", "mine", str(pid)]
    assert completed("mvpnet", "console", "mine", "") == ["0", "1"]
    assert completed("mvpnet", "stop", "") == ["mine", str(pid)]
    assert completed("mvpnet", "stop", "mine", "") == []
    assert "--interval" in completed("mvpnet", "status", "--")


def completed(*words: str) -> list[str]:
    asked = {"_MVPNET_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    return [line.partition(",")[2] for line in said(env=asked).splitlines() if line]


def test_a_console_on_a_terminal(bench: Bench) -> None:
    job = bench.up()
    with on_a_terminal("console", "1") as (first, terminal):
        shown = read_until(terminal, "n0001 login: ")
        assert "^] leaves" in shown and "more attached" not in shown and shown.count("login: ") == 1
        os.write(terminal, b"root\x03\r")  # Ctrl-C is the guest's
        read_until(terminal, "root\x03")
        with on_a_terminal("console", "n0001", "--escape", "^A") as (second, other):
            assert "1 more attached" in read_until(other, "login: ")
            os.write(other, b"from the other\r")
            read_until(terminal, "from the other")
            read_until(other, "from the other")
            os.write(other, b"\x01")
            assert second.wait(PATIENCE_S) == 0
        os.write(terminal, b"still here\x1d")
        assert first.wait(PATIENCE_S) == 0
        read_until(terminal, "console of n0001: left")
    assert json.loads(said("status", "--json"))["ranks"][1]["state"] == "running"
    assert (job.cwd / "run/rank-0001/console.log").read_text() == "Linux 6.1 booting\nn0001 login: "

    assert said("console", "1", stdin="whoami\n") == "Linux 6.1 booting\nn0001 login: whoami\n"
    many = "".join(f"line {number} with a control \x1d in it\n" for number in range(3000))
    assert said("console", "0", stdin=many).endswith("line 2999 with a control \x1d in it\n")

    with on_a_terminal("console", "1") as (process, terminal):
        read_until(terminal, "login: ")
        process.terminate()
        assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
    with on_a_terminal("console", "1") as (process, terminal):
        read_until(terminal, "login: ")
        bench.tell("poweroff.1")
        read_until(terminal, "the guest's console was closed")
        assert process.wait(PATIENCE_S) == 0
    with on_a_terminal("console", "0", "--read-only") as (process, terminal):
        read_until(terminal, "login: ")
        bench.tell("poweroff.0")
        assert job.finish().code == 0
        read_until(terminal, "console of n0000: ")
        assert process.wait(PATIENCE_S) == 0
    nothing_left(job)


def test_a_console_of_a_guest_that_is_started_again(bench: Bench) -> None:
    job = bench.up("vm.restart=1", ranks=1)
    with on_a_terminal("console", "0") as (process, terminal):
        read_until(terminal, "login: ")
        standins = job.processes("standin.py -nodefaults")
        next(one for one in standins if "monwrap" not in one.command).kill()
        read_until(terminal, "the guest's console was closed")
        assert process.wait(PATIENCE_S) == 0

    def is_up_again() -> bool:
        (rank,) = json.loads(said("status", "--json", "--interval", "0.1"))["ranks"]
        return (rank["state"], rank["restarts"]) == ("running", 1)

    poll_until(is_up_again, 60, "the guest to be up again")
    assert said("console", "0", stdin="here again\n").endswith("login: here again\n")
    assert hands("stop").returncode == 0
    job.finish()
    nothing_left(job)


def test_status_that_is_watched_and_logs_that_are_followed(bench: Bench) -> None:
    job = bench.up("job.name=watched")
    command = [sys.executable, "-m", "mvpnet", "logs", "-f", "--log", "mvpnet", "1"]
    follower = subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    with on_a_terminal("status", "--watch", "--interval", "0.1") as (process, terminal):
        assert "n0001" in read_until(terminal, "\x1b[2J", times=4)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130
    with on_a_terminal("status", "--watch", "--json", "--interval", "0.1") as (process, terminal):
        read_until(terminal, '"phase": "running"', times=2)
        assert hands("stop", "--no-wait").returncode == 0
        read_until(terminal, "job watched")
        assert process.wait(PATIENCE_S) == 0
    job.finish()
    followed, _ = follower.communicate(timeout=PATIENCE_S)
    assert "the guest is running" in followed and "the guest is gone" in followed
    nothing_left(job)


def test_several_jobs_and_one_of_a_sweep(bench: Bench) -> None:
    one = bench.up("job.name=twin", ranks=1)
    sweep = bench.start("-m", "vm.cpus=1,2", "job.name=twin", "hydra.sweep.dir=sweep", ranks=1)
    sweep.wait_for("1/1 guests up")
    first, second = jobs_listed()
    assert (first["sweep_job"], second["sweep_job"]) == (None, 0)
    assert "twin (job 0 of a sweep)" in said("ls")
    assert "job 0 of a sweep" in said("status", str(second["id"]))
    assert "2 jobs run here, which one is meant?" in refused(8, "status")
    two = refused(8, "console", "twin", "0")
    assert "2 jobs have the name twin" in two and f"id {first['id']}" in two and f"id {second['id']}" in two
    assert completed("mvpnet", "status", "") == ["twin", str(first["id"]), str(second["id"])]
    for each in (second, first):
        assert hands("stop", str(each["id"])).returncode == 0
    one.finish()
    assert "SIGTERM received" in sweep.finish().stderr
    assert not (sweep.cwd / "sweep/1/job.json").exists(), "the sweep's other jobs are not run"
    nothing_left(one)


def test_a_job_that_was_killed(bench: Bench) -> None:
    job = bench.up("image.use=overlay", "job.name=unlucky")
    for process in job.processes("monwrap.py") + job.processes("-m mvpnet"):
        process.kill()
    job.finish()
    poll_until(lambda: not job.processes(), 60, "all processes to end")
    assert scratch_files(job)
    dead = hands("status")
    assert dead.returncode == 8
    assert "job unlucky (id " in dead.stderr and "is dead: its last sign of life was at" in dead.stderr
    assert "what it left on this host is removed; its run folder is kept" in dead.stderr
    assert dead.stderr.count(", left by a job that was killed") == 2
    nothing_left(job)
    assert not Path(os.environ["MVPNET_REGISTRY"]).exists()
    assert jobs_listed() == []
    assert "dead" not in hands("ls").stderr, "it is told once"


def test_a_killed_job_whose_guests_are_being_stopped_still(bench: Bench) -> None:
    job = bench.up("job.name=slow", "shutdown.powerdown_s=300", ranks=1, behaviour="ignore-powerdown")
    os.kill(pid_of_rank(job, 0), signal.SIGKILL)
    job.finish()
    assert "1 of its guests here are being stopped still" in hands("ls").stderr
    for process in job.processes("standin.py"):
        process.kill()
    poll_until(lambda: not job.processes(), 60, "all processes to end")
    assert "what it left on this host is removed" in hands("ls").stderr
    nothing_left(job)


def test_a_job_that_prepares_and_one_that_boots(bench: Bench) -> None:
    gate = bench.folder / "go"
    slow = bench.program(
        "slow-qemu", f"import time\nwhile 'netdev help' in argv and not os.path.exists({str(gate)!r}): time.sleep(0.05)"
    )
    job = bench.start(f"qemu.binary={slow}", "job.name=early", behaviour="0:no-ssh,1:normal")
    poll_until(jobs_listed, 60, "the job to be listed")
    assert jobs_listed()[0]["phase"] == "preparing"
    assert "early" in said("status") and "preparing" in said("status")
    status = json.loads(said("status", "--json"))
    assert (status["job"]["phase"], status["ranks"]) == ("preparing", [])
    for verb in ("ssh", "console", "powerdown"):
        assert "is preparing: its guests are not started yet" in refused(8, verb, "0")
    gate.touch()
    poll_until(lambda: jobs_listed()[0]["phase"] == "booting", 60, "the guests to be started")
    poll_until(lambda: hands("logs", "0").stdout, 60, "a console log")
    assert "login: " in said("console", "0", stdin="")
    ranks = json.loads(said("status", "--json"))["ranks"]
    assert (ranks[0]["state"], ranks[0]["up_s"]) == ("booting", None)
    assert hands("stop").returncode == 0
    assert job.finish().code != 0
    nothing_left(job)


def test_stopped_while_it_prepares(bench: Bench) -> None:
    slow = bench.program("slow-qemu", "import time\nwhile 'netdev help' in argv: time.sleep(0.05)")
    job = bench.start(f"qemu.binary={slow}", ranks=1)
    poll_until(jobs_listed, 60, "the job to be listed")
    assert hands("stop").returncode == 0
    end = job.finish()
    assert end.code != 0 and "stopped by SIGTERM before the guests ran" in end.stderr
    for process in job.processes("slow-qemu"):  # it asks qemu in a process that it does not wait for
        process.kill()
    nothing_left(job)


def test_who_may_ask_and_in_which_version(bench: Bench) -> None:
    job = bench.up(ranks=1)
    (found,) = find_jobs()
    registry = Path(os.environ["MVPNET_REGISTRY"])
    modes = {
        path: stat.S_IMODE(path.stat().st_mode) for path in (registry, found.folder, found.folder / "control.sock")
    }
    assert list(modes.values()) == [0o700, 0o700, 0o600]

    with found.connect() as connection:
        connection.settimeout(PATIENCE_S)
        lines = connection.makefile("rw")
        for request, problem in [
            ({"protocol": 99, "do": "job"}, f"speaks protocol {PROTOCOL}, and not 99"),
            ({"protocol": PROTOCOL, "do": "dance"}, "knows no request 'dance'"),
            ({"protocol": PROTOCOL, "do": "console", "rank": 1}, "there is no rank 1: this job has rank 0 alone"),
            ({"protocol": PROTOCOL, "do": "qmp", "rank": 0, "command": {"execute": 1}}, "this is no request"),
        ]:
            lines.write(json.dumps(request) + "\n")
            lines.flush()
            assert problem in json.loads(lines.readline())["error"]["message"]
        assert lines.read() == "", "the connection ends with what is no request"

    entry = found.folder / "entry.json"
    entry.write_text(
        json.dumps({**json.loads(entry.read_text()), "protocol": 99, "version": "7.7", "python": "/old/py"})
    )
    newer = refused(8, "console", "0")
    assert "was started by mvpnet 7.7, which speaks protocol 99" in newer and "/old/py -m mvpnet" in newer
    assert jobs_listed()[0]["phase"] == "of mvpnet 7.7, not to be asked"
    assert hands("stop").returncode == 0, "a signal needs no protocol"
    job.finish()
    nothing_left(job)


def test_a_job_that_cannot_be_listed_runs_all_the_same(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    job, end = bench.run('app.command=["true"]', ranks=1, env={"MVPNET_REGISTRY": str(tmp_path / "file")})
    assert end.code == 0, end
    assert "warning: mvpnet ls and the like will not find this job: MVPNET_REGISTRY: " in end.stderr
    nothing_left(job)
