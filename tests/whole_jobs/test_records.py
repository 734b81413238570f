"""What jobs record, and what is done with it: manifests, replays on this machine and from archives, counters."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mvpnet.spec.plain import digest_of
from support import Finished, RunningJob, poll_until
from whole_jobs.conftest import Bench, nothing_left

TRUE = 'app.command=["true"]'


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(folder: Path) -> dict[str, str | None]:
    return {one["key"]: one["sha256"] for one in manifest(folder)["inputs"]}


def verb(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mvpnet", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


@pytest.fixture
def again(bench: Bench) -> Callable[..., tuple[RunningJob, Finished]]:
    """Run `mvpnet replay …` under mpiexec."""

    def run(*words: str, ranks: int = 2, **how: Any) -> tuple[RunningJob, Finished]:
        env = {"STANDIN_DIR": str(bench.folder), "STANDIN_BEHAVIOUR": "normal"}
        job = bench.start_mvpnet("replay", *words, ranks=ranks, env=env, **how)
        return job, job.finish(90)

    return run


def test_a_manifest_tells_what_ran_on_what_and_how_it_ended(bench: Bench) -> None:
    secret = "hunter2"
    job, end = bench.run(
        TRUE, "+ranks.one={on: '1', vm: {cpus: 2}}", env={"https_proxy": f"http://me:{secret}@a.example"}
    )
    assert end.code == 0, end
    folder = job.cwd / "run"
    told = manifest(folder)
    assert (told["format"], told["status"], told["verdict"]["code"]) == (1, "completed", 0)
    assert told["digest"] == json.loads((folder / "job.json").read_text())["digest"]
    assert TRUE in told["typed"] and told["spec"]["overrides"][0]["on"] == "1"
    assert digests(folder) == {"image.path": sha256(bench.disk)}
    assert [one["ranks"] for one in told["inputs"]] == ["0-1"]
    (host,) = told["hosts"].values()
    assert host["ranks"] == "0-1" and host["memory_bytes"] > 0 and host["kernel"] and host["qemu"]["version"] == "7.2.0"
    assert [told["ranks"][rank]["accel"] for rank in "01"] == ["tcg", "tcg"]
    for rank in "01":
        passed = [state for state, _ in told["ranks"][rank]["states"]]
        assert passed == ["starting", "booting", "up", "running", "stopping", "gone"]
    times = told["times"]
    assert times["begun"] <= times["prepared"] <= times["up"] <= times["stopping"] <= times["ended"]
    text = (folder / "manifest.json").read_text()
    key = (folder / "id_ed25519").read_text().splitlines()[1]
    assert secret not in text and key not in text and "PRIVATE KEY" not in text
    nothing_left(job)


def test_the_recipe_and_the_apps_files_are_told(bench: Bench) -> None:
    recipe = bench.disk.parent / "mvpnet.d" / "recipe" / "mine.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(f"# @package _global_\napp: {{command: [{sys.executable}, tool.py]}}\n")
    (recipe.parent / "mine").mkdir()
    (recipe.parent / "mine" / "data").write_text("data")
    tool = bench.disk.parent / "tool.py"
    tool.write_text("print('measured')\n")
    job, end = bench.run("recipe=mine")
    assert end.code == 0, end
    found = digests(job.cwd / "run")
    assert manifest(job.cwd / "run")["recipe"] == str(recipe)
    assert (found["recipe"], found["app.command[1]"]) == (sha256(recipe), sha256(tool))
    assert found["recipe.files"]


def test_a_refused_job_says_so(bench: Bench) -> None:
    job, end = bench.run(TRUE, "image.path=nowhere.raw", "image.use=overlay")
    assert end.code == 4, end
    assert manifest(job.cwd / "run")["status"] == "refused"
    done = verb(job.cwd, "diff", "run", "run")
    assert done.returncode == 0, done


def test_a_killed_jobs_manifest_stays_at_running_and_the_job_can_be_repeated(bench: Bench, again: Any) -> None:
    job = bench.up()
    poll_until(lambda: (job.cwd / "run" / "manifest.json").exists(), 30, "the manifest")
    for process in job.processes("-m mvpnet"):  # the ranks too: Open MPI's would live on and end in order
        process.kill()
    job.finish(30)
    poll_until(lambda: not job.processes(), 60, "all processes to end")
    assert manifest(job.cwd / "run")["status"] == "running"
    done = verb(job.cwd, "export", "run")
    assert done.returncode == 2 and "the run has no end" in done.stderr, done
    done = verb(job.cwd, "diff", "run", "run")
    assert done.returncode == 0 and "killed" in done.stderr, done
    repeated = bench.start_mvpnet("replay", "run", "--run-dir", "second", env={"STANDIN_DIR": str(bench.folder)})
    repeated.wait_for("2/2 guests up", 90)
    repeated.signal(signal.SIGTERM)
    repeated.finish(60)
    assert manifest(job.cwd / "second")["digest"] == manifest(job.cwd / "run")["digest"]


def test_a_large_image_holds_up_neither_start_nor_end(bench: Bench) -> None:
    with bench.disk.open("wb") as disk:
        disk.truncate(2**40)
    os.utime(bench.disk, (1, 1))
    job, end = bench.run(TRUE, "logging.digest_timeout_s=0.2")
    assert end.code == 0, end
    (one,) = manifest(job.cwd / "run")["inputs"]
    assert one["sha256"] is None and "logging.digest_timeout_s" in one["by"] and one["size_bytes"] == 2**40


def test_counters_are_sampled(bench: Bench) -> None:
    job = bench.up("net.sample_interval_s=0.05", behaviour="answer")
    frame = bytes.fromhex("525500000001") + bytes.fromhex("525500000000") + b"\x88\xb5\x04" + bytes(45)
    bench.tell("send.0", frame.hex() + "\n")
    poll_until(lambda: (bench.folder / "received.0").exists(), 30, "the answer")
    job.signal(signal.SIGTERM)
    job.finish(60)
    for rank in range(2):
        lines = (job.cwd / f"run/rank-{rank:04d}/traffic.jsonl").read_text().splitlines()
        first, last = json.loads(lines[0]), json.loads(lines[-1])
        assert (first["frames_from_guest"], last["frames_from_guest"], last["bytes_from_guest"]) == (0, 1, 60)
    assert len(lines) < 8, "idle times take no lines"


def test_replay_runs_the_same_again_and_says_of_which(bench: Bench, again: Any) -> None:
    _, end = bench.run(TRUE, "vm.cpus=3")
    assert end.code == 0, end
    job, end = again("run", "--run-dir", "second")
    assert end.code == 0, end
    first, second = manifest(job.cwd / "run"), manifest(job.cwd / "second")
    assert second["digest"] == first["digest"] and second["spec"]["config"]["vm"]["cpus"] == 3
    assert second["replays"]["run"] == str(job.cwd / "run") and second["replays"]["changed"] == []
    done = verb(job.cwd, "diff", "run", "second")
    assert (done.returncode, done.stdout) == (0, ""), done
    job, end = again("run", "--run-dir", "second")
    assert end.code == 2 and "holds another run" in end.stderr, end
    nothing_left(job)


def test_a_replay_ends_with_the_apps_code(bench: Bench, again: Any) -> None:
    _, end = bench.run('app.command=["sh","-c","exit 7"]')
    assert end.code == 7, end
    job, end = again("run")
    assert end.code == 7, end
    (second,) = (job.cwd / "runs").glob("*/*/manifest.json")
    assert manifest(second.parent)["verdict"]["code"] == 7


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_world_of_another_size_is_refused(bench: Bench, again: Any, ranks: int) -> None:
    assert bench.run(TRUE)[1].code == 0
    job, end = again("run", ranks=ranks)
    assert end.code == 2, end
    assert f"ran with 2 ranks, and this world has {ranks}" in end.stderr and "mpiexec -n 2 mvpnet replay" in end.stderr
    assert end.stderr.count("this world has") == 1 and not (job.cwd / "runs").exists()


def test_an_image_that_changed_is_refused_or_warned_of(bench: Bench, again: Any) -> None:
    assert bench.run(TRUE)[1].code == 0
    bench.disk.write_bytes(b"x" * 512)
    job, end = again("run")
    assert end.code == 2 and "image.path (ranks 0-1)" in end.stderr and "--changed=warn" in end.stderr, end
    job, end = again("run", "--changed=warn", "--run-dir", "second")
    assert end.code == 0 and "warning: not all is as it was" in end.stderr, end
    assert "image.path" in manifest(job.cwd / "second")["replays"]["changed"][0]
    done = verb(job.cwd, "diff", "--json", "run", "second")
    assert done.returncode == 1 and [one["section"] for one in json.loads(done.stdout)] == ["inputs"], done
    bench.disk.unlink()
    job, end = again("run", "--changed=warn")
    assert end.code == 4 and "cannot be run again here" in end.stderr and str(bench.disk) in end.stderr, end


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda told: told.update(format=99), "has format 99"),
        (lambda told: told["spec"]["config"]["vm"].update(cpus=9), "its spec is not the one that ran"),
        (lambda told: told["spec"]["config"]["vm"].update(turbo=True), "config.vm.turbo"),
        (lambda told: told.pop("spec"), "has no spec"),
    ],
)
def test_a_manifest_that_was_changed_is_not_repeated(
    bench: Bench, again: Any, change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    job, end = bench.run(TRUE)
    assert end.code == 0, end
    told = manifest(job.cwd / "run")
    change(told)
    (job.cwd / "run" / "manifest.json").write_text(json.dumps(told))
    _, end = again("run")
    assert end.code == 2 and says in end.stderr and "Traceback" not in end.stderr, end


def test_a_run_of_an_older_mvpnet_is_repeated_with_todays_defaults(bench: Bench, again: Any) -> None:
    job, end = bench.run(TRUE)
    assert end.code == 0, end
    told = manifest(job.cwd / "run")
    del told["spec"]["config"]["net"]["sample_interval_s"], told["spec"]["repeat"], told["spec"]["config"]["sweep"]
    told["digest"] = digest_of(told["spec"])
    (job.cwd / "run" / "manifest.json").write_text(json.dumps(told))
    _, end = again("run", "--run-dir", "second")
    assert end.code == 0, end
    assert manifest(job.cwd / "second")["spec"]["config"]["net"]["sample_interval_s"] == 1.0
    done = verb(job.cwd, "diff", "--json", "run", "second")
    assert [one["key"] for one in json.loads(done.stdout)] == ["config.net.sample_interval_s"], done


def test_what_is_no_run_is_not_repeated(bench: Bench, again: Any) -> None:
    for name, says in (("nowhere", "no such run folder"), (".", "is no run folder"), ("a.tar.gz", "no such archive")):
        _, end = again(name)
        assert end.code == 2 and says in end.stderr, end


def test_an_archive_is_repeated_where_nothing_else_is_left(bench: Bench, again: Any, tmp_path: Path) -> None:
    """As on another machine: the app's file comes out of the archive, the image out of the store, by its digest."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (here / "tool.sh").write_text("#!/bin/sh\necho measured in $PWD\n")
    (here / "tool.sh").chmod(0o755)
    image = here / "disk.raw"
    image.write_bytes(b"disk" * 300_000)
    cache = f"image.cache_dir={tmp_path / 'cache'}"
    _, end = bench.run('app.command=["sh","tool.sh"]', f"image.path={image}", cache, cwd=here)
    assert end.code == 0, end
    done = verb(here, "export", "run", "-o", str(there / "run.tar.zst"))
    assert done.returncode == 0, done
    stored = there / "disk.raw"
    shutil.copy(image, stored)
    shutil.rmtree(here)
    _, end = again("run.tar.zst", cwd=there)
    assert end.code == 4 and "image fetch" in end.stderr and "disk.raw" in end.stderr, end
    done = verb(there, "image", "fetch", "image=file", f"image.source={stored}", "image.format=raw", cache)
    assert done.returncode == 0, done
    _, end = again("run.tar.zst", "--run-dir", "second", cwd=there)
    assert end.code == 0, end
    assert (there / "second" / "app.log").read_text() == f"measured in {there}\n"
    assert manifest(there / "second")["replays"]["run"] == str(there / "run.tar.zst")
    assert (there / "second" / "inputs").is_dir()
    done = verb(there, "diff", "--only", "inputs", "run.tar.zst", "second")
    assert (done.returncode, done.stdout) == (0, ""), done


@pytest.mark.parametrize("gone", ["mine.yaml", "mine", "both"])
def test_a_recipe_comes_out_of_an_archive_with_its_folder(bench: Bench, again: Any, tmp_path: Path, gone: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    recipes = here / "mvpnet.d" / "recipe"
    (recipes / "mine").mkdir(parents=True)
    there.mkdir()
    (recipes / "mine.yaml").write_text("# @package _global_\napp: {command: [sh, mvpnet.d/recipe/mine/tool.sh]}\n")
    (recipes / "mine" / "tool.sh").write_text("cat ${0%/*}/data\n")
    (recipes / "mine" / "data").write_text("1\n")
    _, end = bench.run("recipe=mine", cwd=here)
    assert end.code == 0, end
    assert verb(here, "export", "run", "-o", str(there / "run.tar.gz")).returncode == 0
    if gone != "mine":
        (recipes / "mine.yaml").write_text("# changed\n")
    if gone != "mine.yaml":
        shutil.rmtree(recipes / "mine")
    _, end = again("run.tar.gz", "--run-dir", "second", cwd=there)
    assert end.code == 0, end
    assert (there / "second/app.log").read_text() == "1\n"
    done = verb(there, "diff", "--only", "inputs", "run.tar.gz", "second")
    assert (done.returncode, done.stdout) == (0, ""), done


def test_an_image_of_the_store_is_repeated_when_its_source_is_gone(bench: Bench, again: Any) -> None:
    source = bench.disk.with_name("source.raw")
    source.write_bytes(b"disk" * 1000)
    cache = f"image.cache_dir={source.parent / 'cache'}"
    job, end = bench.run(TRUE, "image.path=null", f"image.source={source}", "image.format=raw", cache)
    assert end.code == 0, end
    assert digests(job.cwd / "run") == {"image.path": sha256(source)}
    source.unlink()
    _, end = again("run", "--run-dir", "second")
    assert end.code == 0, end
    assert manifest(job.cwd / "second")["digest"] == manifest(job.cwd / "run")["digest"]


def test_a_job_of_some_ranks_is_repeated_in_the_same_launch(bench: Bench, again: Any) -> None:
    job, end = bench.run(TRUE, "job.ranks=2", ranks=3)
    assert end.code == 0, end
    _, end = again("run", "--run-dir", "second", ranks=3)
    assert end.code == 0, end
    assert sorted(manifest(job.cwd / "second")["ranks"]) == ["0", "1"]
    _, end = again("run", ranks=1)
    assert end.code == 2 and "ran with 2 ranks" in end.stderr, end


def test_a_sweep_from_its_jobs_to_its_report(bench: Bench, again: Any) -> None:
    measure = 'app.command=["sh","-c","echo metric mbits 1.5; echo metric ms 2"]'
    job, end = bench.run("-m", "vm.cpus=1,2", "sweep.repeat=2", measure, "hydra.sweep.dir=sweep")
    assert end.code == 0, end
    assert f"sweep: 4 jobs in {job.cwd}/sweep; should it be cut short, sweep.resume={job.cwd}/sweep " in end.stderr
    assert f"mvpnet report {job.cwd}/sweep draws them" in end.stderr and "4 jobs ran, all ended well" in end.stderr
    _, end = again("sweep")
    assert end.code == 2 and "folder of a sweep" in end.stderr, end
    _, end = again("sweep/1", "--run-dir", "second")
    assert end.code == 0, end
    assert manifest(job.cwd / "second")["digest"] == manifest(job.cwd / "sweep/1")["digest"]
    done = verb(job.cwd, "diff", "--json", "sweep/0", "sweep/1")
    assert [one["key"] for one in json.loads(done.stdout)] == ["config.vm.cpus"], done
    assert verb(job.cwd, "export", "sweep/1").stdout == "sweep-1.tar.gz\n"
    done = verb(job.cwd, "report", "sweep")
    assert done.returncode == 0 and done.stdout == "sweep/report/report.html\n", done
    text = (job.cwd / "sweep/report/report.html").read_text()
    assert "4 jobs ran, all ended well" in text and "mbits against vm.cpus" in text
    done = verb(job.cwd, "report", "second")
    assert done.returncode == 0 and "mbits" in (job.cwd / "second/report/report.html").read_text(), done
