"""Sweeps: jobs one after another in one mpiexec, each whole; a failed one does not stop the others."""

from __future__ import annotations

import json
import signal
import sys

from job.conftest import STANDIN, Bench, code_after_signal, nothing_left, record
from job.test_ways_to_stop import SLEEP
from support import poll_until

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
    assert end.code == code_after_signal(128 + signal.SIGTERM), end
    assert end.stderr.count("stopped by SIGTERM before the guests ran") == 1
    assert sorted(path.parent.name for path in (job.cwd / "sweep").glob("*/job.json")) == ["0", "1"]
    assert [record(job, f"sweep/{number}")["verdict"]["code"] for number in range(2)] == [0, 128 + signal.SIGTERM]
    nothing_left(job)


def test_a_signal_ends_the_whole_sweep(bench: Bench) -> None:
    job = bench.start("-m", "vm.cpus=1,2,3", 'app.command=["sleep","60"]', "hydra.sweep.dir=sweep")
    poll_until(lambda: (job.cwd / "sweep/0/app.log").exists(), 60, "the first job's app")
    job.signal(signal.SIGTERM)
    end = job.finish(60)
    assert end.code == code_after_signal(128 + signal.SIGTERM), end
    assert sorted(path.parent.name for path in (job.cwd / "sweep").glob("*/job.json")) == ["0"]
    nothing_left(job)
