"""Names of saves, the saves there are, and what may stand beside `resume=`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mvpnet.errors import ConfigError
from mvpnet.job.resume import is_resume, parse_resume, with_given
from mvpnet.snapshot.layout import (
    FORMAT,
    Save,
    SaveFolder,
    as_text,
    list_snapshots,
    read_save,
    remove,
    save_folder,
    saves_base,
)
from mvpnet.spec.schema import App, Boot, Config, Logging, Net, Vm

SAVE = Save(FORMAT, "0123456789ab", "mine", 0.0, "1.0", ["a", "b"], 5, "tiny", {})


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MVPNET_SAVES", str(tmp_path))
    return saves_base()


def made(folder: Path, save: Save = SAVE) -> Path:
    folder.mkdir()
    (folder / "save.json").write_text(as_text(save))
    return folder


def test_names_and_paths(base: Path):
    assert save_folder("up-2.1") == base / "up-2.1"
    assert save_folder("/data//saves/../up") == Path("/data/up")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "-x", "a b", "/", "x" * 64])
def test_names_that_are_none(name: str):
    with pytest.raises(ConfigError, match="is no name of a save"):
        save_folder(name)


def test_the_folder_of_saves_follows_xdg(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MVPNET_SAVES")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert saves_base() == Path("/state/mvpnet/saves")


def test_saves_and_what_is_none(base: Path):
    made(base / "up")
    (base / "other").mkdir()
    (base / ".new.0123456789ab.part").mkdir()
    found = {one.name: one.trouble for one in list_snapshots()}
    assert list(found) == [".new.0123456789ab.part", "other", "up"]
    assert found["up"] is None
    assert "no save of mvpnet" in str(found["other"]) and "cut short" in str(found[".new.0123456789ab.part"])


def test_only_saves_are_removed(base: Path):
    made(base / "up")
    made(base / "later", replace(SAVE, stands_on={str(base / "up"): SAVE.id}))
    (base / "other").mkdir()
    (base / ".new.0123456789ab.part").mkdir()
    with pytest.raises(ConfigError, match="disks of later stand on"):
        remove("up")
    for name in ("other", "none", ".none.0123456789ab.part"):
        with pytest.raises(ConfigError):
            remove(name)
    for name in ("later", "up", ".new.0123456789ab.part"):
        remove(name)
    assert [path.name for path in base.iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"format": 99, "mvpnet": "9.9"}', "has format 99, and this mvpnet reads"),
        ('{"format": 1}', "is not what mvpnet writes there"),
        ("[]", "is no JSON object"),
        ("{", "cannot be read"),
    ],
)
def test_saves_that_cannot_be_read(base: Path, text: str, problem: str):
    (base / "up").mkdir()
    (base / "up/save.json").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_save(SaveFolder(base / "up"))


def test_a_job_that_resumes():
    assert is_resume(["a=b", "resume=up"]) and not is_resume(["sweep.resume=x"])
    words = ["app.command=[ls]", "resume=up", "logging=debug", "job.name=x", "hydra.run.dir=/r", "+shutdown.term_s=1"]
    want = parse_resume(words)
    assert want.name == "up" and want.run_dir_given
    assert want.keys == ("app.command", "logging", "job.name", "hydra.run.dir", "shutdown.term_s")
    assert parse_resume(["resume=up", "logging.digest_s=3"]).keys == ("logging.digest_timeout_s",)


@pytest.mark.parametrize(
    "word", ["vm.memory=1G", "net=dgram", "net.mtu=9000", "image=tiny", "recipe=demo", "-m", "ranks=[x]", "job.ranks=1"]
)
def test_what_would_make_other_machines_is_refused(word: str):
    with pytest.raises(ConfigError, match="cannot be given with resume=up"):
        parse_resume(["resume=up", word])
    with pytest.raises(ConfigError, match="2 times"):
        parse_resume(["resume=up", "resume=down"])


def test_only_what_is_given_replaces_what_was_saved():
    saved = Config(
        vm=Vm(memory="3G"),
        net=Net(mtu=9000),
        app=App(command="old"),
        boot=Boot(timeout_s=7),
        logging=Logging(digest_timeout_s=9),
    )
    given = Config(app=App(command="new"), boot=Boot(timeout_s=8), net=Net(ssh_port=3000))
    assert with_given(saved, given, ()) == replace(saved, app=App())
    new = with_given(saved, given, ("app.command", "net.ssh_port", "hydra.run.dir"))
    assert new == replace(saved, app=App(command="new"), net=Net(mtu=9000, ssh_port=3000))
    assert with_given(saved, given, ("logging",)) == replace(saved, app=App(), logging=Logging())
