"""The registry of jobs, and which job and rank the words of a command line mean."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mvpnet.control.registry import JobHandle, Registration, RegistryEntry, find_jobs, register_job, sweep_number
from mvpnet.control.select import choose_job, choose_rank, choose_rank_if_any
from mvpnet.errors import ConfigError, HostError, JobError

ListJob = Callable[..., Registration]


@pytest.fixture
def list_job(tmp_path: Path) -> Iterator[ListJob]:
    """list_job(NAME, PID, ranks=2) puts a job into the registry, alive as long as the test is."""
    with ExitStack() as stack:

        def enter(name: str, pid: int = os.getpid(), ranks: int = 2) -> Registration:
            entry = RegistryEntry(name, pid, ranks, str(tmp_path / "run"), str(tmp_path / "scratch"))
            registration = stack.enter_context(register_job(entry, pytest.fail))
            assert registration
            return registration

        yield enter


def test_a_job_is_there_until_it_ends(tmp_path: Path) -> None:
    said: list[str] = []
    with register_job(RegistryEntry("one", 7, 3, "/run", str(tmp_path)), said.append) as registration:
        (job,) = find_jobs()
        assert (job.alive, job.ended(), job.entry.name, job.entry.phase) == (True, False, "one", "preparing")
        assert registration
        registration.enter("ending")
        assert find_jobs()[0].entry.phase == "ending"
    assert find_jobs() == []
    assert job.ended()
    assert not Path(os.environ["MVPNET_REGISTRY"]).exists()
    assert said == []


def test_a_registry_with_a_long_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, list_job: ListJob) -> None:
    monkeypatch.setenv("MVPNET_REGISTRY", str(tmp_path / ("long" * 40)))
    list_job("far")
    (job,) = find_jobs()
    job.connect().close()


def test_a_registry_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    monkeypatch.setenv("MVPNET_REGISTRY", str(tmp_path / "link"))
    with pytest.raises(HostError, match=r"MVPNET_REGISTRY: .*link is not a folder of your own"):
        find_jobs()
    said: list[str] = []
    with register_job(RegistryEntry("one", 7, 3, "/run", str(tmp_path)), said.append) as registration:
        assert registration is None
    assert "will not find this job: MVPNET_REGISTRY" in said[0]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_entries_of_other_versions(list_job: ListJob) -> None:
    list_job("new")
    (job,) = find_jobs()
    file = job.folder / "entry.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "colour": "blue"}))
    assert find_jobs()[0].entry == job.entry
    for broken in ('{"name": "new"}', "[]", "{"):
        file.write_text(broken)
        assert find_jobs() == []


def test_the_last_sign_of_life(tmp_path: Path, list_job: ListJob) -> None:
    list_job("one")
    (job,) = find_jobs()
    log = tmp_path / "run/rank-0000/console.log"
    log.parent.mkdir(parents=True)
    log.touch()
    later_s = time.time() + 1000
    os.utime(log, (later_s, later_s))
    assert job.seen_s() == pytest.approx(later_s, abs=1)


def test_the_number_in_a_sweep(tmp_path: Path) -> None:
    assert sweep_number(tmp_path / "3") is None
    (tmp_path / "results.json").touch()
    assert sweep_number(tmp_path / "3") == 3
    assert sweep_number(tmp_path / "run") is None


def meant(found: tuple[JobHandle, int, list[str]]) -> tuple[str, int, list[str]]:
    job, rank, rest = found
    return job.entry.name, rank, rest


def test_words_while_one_job_runs(list_job: ListJob) -> None:
    list_job("mine", 70001)
    for words, expected in [
        ("0", ("mine", 0, [])),
        ("n0001 ls -l", ("mine", 1, ["ls", "-l"])),
        ("1 0", ("mine", 1, ["0"])),
        ("mine 1 0", ("mine", 1, ["0"])),
        ("70001 0 x", ("mine", 0, ["x"])),
    ]:
        assert meant(choose_rank(words.split())) == expected
    assert choose_rank_if_any([])[1] is None
    assert choose_rank_if_any(["mine"])[1] is None
    assert choose_rank_if_any(["70001"])[1] is None
    assert choose_rank_if_any(["1"])[1] == choose_rank_if_any(["mine", "n0001"])[1] == 1
    for words in ("2", "mine 2", "n0002", "other 0", "other", "70002 0 x", "1000000 true"):
        with pytest.raises(JobError):
            choose_rank(words.split())
    for words in ("", "mine", "mine status", "70001"):
        with pytest.raises((ConfigError, JobError)):
            choose_rank(words.split())


def test_words_while_a_job_has_a_number_for_a_name(list_job: ListJob) -> None:
    list_job("1", 70001)
    assert meant(choose_rank(["1", "0"])) == ("1", 0, [])
    assert meant(choose_rank(["0", "1"])) == ("1", 0, ["1"])
    assert meant(choose_rank(["1", "ls"])) == ("1", 1, ["ls"])
    assert choose_rank_if_any(["1"])[1] is None
    assert choose_rank_if_any(["0"])[1] == 0


def test_words_while_several_run(list_job: ListJob) -> None:
    list_job("alpha", 70001)
    list_job("beta", 70002)
    list_job("beta", 70003)
    assert meant(choose_rank(["alpha", "1"])) == ("alpha", 1, [])
    assert choose_job("70003").entry.pid == 70003
    with pytest.raises(JobError, match="3 jobs run here, which one is meant"):
        choose_rank(["0"])
    with pytest.raises(JobError, match="2 jobs have the name beta"):
        choose_job("beta")
    with pytest.raises(JobError, match=r"no job alpa .did you mean alpha"):
        choose_job("alpa")
