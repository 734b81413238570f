"""Paths that users write, and folders that are one launch's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mvpnet.config import compose
from mvpnet.errors import ConfigError
from mvpnet.paths import claim_new_folder, host_path
from mvpnet.spec.escape import resolved_already
from mvpnet.spec.model import JobSpec
from mvpnet.spec.plain import plain
from mvpnet.util.hydra_quotes import quoted


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "ho{me}"))
    return tmp_path / "ho{me}"


@pytest.mark.parametrize(
    ("text", "means"),
    [("a", "/w{x}/a"), ("/a", "/a"), ("~", "HOME"), ("~/a", "HOME/a"), ("./~a", "/w{x}/~a"), ("a~", "/w{x}/a~")],
)
def test_a_path_counts_from_home_or_folder(home: Path, text: str, means: str) -> None:
    assert str(host_path(text, "key", Path("/w{x}"))) == means.replace("HOME", str(home))


@pytest.mark.parametrize(
    ("text", "means"), [("{rank}", "/w{{x}}/{rank}"), ("~/{job}", "HOME/{job}"), ("/w{x}/{rank}", "/w{x}/{rank}")]
)
def test_only_what_was_written_is_a_template(home: Path, text: str, means: str) -> None:
    doubled = str(home).replace("{", "{{").replace("}", "}}")
    assert str(host_path(text, "key", Path("/w{x}"), template=True)) == means.replace("HOME", doubled)


@pytest.mark.parametrize("text", ["~nosuch/a", "", " ", "a\0b", "x" * 256, "/a" * 2048])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^key: "):
        host_path(text, "key", Path("/w"))


#: each key that is a path, or holds one, and the words that set it
PATH_KEYS = {
    **{
        key: [f"{key}=PATH"]
        for key in (
            *("job.scratch_dir", "image.path", "image.source", "image.checksums", "image.lock_file", "image.copy_dir"),
            *("image.cache_dir", "image.prepare.script", "net.socket_dir"),
            *(
                "net.tftp_dir",
                "cloud_init.path",
                "logging.dir",
                "hydra.run.dir",
                "qemu.binary",
                "qemu.monwrap",
                "vm.firmware",
            ),
        )
    },
    "image.kernel": ["image.kind=file", "image.kernel=PATH"],
    "image.initrd": ["image.kind=file", "image.kernel=k", "image.initrd=PATH"],
    "image.drives[0]": ["image.drives=[PATH]"],
    "cloud_init.files./x": ["cloud_init.files={/x: PATH}"],
    "app.push./x": ["app.kind=guest", "app.push={/x: PATH}"],
    "app.script": ["app.kind=guest", "app.script=[PATH,-x]"],
    "app.steps.a.push./x": ["app.steps={a: {kind: guest, push: {/x: PATH}}}"],
    "app.steps.a.script": ["app.steps={a: {kind: guest, script: [PATH]}}"],
    "ranks.r.image.kernel": ["ranks={r: {on: '0', image: {kind: file, kernel: PATH}}}"],
    "ranks.r.image.drives[0]": ["ranks={r: {on: '0', image: {drives: [PATH]}}}"],
    "ranks.r.image.prepare.script": ["ranks={r: {on: '0', image: {prepare: {script: PATH}}}}"],
    "ranks.r.cloud_init.files./x": ["ranks={r: {on: '0', cloud_init: {files: {/x: PATH}}}}"],
    "ranks.r.logging.dir": ["ranks={r: {on: '0', logging: {dir: PATH}}}"],
}


def spec_with(key: str, path: str) -> JobSpec:
    """The spec of a job with this key set to a path."""
    return compose.compose([word.replace("PATH", quoted(resolved_already(path))) for word in PATH_KEYS[key]], 1)


def texts_in(value: object) -> set[str]:
    if isinstance(value, dict):
        return {text for item in value.values() for text in texts_in(item)}
    if isinstance(value, list | tuple):
        return {text for item in value for text in texts_in(item)}
    return {str(value)}


@pytest.mark.parametrize("key", PATH_KEYS)
def test_home_in_every_key_that_is_a_path(home: Path, key: str) -> None:
    doubled = str(home).replace("{", "{{").replace("}", "}}")
    assert {f"{home}/a", f"{doubled}/a"} & texts_in(plain(spec_with(key, "~/a")))


@pytest.mark.parametrize("key", PATH_KEYS)
def test_an_unknown_home_is_refused_by_every_key_that_is_a_path(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec_with(key, "~nosuch/a")
    assert str(caught.value).startswith(f"{key}: this host knows no home folder ~nosuch")


def test_claims_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from mvpnet.paths import claim_new_folder as c\n"
    code += "sys.stdin.read(); print(*[c(Path(sys.argv[1]) / 'in/run') for _ in range(20)])"
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    for one in started:
        assert one.stdin
        one.stdin.close()  # and off they go
        one.stdin = None
    claimed = [path.decode() for one in started for path in one.communicate()[0].split()]
    assert len(claimed) == 80 and sorted(claimed) == sorted(map(str, (tmp_path / "in").iterdir()))


def test_the_first_free_name_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run-2").touch()
    assert [claim_new_folder(tmp_path / "run").name for _ in range(3)] == ["run", "run-3", "run-4"]
