"""Apps in real guests: files sent and fetched, exit codes, output a rank, metrics, time limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boot.conftest import ResumeGuests
from boot.test_guests import nothing_left, verdict
from support import poll_until

pytestmark = pytest.mark.timeout(400)

SCRIPT = """#!/bin/sh
echo "rank $MVPNET_RANK of $MVPNET_WSIZE on $(hostname), arguments: $*"
mkdir -p /tmp/out/deep
cat data.txt > /tmp/out/deep/data
stat -c %a /opt/conf/run > /tmp/out/mode
ln -s deep/data /tmp/out/link
echo "{\\"rank\\": $MVPNET_RANK}" > metrics.json
echo "metric doubled $((MVPNET_RANK * 2))"
"""

STEPS = """
defaults: [schema]
kind: guest
show_output: true
steps:
  prepare:
    on: all
    script: [measure.sh, a, "b  c"]
    push: {/opt/conf: conf, data.txt: data.txt}
    collect: [/tmp/out, metrics.json]
  one:
    on: last
    command: [sh, -c, 'echo "metric uptime $(cut -d " " -f 1 /proc/uptime)"; ping -c 1 n0000 > /dev/null']
  here:
    kind: host
    command: [sh, -c, 'ssh -F "$MVPNET_RUNDIR/ssh_config" n0000 cat data.txt; echo metric host 1']
  fails:
    on: all
    command: [sh, -c, 'echo kept > /tmp/kept; exit $((MVPNET_RANK * 3))']
    collect: [/tmp/kept, /tmp/missing]
  never: {command: ["true"]}
"""


def app(folder: Path, text: str) -> str:
    """An option of the group app, of the user's own."""
    (folder / "mvpnet.d/app").mkdir(parents=True)
    (folder / "mvpnet.d/app/mine.yaml").write_text(text)
    return "app=mine"


def test_steps_in_guests_and_on_the_host(resume_guests: ResumeGuests, tmp_path: Path) -> None:
    (tmp_path / "measure.sh").write_text(SCRIPT)
    (tmp_path / "data.txt").write_text("some data\n")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/run").write_text("x")
    (tmp_path / "conf/run").chmod(0o750)
    end = resume_guests(2, app(tmp_path, STEPS)).finish()
    run = tmp_path / "run"
    assert end.code == 3, end
    assert end.stderr.count("app.steps.fails.collect: n0000: there is no /tmp/missing") == 1
    for rank in range(2):
        folder = run / f"rank-{rank:04d}"
        said = f"rank {rank} of 2 on n{rank:04d}, arguments: a b  c\n"
        assert (folder / "app-prepare.log").read_text() == f"{said}metric doubled {rank * 2}\n"
        assert f"n{rank:04d}: {said}" in end.stdout
        collected = folder / "collected/prepare"
        assert (collected / "out/deep/data").read_text() == "some data\n"
        assert (collected / "out/mode").read_text() == "750\n"
        assert (collected / "out/link").readlink() == Path("deep/data")
        assert (folder / "collected/fails/kept").read_text() == "kept\n", "also when it failed"
    assert "some data" in (run / "app-here.log").read_text()
    result = json.loads((run / "result.json").read_text())
    assert (result["format"], result["exit_code"]) == (1, 3)
    assert result["verdict"] == verdict_of(run)["how"]
    assert result["verdict"] == "step fails ended with exit code 3 in n0001"
    steps = {step["name"]: step for step in result["steps"]}
    assert [step["exit_code"] for step in result["steps"]] == [0, 0, 0, 3, None]
    assert steps["fails"]["exit_codes"] == {"n0000": 0, "n0001": 3}
    metrics = result["metrics"]
    assert metrics.pop("uptime") > 0
    assert metrics == {"doubled.n0000": 0, "doubled.n0001": 2, "rank.n0000": 0, "rank.n0001": 1, "host": 1}
    times = result["times"]
    assert 0 < times["boot_s"] + times["app_s"] < times["total_s"]


def verdict_of(run: Path) -> dict:
    return json.loads((run / "job.json").read_text())["verdict"]


SLOW = """
defaults: [schema]
kind: guest
timeout_s: 2
command: [sh, -c, 'ln -s /etc/passwd /tmp/out; sleep 300 & trap "echo asked > /tmp/told; exit 0" TERM; wait']
collect: [/tmp/told, /tmp/out]
"""


def test_a_guest_app_that_takes_too_long_is_asked_to_end_and_what_leads_outside_is_left_out(
    resume_guests: ResumeGuests, tmp_path: Path
) -> None:
    end = resume_guests(1, app(tmp_path, SLOW)).finish()
    assert end.code == 124, end
    assert "app.timeout_s: n0000: not done after 2 s; stopped" in end.stderr
    assert "out: is a link that leads outside, to /etc/passwd; left out" in end.stderr
    collected = tmp_path / "run/rank-0000/collected"
    assert [path.name for path in collected.iterdir()] == ["told"]


def test_what_an_app_made_is_fetched_when_the_job_is_stopped(resume_guests: ResumeGuests, tmp_path: Path) -> None:
    command = "app.command=[sh,-c,'echo half > /tmp/half; echo ready; sleep 300']"
    job = resume_guests(1, "app=guest", command, "app.collect=[/tmp/half]", "app.show_output=true")
    job.wait_for("n0000: ready", 300)
    job.process.terminate()
    end = job.finish(120)
    assert end.code != 0, end
    assert verdict(job) == {"how": "SIGTERM received", "code": 143}
    assert (tmp_path / "run/rank-0000/collected/half").read_text() == "half\n"
    nothing_left(job)


def test_a_user_whom_the_guest_does_not_let_in_is_named(resume_guests: ResumeGuests) -> None:
    job = resume_guests(1, "app=guest", "app.command=hostname", "app.user=nobody", "app.login_timeout_s=2")
    end = job.finish(300)
    assert end.code == 7, end
    assert "app: n0000: cannot log in as nobody: " in end.stderr and "Permission denied" in end.stderr
    poll_until(lambda: not job.processes(), 30, "all processes to end")
