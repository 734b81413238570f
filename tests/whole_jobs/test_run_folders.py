"""Folders of jobs and sweeps: two launches never share one, and each is where the user means it to be."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from support import RunningJob
from whole_jobs.conftest import SSH_PORT, Bench, nothing_left, record

THIS_YEAR = "'in/${now:%Y}'"  # a name by the time, and no other a second later
APP = 'app.command=["true"]'


def ended(job: RunningJob) -> int:
    end = job.finish(90)
    assert "Traceback" not in end.stderr, end
    return end.code


def at_once(bench: Bench, *words: str, ranks: int = 1) -> list[RunningJob]:
    return [bench.start(*words, f"net.ssh_port={SSH_PORT + 10 * n}", f"job.name=j{n}", ranks=ranks) for n in range(2)]


def test_two_jobs_of_one_name_at_once(bench: Bench) -> None:
    jobs = at_once(bench, APP, f"hydra.run.dir={THIS_YEAR}")
    assert [ended(job) for job in jobs] == [0, 0]
    runs = sorted((jobs[0].cwd / "in").iterdir())
    assert runs[1].name == f"{runs[0].name}-2" and len(runs) == 2
    names = [json.loads((run / "job.json").read_text())["spec"]["config"]["job"]["name"] for run in runs]
    assert sorted(names) == ["j0", "j1"]
    for run, name in zip(runs, names, strict=True):
        assert f"name: {name}" in (run / ".hydra" / "config.yaml").read_text()
        assert json.loads((run / "result.json").read_text())["exit_code"] == 0
        assert str(run) in (run / ".hydra" / "hydra.yaml").read_text()
    nothing_left(jobs[0])


def test_two_jobs_in_a_folder_that_the_user_named(bench: Bench) -> None:
    jobs = at_once(bench, APP)
    assert sorted(ended(job) for job in jobs) == [0, 2]
    refused = next(job for job in jobs if job.process.returncode)
    assert "hydra.run.dir: " in refused.stderr and "hint: " in refused.stderr
    other = next(job for job in jobs if not job.process.returncode)
    assert f"job {record(other)['spec']['config']['job']['name']}: " in other.stderr


def test_two_sweeps_of_one_name_at_once(bench: Bench) -> None:
    jobs = at_once(bench, APP, "-m", "vm.cpus=1,2", f"hydra.sweep.dir={THIS_YEAR}")
    assert [ended(job) for job in jobs] == [0, 0]
    sweeps = sorted((jobs[0].cwd / "in").iterdir())
    assert len(sweeps) == 2
    told = [next(str(sweep) for sweep in sweeps if f"results.json are in {sweep};" in job.stderr) for job in jobs]
    assert sorted(told) == list(map(str, sweeps))
    for sweep in sweeps:
        with (sweep / "results.csv").open(newline="") as file:
            assert [(row["job"], row["vm.cpus"], row["exit_code"]) for row in csv.DictReader(file)] == [
                ("0", "1", "0"),
                ("1", "2", "0"),
            ]
        names = {record(jobs[0], f"{sweep}/{n}")["spec"]["config"]["job"]["name"] for n in range(2)}
        assert len(names) == 1 and f"job.name={names.pop()}" in (sweep / "multirun.yaml").read_text()


def test_two_sweeps_in_a_folder_that_the_user_named(bench: Bench) -> None:
    jobs = at_once(bench, APP, "-m", "vm.cpus=1,2", "hydra.sweep.dir=sweep")
    assert sorted(ended(job) for job in jobs) == [0, 2]
    refused = next(job for job in jobs if job.process.returncode)
    assert "hydra.sweep.dir: " in refused.stderr


def test_a_sweep_s_folders_are_named_by_the_overrides(bench: Bench) -> None:
    """Repeats have the same overrides, and a slash in one makes no folder in a folder."""
    job, end = bench.run(
        *("-m", APP, "vm.cpus=1,2", "sweep.repeat=2", "hydra.sweep.dir=sweep", "qemu.extra_args=[-name,a/b]"),
        *("hydra.sweep.subdir='cpus=${vm.cpus},${qemu.extra_args.1}'",),
        ranks=1,
    )
    assert end.code == 0, end
    names = [f"cpus={cpus},a_b{again}" for cpus in (1, 2) for again in ("", "-2")]
    assert sorted(path.name for path in (job.cwd / "sweep").iterdir() if path.is_dir()) == names
    rows = json.loads((job.cwd / "sweep/results.json").read_text())["jobs"]
    assert [(row["number"], row["repeat"], row["exit_code"]) for row in rows] == [(n, n // 2 + 1, 0) for n in range(4)]
    assert sorted(row["folder"] for row in rows) == names
    again = bench.start_mvpnet("sweep.resume=sweep", ranks=1)
    assert ended(again) == 0 and "4 of 4 jobs are done already" in again.stderr


def test_a_name_that_is_no_file_s_is_refused(bench: Bench) -> None:
    job, end = bench.run("-m", APP, "vm.cpus=1,2", "hydra.sweep.dir=sweep", "hydra.sweep.subdir='..'", ranks=1)
    assert end.code == 2 and "hydra.sweep.subdir: '..' is no name" in end.stderr, end
    assert not (job.cwd / "job.json").exists()


def test_home_in_the_names_of_folders(bench: Bench, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for words, found in ((["hydra.run.dir='~/run'"], "run"), (["-m", "vm.cpus=1,2", "hydra.sweep.dir='~/sw'"], "sw/1")):
        job, end = bench.run(APP, *words, ranks=1, env={"HOME": str(home)})
        assert end.code == 0, end
        assert (home / found / "job.json").exists() and not (job.cwd / "~").exists()


def test_the_launch_folder_stays_that_of_the_launch(bench: Bench, tmp_path: Path) -> None:
    """Hydra would go to the run folder, and with it all relative paths."""
    (tmp_path / "mvpnet.d").mkdir()
    app = 'app.command=[sh, -c, "pwd; ls blank.raw"]'
    for words, run in ((["hydra.run.dir=run"], "run"), (["-m", "vm.cpus=1,2", "hydra.sweep.dir=sw"], "sw/1")):
        job, end = bench.run(app, "hydra.job.chdir=true", "image.path=blank.raw", *words, ranks=1)
        assert end.code == 0, end
        assert (job.cwd / run / "app.log").read_text().splitlines() == [str(job.cwd), "blank.raw"]
        assert "hydra.job.chdir has no effect" in end.stderr


def test_a_folder_that_was_made_for_nothing_goes_again(bench: Bench) -> None:
    job, end = bench.run("vm.cpus=none", f"hydra.run.dir={THIS_YEAR}", ranks=1)
    assert end.code == 2, end
    assert not list((job.cwd / "in").glob("*"))
