"""`mvpnet image`: the verbs as a person or a program uses them, and jobs that take their image from the store."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from imageserver import ImageServer, image_server
from mvpnet.images.store.store import Store
from mvpnet.paths import conf_folder
from waiting import eventually

DISK = bytes(510) + b"\x55\xaa" + os.urandom(2**20)
DIGEST = hashlib.sha256(DISK).hexdigest()
OTHER = DISK[:-512] + bytes(512)
VENDORS = ["centos9", "debian12", "fedora", "freebsd14", "rocky9", "ubuntu2404"]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as running:
        yield running


@pytest.fixture
def mvpnet(tmp_path: Path) -> Run:
    """mvpnet(*args) with a cache folder of the test's own."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "no_proxy": "127.0.0.1"}

    def run(*args: str | Path, cwd: Path = tmp_path, **more_environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mvpnet", *args],
            cwd=cwd,
            env={**environment, **more_environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache" / "mvpnet" / "images")


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def from_json(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(ok(done))


# -- fetch and lock ----------------------------------------------------------------------------------------------------


def test_fetch_says_what_it_does_and_prints_where_the_image_is(server, mvpnet, store):
    source = f"image.source={server.serve('disk.img', DISK)}"
    done = mvpnet("image", "fetch", "image=file", source)
    assert ok(done) == f"{DIGEST}  {store.root / DIGEST}\n"
    assert f"fetching {server.url('disk.img')}" in done.stderr
    [facts] = from_json(mvpnet("image", "fetch", "--json", "image=file", source))
    assert (facts["sha256"], facts["format"], facts["source"]) == (DIGEST, "raw", server.url("disk.img"))
    assert len(server.requests) == 1


def test_fetch_shows_a_bar_on_a_terminal(server, tmp_path):
    terminal, its_end = pty.openpty()
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "mvpnet",
                "image",
                "fetch",
                "image=file",
                f"image.source={server.serve('disk.img', DISK)}",
            ],
            cwd=tmp_path,
            env={
                **os.environ,
                "XDG_CACHE_HOME": str(tmp_path),
                "TERM": "xterm",
                "COLUMNS": "100",
                "no_proxy": "127.0.0.1",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=its_end,
            check=False,
        )
        shown = os.read(terminal, 65536).decode()
    finally:
        os.close(terminal)
        os.close(its_end)
    assert done.returncode == 0, shown
    assert "fetching disk.img" in shown
    assert "━" in shown


def test_several_images_in_one_go(server, mvpnet, store, tmp_path):
    folder = tmp_path / "mvpnet.d" / "image"
    folder.mkdir(parents=True)
    for name, body in (("one", DISK), ("two", OTHER)):
        url = server.serve(f"{name}.img", body)
        (folder / f"{name}.yaml").write_text(f"defaults: [schema]\nkind: cloud\nsource: {url}\n")
    for words in (["image=one,two"], ["image=one", "image=two"]):
        assert len(from_json(mvpnet("image", "fetch", "--json", *words))) == 2
    assert len(store.images()) == 2
    ranks = ["+ranks.head={on: '0', image: {source: '" + server.serve("three.img", DISK[:-512]) + "'}}"]
    assert len(from_json(mvpnet("image", "fetch", "--json", "image=one", *ranks))) == 2
    assert len(store.images()) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["image=file", "image.path=/dev/null"], 2, "image.path: is used where it is"),
        (["image=file", "image.source=ftp://v/x"], 2, "image.source: ftp:// is not fetched"),
        (["image=nope"], 2, "there is no option 'nope'"),
        (["image=file", "image.source=/nowhere/disk.img"], 4, "image.source: there is no /nowhere/disk.img"),
        (["image=file", "image.source=http://127.0.0.1:1/disk.img"], 4, "cannot be had"),
        (["image=centos9", "qemu.binary=qemu-system-aarch64"], 4, "image.arch: the image is for x86_64"),
        (["image=centos9", "image.locked=true"], 2, "mvpnet image lock, with the same arguments"),
    ],
)
def test_what_fetch_refuses(mvpnet, arguments, code, message):
    done = mvpnet("image", "fetch", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_lock_pins_until_it_is_told_to_update(server, mvpnet, tmp_path):
    url = server.serve("disk.img", DISK)
    words = ["image=file", f"image.source={url}"]
    [locked] = from_json(mvpnet("image", "lock", "--json", *words))
    path = tmp_path / "mvpnet-images.lock"
    assert (locked["sha256"], locked["size_bytes"], locked["lock_file"]) == (DIGEST, len(DISK), str(path))
    server.serve("disk.img", OTHER, etag='"2"')
    before = path.read_text()
    ok(mvpnet("image", "lock", *words))
    assert path.read_text() == before
    ok(mvpnet("image", "fetch", *words, "image.locked=true"))
    other_cache = str(tmp_path / "other")
    refused = mvpnet("image", "fetch", *words, "image.locked=true", XDG_CACHE_HOME=other_cache)
    assert refused.returncode == 4
    assert f"sha256 digest that {path} says" in refused.stderr
    ok(mvpnet("image", "lock", "--update", *words))
    assert json.loads(path.read_text())["images"][url]["sha256"] == hashlib.sha256(OTHER).hexdigest()
    ok(mvpnet("image", "fetch", *words, "image.locked=true", XDG_CACHE_HOME=other_cache))


def test_lock_keeps_what_else_is_locked(server, mvpnet, tmp_path):
    for name in ("a.img", "b.img"):
        ok(mvpnet("image", "lock", "image=file", f"image.source={server.serve(name, DISK)}", "image.lock_file=my.lock"))
    assert set(json.loads((tmp_path / "my.lock").read_text())["images"]) == {server.url("a.img"), server.url("b.img")}


def test_ctrl_c_leaves_a_part_to_go_on_from(server, mvpnet, store, tmp_path):
    url = server.serve("disk.img", DISK, pause_at=2**18)
    words = ["image", "fetch", "image=file", f"image.source={url}"]
    with subprocess.Popen(
        [sys.executable, "-m", "mvpnet", *words],
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "no_proxy": "127.0.0.1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        eventually(
            lambda: store.transfers.part(url).exists() and store.transfers.part(url).stat().st_size == 2**18,
            what="a part",
        )
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert (process.returncode, "Traceback" in errors) == (130, False), errors
    server.files["disk.img"].pause_at = None
    ok(mvpnet(*words))
    assert server.requests[-1].range == f"bytes={2**18}-"


# -- import, list, info, verify, prune, resize -------------------------------------------------------------------------


@pytest.fixture
def imported(mvpnet: Run, tmp_path: Path, store: Store) -> Path:
    """The disk in the store of an image that was imported."""
    (tmp_path / "disk.img").write_bytes(DISK)
    ok(mvpnet("image", "import", "disk.img"))
    return store.root / DIGEST / "disk"


def test_import(mvpnet, imported, tmp_path):
    assert imported.read_bytes() == DISK
    assert mvpnet("image", "import", "disk.img", "--sha256", "0" * 64).returncode == 4
    (tmp_path / "zeros").write_bytes(bytes(1024))
    refused = mvpnet("image", "import", "zeros")
    assert (refused.returncode, "not a disk image" in refused.stderr) == (4, True)
    assert from_json(mvpnet("image", "import", "zeros", "--format", "raw", "--json"))[0]["format"] == "raw"
    [had] = from_json(mvpnet("image", "fetch", "--json", "image=file", "image.source=disk.img"))
    assert had["sha256"] == DIGEST


def test_list(mvpnet, imported, tmp_path):
    assert DIGEST[:12] in ok(mvpnet("image", "list"))
    listed = from_json(mvpnet("image", "list", "--json"))
    assert [image["sha256"] for image in listed["images"]] == [DIGEST]
    assert (listed["quarantine"], listed["unfinished"], listed["broken"]) == ([], [], [])
    empty = mvpnet("image", "list", "--cache-dir", tmp_path / "nothing")
    assert (ok(empty), "there is no image" in empty.stderr) == ("", True)


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_info(mvpnet, imported, tmp_path, server):
    assert from_json(mvpnet("image", "info", DIGEST[:8], "--json"))[0]["sha256"] == DIGEST
    [file] = from_json(mvpnet("image", "info", "disk.img", "--json"))
    assert (file["format"], file["virtual_bytes"]) == ("raw", len(DISK))
    [of_job] = from_json(mvpnet("image", "info", "image=file", "image.source=disk.img", "--json"))
    assert (of_job["in_store"], of_job["sha256"]) == (True, DIGEST)
    [absent] = from_json(mvpnet("image", "info", "image=file", f"image.source={server.url('x.img')}", "--json"))
    assert (absent["in_store"], absent["sha256"]) == (False, None)
    assert server.requests == []
    assert mvpnet("image", "info", "ffff").returncode == 4


def test_verify_puts_aside_what_changed(mvpnet, imported, store):
    assert from_json(mvpnet("image", "verify", "--json"))[0]["intact"] is True
    imported.chmod(0o644)
    with imported.open("r+b") as disk:
        disk.seek(5000)
        disk.write(b"!")
    done = mvpnet("image", "verify", "--json", DIGEST[:10])
    assert done.returncode == 4
    [result] = json.loads(done.stdout)
    assert result["intact"] is False
    assert Path(result["put_aside"]).is_dir()
    assert store.images() == []
    assert ok(mvpnet("image", "verify")) == ""
    ok(mvpnet("image", "import", "disk.img"))
    assert from_json(mvpnet("image", "verify", "--json"))[0]["intact"] is True


def test_verify_puts_aside_what_is_not_whole(mvpnet, imported, store):
    imported.chmod(0o644)
    os.truncate(imported, 100)
    assert mvpnet("image", "verify").returncode == 4
    assert store.broken() == []


def test_prune_removes_what_nothing_needs(mvpnet, server, store, tmp_path):
    url = server.serve("disk.img", DISK)
    words = ["image=file", f"image.source={url}"]
    ok(mvpnet("image", "fetch", *words))
    server.serve("disk.img", OTHER, etag='"2"')
    ok(mvpnet("image", "fetch", "--refresh", *words))
    assert mvpnet("image", "fetch", "image=file", f"image.source={server.serve('bad.img', b'no')}").returncode == 4
    server.serve("cut.img", DISK, cuts=[2**17] * 5)
    assert mvpnet("image", "fetch", "image=file", f"image.source={server.url('cut.img')}").returncode == 4
    planned = from_json(mvpnet("image", "prune", "--dry-run", "--json"))
    assert len(store.images()) == 2
    removed = from_json(mvpnet("image", "prune", "--json"))
    assert planned == removed
    assert str(store.root / DIGEST) in [entry["path"] for entry in removed]
    assert [image.sha256 for image in store.images()] == [hashlib.sha256(OTHER).hexdigest()]
    assert (store.quarantined(), store.transfers.unfinished()) == ([], [])
    assert from_json(mvpnet("image", "prune", "--json")) == []


def test_prune_leaves_what_is_pinned_in_use_or_a_backing_file(mvpnet, server, store, tmp_path):
    words = ["image=file", f"image.source={server.serve('disk.img', DISK)}"]
    ok(mvpnet("image", "lock", *words))
    server.serve("disk.img", OTHER, etag='"2"')
    ok(mvpnet("image", "lock", "--update", *words, "image.lock_file=other.lock"))
    assert from_json(mvpnet("image", "prune", "--json")) == []
    image = store.find(DIGEST)
    assert image
    with store.in_use(image):
        done = mvpnet("image", "prune", DIGEST[:9], "--json")
        assert json.loads(done.stdout) == []
        assert "in use, and left" in done.stderr
    assert len(from_json(mvpnet("image", "prune", "--all", "--json"))) == 2
    assert store.images() == []


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_an_overlay_of_an_image_in_the_store(mvpnet, imported, store, tmp_path):
    overlay = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", imported, "-F", "raw", "overlay.qcow2"]
    subprocess.run(overlay, check=True, cwd=tmp_path)
    [facts] = from_json(mvpnet("image", "import", "overlay.qcow2", "--json"))
    assert facts["backing"] == DIGEST
    done = mvpnet("image", "prune", DIGEST[:9], "--json")
    assert json.loads(done.stdout) == []
    assert "backing file of another image" in done.stderr
    assert len(from_json(mvpnet("image", "prune", "--all", "--json"))) == 2


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_resize_grows_files_and_leaves_the_store_alone(mvpnet, imported, tmp_path):
    disk = tmp_path / "disk.img"
    assert "GiB" in ok(mvpnet("image", "resize", "disk.img", "+1G"))
    assert disk.stat().st_size == len(DISK) + 2**30
    for size, message in (("1M", "shrinking would lose data"), ("-1G", "would shrink"), ("much", "is not a size")):
        refused = mvpnet("image", "resize", "disk.img", size)
        assert refused.returncode != 0
        assert message in refused.stderr
    refused = mvpnet("image", "resize", imported, "+1G")
    assert (refused.returncode, "is in the image store" in refused.stderr) == (4, True)
    assert imported.read_bytes() == DISK


# -- the vendors' options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VENDORS)
def test_a_vendors_option_composes(mvpnet, name):
    [facts] = from_json(mvpnet("image", "info", f"image={name}", "--json"))
    option = yaml.safe_load((conf_folder() / "image" / f"{name}.yaml").read_text())
    assert facts["source"] == option["source"]
    assert facts["source"].startswith("https://")
    assert option["checksums"].startswith("https://")
    assert (option["kind"], option["arch"]) == ("cloud", "x86_64")
    planned = json.loads(ok(mvpnet("plan", "-n", "1", "--json", f"image={name}", "image.size=+3G")))
    assert "-drive" in planned[0]["qemu"]


def test_a_copy_of_a_vendors_image_is_used_with_its_option(mvpnet, tmp_path):
    (tmp_path / "mine.img").write_bytes(DISK)
    planned = ok(mvpnet("plan", "-n", "1", "image=centos9", "image.path=mine.img", "image.use=readonly"))
    assert f"file={tmp_path / 'mine.img'}" in planned


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_a_job_is_refused_before_any_guest_starts(server, run_mvpnet, tmp_path):
    url = server.serve("disk.img", OTHER)
    words = ["image=file", f"image.source={url}", f"image.sha256={DIGEST}", f"image.cache_dir={tmp_path / 'cache'}"]
    done = run_mvpnet(*words, "vm.accel=tcg", ranks=2)
    assert done.code == 4, done
    assert "has not the sha256 digest that image.sha256 says" in done.stderr
    assert len(server.requests) == 1
    assert "qemu" not in done.stderr


def test_a_job_that_is_stopped_while_it_fetches(server, start_mvpnet, tmp_path):
    url = server.serve("disk.img", DISK, pause_at=2**18)
    words = ["image=file", f"image.source={url}", f"image.cache_dir={tmp_path / 'cache'}"]
    job = start_mvpnet(*words, ranks=2, env={"no_proxy": "127.0.0.1"})
    job.wait_for("fetching http://")
    eventually(lambda: server.requests, what="the request")
    job.signal(signal.SIGTERM)
    done = job.finish()
    assert done.code == 128 + signal.SIGTERM, done
    assert "stopped by SIGTERM" in done.stderr
    assert Store(tmp_path / "cache" / "images").images() == []


def test_a_job_whose_source_is_not_there_is_told_once(run_mvpnet, tmp_path):
    words = ["image=file", "image.source=http://127.0.0.1:1/disk.img", f"image.cache_dir={tmp_path / 'cache'}"]
    done = run_mvpnet(*words, ranks=2)
    assert done.code == 4, done
    assert done.stderr.count("cannot be had") == 1
