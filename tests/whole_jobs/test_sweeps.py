"""Sweeps: jobs one after another in one mpiexec, each whole; a failed one does not stop the others."""

from __future__ import annotations

import csv
import json
import signal
import sys
from typing import Any

import pytest

from support import RunningJob, codes_after_signal, poll_until
from whole_jobs.conftest import STANDIN, Bench, nothing_left, record
from whole_jobs.test_ways_to_stop import SLEEP

APP = f'app.command=[{sys.executable},-c,"import sys; sys.exit(sys.argv[1] == \'bad\')","${{job.name}}"]'


def test_a_sweep_whose_second_job_fails(bench: Bench) -> None:
    job, end = bench.run("-m", "job.name=good,bad,fine", APP, "hydra.sweep.dir=sweep")
    assert end.code == 1, end
    codes = [record(job, f"sweep/{number}")["verdict"]["code"] for number in range(3)]
    assert codes == [0, 1, 0]
    for number, name in enumerate(["good", "bad", "fine"]):
        folder = job.cwd / f"sweep/{number}"
        assert record(job, f"sweep/{number}")["spec"]["config"]["job"]["name"] == name
        present = {path.name for path in folder.iterdir()}
        assert {".hydra", "job.json", "stats.json", "ssh_config", "app.log", "rank-0000", "rank-0001"} <= present
        assert json.loads((folder / "stats.json").read_text())["ranks"]
    assert "3 jobs ran, 1 of them failed" in end.stderr
    nothing_left(job)


def test_a_job_that_does_not_come_up_does_not_stop_the_sweep(bench: Bench) -> None:
    job, end = bench.run("-m", "image.path=nowhere.raw,blank.raw", 'app.command=["true"]', "hydra.sweep.dir=sweep")
    assert end.code == 4, end
    assert [record(job, f"sweep/{number}")["verdict"]["code"] for number in range(2)] == [4, 0]
    nothing_left(job)


def test_a_sweep_with_a_wrong_value_is_refused_before_any_guest(bench: Bench) -> None:
    job, end = bench.run("-m", "vm.cpus=1,two", 'app.command=["true"]', "hydra.sweep.dir=sweep")
    assert end.code == 2, end
    assert "vm.cpus" in end.stderr and "guests up" not in end.stderr
    assert not list((job.cwd / "sweep").glob("*/job.json"))
    nothing_left(job)


def test_a_signal_between_two_boots_ends_the_sweep_too(bench: Bench) -> None:
    """It comes while the second job prepares."""
    slow = bench.program("slow", f"if 'help' in argv: {SLEEP}")
    job = bench.start("-m", f"qemu.binary={STANDIN},{slow},{STANDIN}", 'app.command=["true"]', "hydra.sweep.dir=sweep")
    poll_until(lambda: len(job.processes(f"{slow} -netdev help")) == 2, 60, "the second job to prepare")
    job.signal(signal.SIGTERM)
    end = job.finish(60)
    assert end.code in codes_after_signal(128 + signal.SIGTERM), end
    assert end.stderr.count("stopped by SIGTERM before the guests ran") == 1
    assert sorted(path.parent.name for path in (job.cwd / "sweep").glob("*/job.json")) == ["0", "1"]
    assert [record(job, f"sweep/{number}")["verdict"]["code"] for number in range(2)] == [0, 128 + signal.SIGTERM]
    nothing_left(job)


def test_a_signal_ends_the_whole_sweep(bench: Bench) -> None:
    job = bench.start("-m", "vm.cpus=1,2,3", 'app.command=["sleep","60"]', "hydra.sweep.dir=sweep")
    poll_until(lambda: (job.cwd / "sweep/0/app.log").exists(), 60, "the first job's app")
    job.signal(signal.SIGTERM)
    end = job.finish(60)
    assert end.code in codes_after_signal(128 + signal.SIGTERM), end
    assert sorted(path.parent.name for path in (job.cwd / "sweep").glob("*/job.json")) == ["0"]
    nothing_left(job)


def results(job: RunningJob) -> dict[str, Any]:
    return json.loads((job.cwd / "sweep/results.json").read_text())


def rows(job: RunningJob, *names: str) -> list[tuple[Any, ...]]:
    """Of each job of the sweep, these facts."""
    return [tuple(row["keys"].get(name, row.get(name)) for name in names) for row in results(job)["jobs"]]


def says(script: str, *arguments: str) -> str:
    return "app.command=" + json.dumps(["sh", "-c", script, "sh", *arguments])


def test_repeats_and_their_table(bench: Bench) -> None:
    app = says('echo "metric cpus $1"; exit $(($1 == 2 ? 5 : 0))', "${vm.cpus}")
    job, end = bench.run("-m", "vm.cpus=1,2", "sweep.repeat=2", app, "hydra.sweep.dir=sweep")
    assert end.code == 5, end
    assert rows(job, "number", "vm.cpus", "repeat", "exit_code") == [
        (0, "1", 1, 0),
        (1, "2", 1, 5),
        (2, "1", 2, 0),
        (3, "2", 2, 5),
    ]
    assert [row["metrics"] for row in results(job)["jobs"]] == [{"cpus": 1}, {"cpus": 2}, {"cpus": 1}, {"cpus": 2}]
    with (job.cwd / "sweep/results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["vm.cpus"], line["verdict"], line["cpus"]) for line in lines][:2] == [
        ("1", "the app ended with exit code 0", "1"),
        ("2", "the app ended with exit code 5", "2"),
    ]
    assert all(float(line["total_s"]) > 0 for line in lines)
    assert "sweep: job 3 of 4 (vm.cpus=1, repeat 2), about " in end.stderr
    table = end.stdout.splitlines()
    assert table[0].split() == ["job", "vm.cpus", "repeat", "verdict", "seconds", "cpus"]
    assert "5: the app ended with exit code 5" in table[3]
    nothing_left(job)


def test_a_sweep_that_was_killed_is_taken_up_where_it_was(bench: Bench) -> None:
    app = says('[ "$1" = 2 ] && [ ! -e go ] && echo waiting && exec sleep 300; exit 0', "${vm.cpus}")
    killed = bench.start("-m", "vm.cpus=1,2,3", app, "hydra.sweep.dir=sweep", "job.name=first")
    log = killed.cwd / "sweep/1/app.log"
    poll_until(lambda: log.exists() and log.read_text(), 60, "the second job's app")
    killed.signal(signal.SIGKILL)
    assert killed.finish(60).code != 0
    poll_until(lambda: not killed.processes(), 30, "all processes to end")
    [one, two, three] = rows(killed, "vm.cpus", "exit_code")
    assert (one, three) == (("1", 0), ("3", None))
    assert two[1] in (None, 128 + signal.SIGTERM), "ranks that outlive their mpirun (Open MPI) stop in order"
    first = (killed.cwd / "sweep/0/result.json").stat()
    (killed.cwd / "go").touch()

    job = bench.start_mvpnet("sweep.resume=sweep", env={"STANDIN_DIR": str(bench.folder)})
    end = job.finish(90)
    assert end.code == 0, end
    assert "sweep: 1 of 3 jobs are done already" in end.stderr and "sweep: job 2 of 3 (vm.cpus=2)" in end.stderr
    assert rows(job, "folder", "vm.cpus", "exit_code") == [("0", "1", 0), ("2", "2", 0), ("3", "3", 0)]
    assert (job.cwd / "sweep/0/result.json").stat().st_ino == first.st_ino, "it did not run again"
    assert (job.cwd / "sweep/1/job.json").exists(), "what the killed job left is kept"

    again = bench.start_mvpnet("sweep.resume=sweep", env={"STANDIN_DIR": str(bench.folder)}).finish(90)
    assert again.code == 0 and "3 of 3 jobs are done already" in again.stderr and "guests up" not in again.stderr
    nothing_left(job)


def test_what_failed_runs_again_and_more_may_be_asked_for(bench: Bench) -> None:
    asked = [says('[ "$1" = 1 ] || [ -e go ]', "${vm.cpus}"), "job.name=any"]
    job, end = bench.run("-m", "vm.cpus=1,2", *asked, "hydra.sweep.dir=sweep")
    assert end.code == 1, end
    (job.cwd / "go").touch()
    job, end = bench.run("vm.cpus=1,2,3", *asked, "sweep.repeat=2", "sweep.resume=sweep")
    assert end.code == 0, end
    assert "sweep: 1 of 6 jobs are done already" in end.stderr
    assert [row[:2] for row in rows(job, "vm.cpus", "repeat", "folder")] == [
        (cpus, repeat) for repeat in (1, 2) for cpus in ("1", "2", "3")
    ]
    assert {row[0] for row in rows(job, "exit_code")} == {0}
    assert [row[0] for row in rows(job, "folder")] == ["0", "2", "3", "4", "5", "6"]


def test_world_sizes_are_swept_with_some_of_the_ranks(bench: Bench) -> None:
    app = says('echo "metric size $MVPNET_WSIZE"; ls "$MVPNET_RUNDIR" | grep -c rank-')
    job, end = bench.run("-m", "job.ranks=2,1,3", app, "hydra.sweep.dir=sweep", ranks=3, behaviour="answer")
    assert end.code == 0, end
    assert [(row["keys"], row["metrics"]["size"]) for row in results(job)["jobs"]] == [
        ({"job.ranks": str(size)}, size) for size in (2, 1, 3)
    ]
    for number, size in enumerate((2, 1, 3)):
        assert (job.cwd / f"sweep/{number}/app.log").read_text().splitlines()[-1] == str(size)
        assert len(record(job, f"sweep/{number}")["guests"]) == size
    nothing_left(job)


def test_a_job_of_some_ranks_that_is_refused_leaves_the_others_for_the_next(bench: Bench) -> None:
    options = ["image.path=nowhere.raw,blank.raw", "job.ranks=2", 'app.command=["true"]']
    job, end = bench.run("-m", *options, "hydra.sweep.dir=sweep", ranks=3)
    assert end.code == 4, end
    assert rows(job, "exit_code") == [(4,), (0,)]
    nothing_left(job)


def test_more_ranks_than_there_are_is_a_failed_job_and_the_others_run(bench: Bench) -> None:
    job, end = bench.run("-m", "job.ranks=4,2", 'app.command=["true"]', "hydra.sweep.dir=sweep", ranks=3)
    assert end.code == 2, end
    assert "job.ranks: 4 is not between 1 and 3, the ranks of this launch" in end.stderr
    assert rows(job, "exit_code", "verdict", "folder")[0] == (
        2,
        "job.ranks: 4 is not between 1 and 3, the ranks of this launch",
        None,
    )
    assert rows(job, "exit_code")[1] == (0,)
    nothing_left(job)


def test_a_signal_ends_a_job_of_some_of_the_ranks_and_the_others_too(bench: Bench) -> None:
    job = bench.start("job.ranks=2", 'app.command=["sleep","300"]', ranks=4)
    poll_until(lambda: (job.cwd / "run/app.log").exists(), 60, "the app")
    job.signal(signal.SIGTERM)
    end = job.finish(60)
    assert end.code in codes_after_signal(128 + signal.SIGTERM), end
    nothing_left(job)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["sweep.resume=nowhere"], "sweep.resume: nowhere holds no sweep"),
        (["sweep.resume=.", "hydra.sweep.dir=x"], "sweep.resume: names the sweep folder, and so does hydra.sweep.dir"),
        (["-m", "sweep.repeat=0"], "sweep.repeat: 0 is less than 1"),
        (["sweep.repeat=often"], "sweep.repeat"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(bench: Bench, options: list[str], says: str) -> None:
    job, end = bench.run(*options, 'app.command=["true"]')
    assert end.code == 2, end
    assert says in end.stderr and "guests up" not in end.stderr and "Traceback" not in end.stderr
    nothing_left(job)
