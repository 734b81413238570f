"""Jobs of stand-ins that are saved and resumed: what is kept, what is refused, and that a failure leaves no trace."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mvpnet.errors import MvpnetError
from mvpnet.job.resume import SavedJob, saved_job
from mvpnet.records.replay import recorded_spec
from mvpnet.records.run import open_run
from mvpnet.snapshot.layout import SaveFolder, read_part, saves_base
from support import RunningJob, poll_until
from whole_jobs.conftest import Bench, nothing_left, record
from whole_jobs.test_control import PATIENCE_S, hands, refused, said


@pytest.fixture(autouse=True)
def saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of saves, which a save makes."""
    monkeypatch.setenv("MVPNET_SAVES", str(tmp_path / "saves"))
    return saves_base()


def run_states(ranks: int = 2) -> list[str]:
    """What each qemu says of itself."""
    return [json.loads(said("monitor", str(rank), "query-status"))["status"] for rank in range(ranks)]


def end(job: RunningJob) -> None:
    said("stop")
    assert job.finish().code in (0, 143)
    nothing_left(job)


def resume(start: Callable[..., RunningJob], *words: str, run: str, env: dict[str, str]) -> RunningJob:
    job = start(*words, f"hydra.run.dir={run}", ranks=2, env=env)
    job.wait_for("2/2 guests up", 90)
    return job


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_job_is_saved_and_goes_on_twice(bench: Bench, saves: Path) -> None:
    for rank in range(2):
        bench.tell(f"memory.{rank}", f"what rank {rank} had in mind")
    job = bench.up("image.use=overlay", "job.name=mine", "app.command=[sleep,600]")
    done = hands("save", "up")
    assert done.returncode == 0, done
    assert f"in {saves}/up: 2 guests" in done.stderr and "mpirun -n 2 mvpnet resume=up" in done.stderr
    assert run_states() == ["running", "running"]
    check_folder(saves / "up", job)
    assert "is there already" in refused(9, "save", "mine", "up")
    assert [path.name for path in saves.iterdir()] == ["up"]
    [listed] = json.loads(said("saves", "--json"))
    assert (listed["name"], listed["job"], len(listed["hosts"]), listed["trouble"]) == ("up", "mine", 2, None)
    end(job)

    env = {"STANDIN_DIR": str(bench.folder)}
    for turn in range(2):
        command = f"app.command=[sh,-c,'echo again > {bench.folder}/app.{turn}']" if turn else "app=default"
        job = resume(bench.start_mvpnet, "resume=up", *([command] if turn else []), run=f"run{turn}", env=env)
        for rank in range(2):
            assert (bench.folder / f"loaded.{rank}").read_text() == f"what rank {rank} had in mind"
            (bench.folder / f"loaded.{rank}").unlink()
        if turn:
            assert job.finish().code == 0
            assert (bench.folder / "app.1").exists()
            nothing_left(job)
        else:
            assert run_states() == ["running", "running"]
            check_resumed_run(job, saves / "up")
            check_save_of_resumed(saves)
            end(job)


def check_folder(folder: Path, job: RunningJob) -> None:
    """Private, whole, and with the job's own keys."""
    assert mode(folder) == mode(folder / "rank-0000") == 0o700
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        *("save.json", "manifest.json", "id_ed25519", "id_ed25519.pub", "rank.json", "memory", "drive0.disk")
    }
    assert {mode(path) for path in files} == {0o600}
    assert (folder / "id_ed25519").read_text() == (job.cwd / "run/id_ed25519").read_text()
    part = read_part(SaveFolder(folder).rank(1), json.loads((folder / "save.json").read_text())["id"])
    assert (part.rank, part.qemu_version, part.accel, part.disks) == (1, "7.2.0", "tcg", {"0": "qcow2"})


def check_resumed_run(job: RunningJob, save: Path) -> None:
    """It has the save's keys and name, no app, and says where it comes from; a replay of it would be another job."""
    assert (job.cwd / "run0/id_ed25519").read_text() == (save / "id_ed25519").read_text()
    assert mode(job.cwd / "run0/id_ed25519") == 0o600
    spec = record(job, "run0")["spec"]
    assert (spec["config"]["job"]["name"], spec["config"]["app"]["command"], spec["typed"][0]) == (
        *("mine", None),
        "resume=up",
    )
    run = open_run(job.cwd / "run0")
    assert run.manifest.resumes and run.manifest.resumes.save == str(save)
    with pytest.raises(MvpnetError, match="went on from the save"):
        recorded_spec(run, 2)


def check_save_of_resumed(saves: Path) -> None:
    """Its disks stand on those of the first, which cannot go before it."""
    said("save", "later")
    assert saved_job(["resume=later"], 2).resume.stands_on[0][0] == str(saves / "up")
    assert "later stand on those of this save" in refused(2, "saves", "rm", "up")
    assert said("saves", "rm", "later") == ""
    assert [path.name for path in saves.iterdir()] == ["up"]


def test_a_save_is_refused_or_resumed_as_it_was(bench: Bench, saves: Path, tmp_path: Path) -> None:
    job = bench.up("image.use=overlay", "job.name=mine")
    elsewhere = tmp_path / "elsewhere/up"
    assert "there is no folder" in refused(2, "save", str(elsewhere))
    elsewhere.parent.mkdir()
    said("save", str(elsewhere))
    for name in ("a/b", "..", "-x", ""):
        assert hands("save", "--", name).returncode == 2
    assert "name of the save is missing" in refused(2, "save")
    end(job)

    assert refusal(elsewhere, ranks=3).startswith(f"resume={elsewhere}: has 2 ranks, and this world has 3")
    assert "vm.memory=1G: cannot be given" in refusal(elsewhere, "vm.memory=1G")
    assert "-m: cannot be given" in refusal(elsewhere, "-m")
    assert "there is no save" in refusal(saves / "none")
    assert allowed(elsewhere, "logging.level=DEBUG").spec.config.logging.level == "DEBUG"

    memory = elsewhere / "rank-0001/memory"
    memory.write_bytes(memory.read_bytes().replace(b"rank 1", b"rank 7"))
    told, code = run_refused(bench, elsewhere)
    assert code == 5 and "load of migration failed" in told, told
    rank_json = elsewhere / "rank-0001/rank.json"
    rank_json.write_text(rank_json.read_text().replace('"tcg"', '"kvm"'))
    told, code = run_refused(bench, elsewhere)
    assert code == 3 and "saved under KVM" in told and "on: n0001" in told, told

    bench.disk.write_bytes(bytes(1024))
    assert "image.path" in refusal(elsewhere)
    (elsewhere / "save.json").write_text(json.dumps({"format": 99, "mvpnet": "9.9"}))
    assert "has format 99" in refusal(elsewhere)
    (elsewhere / "save.json").unlink()
    assert "was not finished" in refusal(elsewhere)


def allowed(folder: Path, *words: str) -> SavedJob:
    return saved_job([f"resume={folder}", *words], 2)


def refusal(folder: Path, *words: str, ranks: int = 2) -> str:
    with pytest.raises(MvpnetError) as error:
        saved_job([f"resume={folder}", *words], ranks)
    return str(error.value)


def run_refused(bench: Bench, folder: Path) -> tuple[str, int]:
    env = {"STANDIN_DIR": str(bench.folder)}
    job = bench.start_mvpnet(f"resume={folder}", ranks=2, env=env)
    finished = job.finish()
    nothing_left(job)
    return finished.stderr, finished.code


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("1:save-fails", "n0001: the memory could not be saved: Unable to write"),
        ("0:stop-fails", "n0000: it would not stop"),
    ],
)
def test_a_failure_on_one_rank_undoes_all(bench: Bench, saves: Path, behaviour: str, words: str) -> None:
    job = bench.up("image.use=overlay", behaviour=behaviour)
    assert words in refused(9, "save", "up")
    assert run_states() == ["running", "running"]
    assert list(saves.iterdir()) == []
    end(job)


def test_a_save_that_is_given_up_leaves_nothing(bench: Bench, saves: Path) -> None:
    job = bench.up("image.use=overlay", behaviour="1:save-waits")
    command = [sys.executable, "-m", "mvpnet", "save", "up"]
    saving = subprocess.Popen(command, cwd="/", stderr=subprocess.PIPE, text=True)
    poll_until(lambda: run_states() == ["postmigrate", "paused"], PATIENCE_S, "rank 0 to be saved")
    assert "being made" in refused(9, "save", "other")
    [entry] = json.loads(said("saves", "--json"))
    assert entry["name"].endswith(".part") and "cut short" in entry["trouble"]
    assert saving.stderr and "saving n0001: 7 MB of 12 MB of memory" in saving.stderr.readline()
    saving.send_signal(signal.SIGINT)
    assert saving.wait(PATIENCE_S) == 130
    saving.stderr.close()
    poll_until(lambda: run_states() == ["running", "running"], PATIENCE_S, "the guests to go on")
    poll_until(lambda: list(saves.iterdir()) == [], PATIENCE_S, "the unfinished save to be removed")
    bench.tell("save.1")
    said("save", "up")
    (bench.folder / "save.1").unlink()

    saving = subprocess.Popen([*command[:-1], "again"], cwd="/", stderr=subprocess.PIPE, text=True)
    poll_until(lambda: run_states()[0] == "postmigrate", PATIENCE_S, "rank 0 to be saved")
    end(job)
    told = saving.communicate(timeout=PATIENCE_S)[1]
    assert saving.returncode in (8, 9) and ("ending" in told or "ended" in told), told
    assert [path.name for path in saves.iterdir()] == ["up"]
