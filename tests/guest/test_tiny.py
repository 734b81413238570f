"""The embedded guest's image: built once for all who ask at once, whole or not at all, refused in plain words."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mvpnet.guest import buildcache, tiny
from mvpnet.guest.tiny import cache, cpio, packages
from mvpnet.guest.tiny.recipe import recipe_digest
from support import poll_until

ENSURE = (
    "import sys; from pathlib import Path; from mvpnet.guest import tiny; "
    "print(tiny.ensure(Path(sys.argv[1]), lambda line: print(line, flush=True)).kernel)"
)


def fake_image(folder: Path, name: str, built_at: float, recipe: str | None = None) -> Path:
    image = folder / name
    image.mkdir(parents=True)
    (image / "vmlinuz").write_bytes(b"kernel")
    (image / "initrd").write_bytes(b"initrd")
    build = {"recipe": recipe or recipe_digest(), "built_at": built_at, "size_bytes": {"vmlinuz": 6, "initrd": 6}}
    (image / "build.json").write_text(json.dumps(build))
    return image


def no_build(line: str) -> None:
    raise AssertionError(f"nothing was to be built: {line}")


def test_a_cached_image_is_used_without_a_word(tmp_path: Path) -> None:
    fake_image(tmp_path, "older", 1.0)
    newer = fake_image(tmp_path, "newer", 2.0)
    fake_image(tmp_path, "of-another-recipe", 3.0, recipe="other")
    image = tiny.ensure(tmp_path, no_build)
    assert image == tiny.TinyImage(newer / "vmlinuz", newer / "initrd", "newer")


@pytest.mark.parametrize("damage", ["cut", "missing", "no record", "no json"])
def test_what_is_not_whole_is_not_used(tmp_path: Path, damage: str) -> None:
    image = fake_image(tmp_path, "damaged", 2.0)
    whole = fake_image(tmp_path, "whole", 1.0)
    if damage == "cut":
        (image / "initrd").write_bytes(b"ini")
    elif damage == "missing":
        (image / "vmlinuz").unlink()
    elif damage == "no record":
        (image / "build.json").unlink()
    else:
        (image / "build.json").write_text("{")
    assert cache.newest(tmp_path, recipe_digest()) == cache.image_in(whole)


def test_where_it_cannot_be_built_one_message_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(tiny.TinyBuildError, match="apt-get") as caught:
        tiny.ensure(tmp_path / "cache", lambda line: None)
    assert "image=file" in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(tiny.TinyBuildError, match="file"):
        tiny.ensure(tmp_path / "file" / "cache", lambda line: None)


@pytest.mark.network
@pytest.mark.skipif(not shutil.which("apt-get"), reason="it is built from a distribution's packages")
def test_two_at_once_build_once_also_after_one_was_killed(tmp_path: Path) -> None:
    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", ENSURE, str(tmp_path)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    with start() as killed:
        poll_until(lambda: list(tmp_path.glob(".build-*")), 60, "a build to begin")
        killed.kill()
    assert list(tmp_path.glob(".build-*")), "what it left is removed by the next"
    both = [start(), start()]
    said = [process.communicate(timeout=240)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][-1] == said[1][-1], "both have the same kernel"
    assert sum(line.startswith("tiny: built") for lines in said for line in lines) == 1
    assert not list(tmp_path.glob(".build-*"))
    assert Path(said[0][-1]).read_bytes()[0x202:0x206] != b""  # a bzImage has its boot protocol's version there


def test_an_archive_is_read_by_cpio(tmp_path: Path) -> None:
    if not shutil.which("cpio"):
        pytest.skip("cpio is not installed")
    entries = [
        cpio.file("etc/hosts", b"127.0.0.1 localhost\n"),
        cpio.file("bin/x", b"#!", 0o755),
        cpio.link("init", "bin/x"),
    ]
    done = subprocess.run(["cpio", "-tv", "--quiet"], input=cpio.archive(entries), capture_output=True, check=True)
    lines = done.stdout.decode().splitlines()
    assert [line.split()[8] for line in lines] == ["bin", "bin/x", "etc", "etc/hosts", "init"]
    assert lines[1].startswith("-rwxr-xr-x") and lines[4].endswith("init -> bin/x")


def test_records_of_apt_are_read() -> None:
    text = "Package: a\nVersion: 1:2-3\nDepends: b (>= 1), c | d, e:any\nSize: 12\n\nPackage: b\nVersion: 1\nSize: 1\n"
    found = {package.name: package for package in packages.parse_records(text)}
    assert found["a"].version == "1:2-3" and found["a"].size_bytes == 12
    assert found["a"].depends == ("b", "c", "e")
    assert found["b"].depends == ()


def test_the_build_cache_builds_once_and_finds_only_whole_builds(tmp_path: Path) -> None:
    built: list[Path] = []

    def build(new: Path) -> dict[str, str]:
        built.append(new)
        (new / "disk").write_bytes(b"disk")
        return {"made": "here"}

    first = buildcache.ensure(tmp_path, "digest", "thing", build, lambda line: None)
    assert buildcache.ensure(tmp_path, "digest", "thing", build, no_build) == first
    assert len(built) == 1
    assert json.loads((first / "build.json").read_text())["made"] == "here"
    (first / "disk").write_bytes(b"")
    assert buildcache.find(tmp_path, "digest") is None
    buildcache.ensure(tmp_path, "digest", "thing", build, lambda line: None)
    assert len(built) == 2


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build(new: Path) -> dict[str, str]:
        (new / "half").write_bytes(b"half")
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        buildcache.ensure(tmp_path, "digest", "thing", build, lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
