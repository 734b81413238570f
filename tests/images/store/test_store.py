"""The image store: fetching from servers and files, what is refused, and that the store stays whole."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from imageserver import ImageServer, image_server
from mvpnet.errors import ConfigError, HostError, ImageError
from mvpnet.guest.drives import plan_drives
from mvpnet.images import store as image_store
from mvpnet.images.first_steps import Work, first_step
from mvpnet.images.store.fetch import ensure, find
from mvpnet.images.store.lock_file import Pin, write_lock
from mvpnet.images.store.progress import line_meter
from mvpnet.images.store.request import ImageRequest, check_architecture, parse_request
from mvpnet.images.store.store import Store, StoredImage
from mvpnet.spec.model import JobSpec, Override
from mvpnet.spec.rank_set import RankSet
from mvpnet.spec.schema import Compression, Config, Image, ImageKind, ImageUse, Job, Qemu
from waiting import eventually

# A raw disk as far as anyone can tell from outside: a boot sector, then noise.
DISK = bytes(510) + b"\x55\xaa" + os.urandom(3 * 2**20)
DIGEST = hashlib.sha256(DISK).hexdigest()
STEP = 64 * 1024  # what is lost of a transfer that breaks off is less
OTHER = DISK[:-512] + bytes(512)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageServer]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with image_server() as running:
        yield running


@pytest.fixture(autouse=True)
def launch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the job is started from: the lock file's folder."""
    folder = tmp_path / "launch"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache" / "images")


@pytest.fixture
def make_image(tmp_path: Path) -> Callable[..., Image]:
    def make(source: str | Path | None, **keys: Any) -> Image:
        source = None if source is None else str(source)
        return Image(**{"kind": ImageKind.cloud, "source": source, "cache_dir": str(tmp_path / "cache"), **keys})

    return make


@pytest.fixture
def want(make_image: Callable[..., Image]) -> Callable[..., ImageRequest]:
    def make(source: str | Path, **keys: Any) -> ImageRequest:
        asked = parse_request(make_image(source, **keys))
        assert asked
        return asked

    return make


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def assert_nothing_taken(store: Store) -> None:
    """The store has no image, remembers none, and has nothing in the making."""
    assert store.images() == []
    assert store.broken() == []
    assert store.source_records.all() == []
    assert [path for path in names(store.root) if path.startswith(".staging")] == []


# -- from a server -----------------------------------------------------------------------------------------------------


def test_an_image_is_fetched_once_and_had_from_then_on(server, want, said, store):
    asked = want(server.serve("disk.img", DISK))
    assert find(asked) is None
    image = ensure(asked, said.append)
    assert image.disk.read_bytes() == DISK
    assert image.folder == store.root / DIGEST
    assert (image.sha256, image.disk_sha256, image.size_bytes) == (DIGEST, DIGEST, len(DISK))
    assert (image.format, image.virtual_bytes, image.compression) == ("raw", len(DISK), "none")
    assert image.disk.stat().st_mode & 0o222 == 0
    assert "taken on first use" in said[-1]
    assert ensure(asked, said.append) == image
    assert len(server.requests) == 1
    assert names(store.root) == {DIGEST, "sources", "fetching"}
    assert [path.suffix for path in (store.root / "fetching").iterdir()] == [".lock"]


def test_a_read_only_store_is_used_as_it_is(server, said, short_dir):
    short_dir.chmod(0o755)
    keys = {"kind": ImageKind.cloud, "source": server.serve("disk.img", DISK), "cache_dir": str(short_dir)}
    asked = parse_request(Image(**keys))
    assert asked
    ensure(asked, said.append)
    subprocess.run(["chmod", "-R", "a-w", short_dir], check=True)
    try:
        done = run_as_nobody(
            short_dir,
            f"""
from mvpnet.images.store.fetch import ensure
from mvpnet.images.store.request import parse_request
from mvpnet.spec.schema import Image, ImageKind
asked = parse_request(Image(kind=ImageKind.cloud, source={keys["source"]!r}, cache_dir={str(short_dir)!r}))
image = ensure(asked, print)
with asked.store.in_use(image):
    print(image.sha256, asked.store.remove(image.folder))
""",
        )
    finally:
        subprocess.run(["chmod", "-R", "u+w", short_dir], check=True)
    assert done.stdout.split() == [DIGEST, "False"], done.stderr


def run_as_nobody(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, as a user without rights where the test's own user is root; else as that user."""
    drop = "import os, mvpnet.images.store.resolve\nif os.getuid() == 0:\n    os.setgid(65534)\n    os.setuid(65534)\n"
    return subprocess.run(
        [sys.executable, "-c", drop + program], cwd=folder, capture_output=True, text=True, check=False
    )


def test_a_store_that_cannot_be_written(server, want, said, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(HostError, match=r"image\.cache_dir: .*cannot be written, and disk\.img is not in it"):
        ensure(want(server.serve("disk.img", DISK)), said.append)


def test_redirects_are_followed_and_names_come_from_the_first(server, want, said):
    server.serve("mirror/file", DISK)
    image = ensure(want(server.serve("disk.img", b"", redirect=server.url("mirror/file"))), said.append)
    assert image.disk.read_bytes() == DISK
    assert image.source == server.url("disk.img")


def test_a_server_that_names_no_length(server, want, said):
    assert ensure(want(server.serve("disk.img", DISK, says_length=False)), said.append).sha256 == DIGEST


def test_a_file_that_a_server_calls_encoded_is_taken_as_it_is(server, want, said):
    packed = gzip.compress(DISK)
    url = server.serve("disk.img.gz", packed, headers={"Content-Encoding": "gzip"})
    image = ensure(want(url), said.append)
    assert image.sha256 == hashlib.sha256(packed).hexdigest()
    assert image.disk.read_bytes() == DISK


def test_passwords_are_sent_and_written_nowhere(server, want, said, store):
    server.serve("disk.img", DISK)
    url = server.url("disk.img").replace("http://", "http://alice:secret@")
    ensure(want(url), said.append)
    assert server.requests[0].headers["Authorization"].startswith("Basic ")
    written = [path.read_text(errors="replace") for path in store.root.rglob("*.json")]
    assert "secret" not in "".join([*said, *written])


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_server_that_refuses(server, want, said, store, status):
    with pytest.raises(ImageError, match=rf"disk\.img cannot be had: the server answers {status}"):
        ensure(want(server.serve("disk.img", b"", status=status)), said.append)
    assert_nothing_taken(store)


def test_a_server_that_is_not_there(want, said, store):
    with pytest.raises(ImageError, match=r"cannot be had: .*refused") as caught:
        ensure(want("http://127.0.0.1:1/disk.img"), said.append)
    assert "mvpnet image fetch" in str(caught.value)
    assert_nothing_taken(store)


def test_a_proxy_from_the_environment(server, want, said, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url(""))
    monkeypatch.setenv("no_proxy", "")
    server.serve("http://vendor.invalid/disk.img", DISK)
    assert ensure(want("http://vendor.invalid/disk.img"), said.append).sha256 == DIGEST


# -- broken transfers --------------------------------------------------------------------------------------------------


def test_a_transfer_that_breaks_off_goes_on(server, want, said):
    url = server.serve("disk.img", DISK, cuts=[STEP, 3 * STEP])
    assert ensure(want(url), said.append).disk.read_bytes() == DISK
    first, second, third = server.requests
    assert first.range is None
    assert second.range == f"bytes={STEP}-"
    assert third.range == f"bytes={4 * STEP}-"


@pytest.mark.parametrize("how", [{"ranges": False}, {"etag": None}, {"etag": 'W/"weak"'}], ids=str)
def test_a_transfer_that_cannot_go_on_starts_anew(server, want, said, how):
    url = server.serve("disk.img", DISK, cuts=[STEP], **how)
    assert ensure(want(url), said.append).disk.read_bytes() == DISK
    assert len(server.requests) == 2


def test_a_transfer_goes_on_by_date_where_there_is_no_tag(server, want, said):
    date = "Thu, 01 Jan 2026 00:00:00 GMT"
    url = server.serve("disk.img", DISK, cuts=[STEP], etag=None, headers={"Last-Modified": date})
    assert ensure(want(url), said.append).disk.read_bytes() == DISK
    assert server.requests[1].headers["If-Range"] == date


def test_a_transfer_that_breaks_off_every_time(server, want, said, store):
    url = server.serve("disk.img", DISK, cuts=[STEP] * 9)
    with pytest.raises(ImageError, match="cut off 5 times"):
        ensure(want(url), said.append)
    assert_nothing_taken(store)
    assert store.transfers.part(url).stat().st_size == 5 * STEP
    server.files["disk.img"].cuts.clear()
    assert ensure(want(url), said.append).sha256 == DIGEST
    assert server.requests[-1].range == f"bytes={5 * STEP}-"


def test_a_file_that_changed_since_the_transfer_broke_off(server, want, said, store):
    url = server.serve("disk.img", DISK, cuts=[STEP] * 5)
    with pytest.raises(ImageError, match="cut off"):
        ensure(want(url), said.append)
    server.serve("disk.img", OTHER, etag='"2"')
    assert ensure(want(url), said.append).disk.read_bytes() == OTHER
    assert server.requests[-1].range is not None


def test_a_server_that_sends_less_than_it_says(server, want, said, store):
    url = server.serve("disk.img", DISK, length=len(DISK) + 1, ranges=False)
    with pytest.raises(ImageError, match="cut off"):
        ensure(want(url), said.append)
    assert_nothing_taken(store)


def fetch_process(url: str, cache: Path, *words: str) -> subprocess.Popen[str]:
    argv = ["image", "fetch", "image=file", f"image.source={url}", f"image.cache_dir={cache}", *words]
    return subprocess.Popen(
        [sys.executable, "-m", "mvpnet", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_fetch_that_is_killed_leaves_no_image_and_the_next_goes_on(server, want, said, store):
    url = server.serve("disk.img", DISK, pause_at=2**20)
    process = fetch_process(url, store.root.parent)
    with process:
        eventually(
            lambda: store.transfers.part(url).exists() and store.transfers.part(url).stat().st_size == 2**20,
            what="a part of the image",
        )
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert_nothing_taken(store)
    assert find(want(url)) is None
    server.files["disk.img"].pause_at = None
    assert ensure(want(url), said.append).disk.read_bytes() == DISK
    assert server.requests[-1].range == f"bytes={2**20}-"


def test_what_a_kill_leaves_between_fetch_and_publication(server, want, said, store):
    """The whole part is here, and half a staging folder: what a kill while unpacking leaves."""
    url = server.serve("disk.img", DISK)
    store.transfers.part(url).parent.mkdir(parents=True)
    store.transfers.part(url).write_bytes(DISK)
    store.transfers.part(url).with_suffix(".json").write_text(
        json.dumps({"url": url, "validator": '"1"', "total_bytes": len(DISK)})
    )
    half = store.root / f".staging-{store.transfers.part(url).stem}"
    half.mkdir()
    (half / "disk").write_bytes(DISK[:100])
    assert ensure(want(url), said.append).disk.read_bytes() == DISK
    assert server.requests == []
    assert names(store.root) == {DIGEST, "sources", "fetching"}


def test_two_fetches_at_once_are_one_transfer(server, store):
    url = server.serve("disk.img", DISK, pause_at=STEP)
    first = fetch_process(url, store.root.parent)
    with first:
        eventually(lambda: server.requests, what="the first fetch")
        second = fetch_process(url, store.root.parent)
        with second:
            assert second.stderr and first.stderr and first.stdout and second.stdout
            assert "another process is fetching disk.img; waiting for it" in second.stderr.readline()
            server.files["disk.img"].go_on.set()
            outputs = [first.stdout.read(), second.stdout.read()]
            errors = [first.stderr.read(), second.stderr.read()]
    assert (first.returncode, second.returncode) == (0, 0), errors
    assert outputs[0] == outputs[1]
    assert DIGEST in outputs[0]
    assert len(server.requests) == 1


def test_who_waited_for_a_fetch_that_failed_does_not_try_again(server, store):
    url = server.serve("disk.img", OTHER, pause_at=STEP)
    first = fetch_process(url, store.root.parent, f"image.sha256={DIGEST}")
    with first:
        eventually(lambda: server.requests, what="the first fetch")
        second = fetch_process(url, store.root.parent, f"image.sha256={DIGEST}")
        with second:
            assert second.stderr and first.stderr
            assert "waiting for it" in second.stderr.readline()
            server.files["disk.img"].go_on.set()
            errors = [process.stderr.read() for process in (first, second)]
    assert (first.returncode, second.returncode) == (4, 4)
    assert all("has not the sha256 digest" in error for error in errors), errors
    assert len(server.requests) == 1
    server.serve("disk.img", DISK, etag='"2"')
    with fetch_process(url, store.root.parent, f"image.sha256={DIGEST}") as third:
        third.communicate()
    assert third.returncode == 0


def test_two_urls_of_the_same_image_are_one_image(server, want, said, store):
    images = {ensure(want(server.serve(name, DISK)), said.append) for name in ("a.img", "b.img")}
    assert len(images) == 1
    assert len(store.images()) == 1
    assert {record.url for record in store.source_records.all()} == {server.url("a.img"), server.url("b.img")}


def test_progress_is_told_in_lines(server, want, said):
    times = iter(range(0, 1000, 3))
    ensure(want(server.serve("disk.img", DISK)), said.append, meter=line_meter(said.append, lambda: float(next(times))))
    assert f"fetching disk.img: {len(DISK) / 2**20:.0f} of {len(DISK) / 2**20:.0f} MiB" in said


# -- digests -----------------------------------------------------------------------------------------------------------


def test_a_digest_that_is_right(server, want, said):
    image = ensure(want(server.serve("disk.img", DISK), sha256=DIGEST.upper()), said.append)
    assert image.checked_by == "image.sha256"


def test_a_wrong_digest_is_refused_and_put_aside(server, want, said, store):
    url = server.serve("disk.img", OTHER)
    with pytest.raises(ImageError, match=r"has not the sha256 digest that image\.sha256 says") as caught:
        ensure(want(url, sha256=DIGEST), said.append)
    assert DIGEST in str(caught.value)
    assert hashlib.sha256(OTHER).hexdigest() in str(caught.value)
    [aside] = store.quarantined()
    assert str(aside) in str(caught.value)
    assert aside.read_bytes() == OTHER
    assert_nothing_taken(store)
    server.serve("disk.img", DISK, etag='"2"')
    assert ensure(want(url, sha256=DIGEST), said.append).sha256 == DIGEST


def test_what_is_pinned_by_digest_is_had_whatever_the_source(server, want, said):
    ensure(want(server.serve("disk.img", DISK)), said.append)
    assert ensure(want("http://127.0.0.1:1/gone.img", sha256=DIGEST), said.append).sha256 == DIGEST


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_the_vendors_checksum_file(server, want, said, store, algorithm):
    listed = f"{hashlib.new(algorithm, DISK).hexdigest()}  disk.img\n"
    checksums = server.serve("SUMS", listed.encode())
    url = server.serve("disk.img", DISK)
    image = ensure(want(url, checksums=checksums), said.append)
    assert image.checked_by == checksums
    assert image.sha256 == DIGEST


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_an_image_that_the_vendors_checksum_file_disowns(server, want, said, store, algorithm):
    checksums = server.serve("SUMS", f"{hashlib.new(algorithm, DISK).hexdigest()}  disk.img\n".encode())
    with pytest.raises(ImageError, match=f"has not the {algorithm} digest that {checksums} says"):
        ensure(want(server.serve("disk.img", OTHER), checksums=checksums), said.append)
    assert_nothing_taken(store)
    assert len(store.quarantined()) == 1


def test_a_checksum_file_in_a_folder(server, want, said, tmp_path):
    (tmp_path / "SUMS").write_text(f"{DIGEST}  disk.img\n")
    url = server.serve("disk.img", DISK)
    assert ensure(want(url, checksums=str(tmp_path / "SUMS")), said.append).sha256 == DIGEST


def test_a_checksum_file_that_cannot_be_had(server, want, said, store):
    url = server.serve("disk.img", DISK)
    for checksums in (server.url("SUMS"), server.serve("EMPTY", b"")):
        with pytest.raises(ImageError, match=r"404|no SHA-256"):
            ensure(want(url, checksums=checksums), said.append)
    assert server.requests_for("disk.img") == []
    assert ensure(want(url, checksums=server.url("SUMS"), sha256=DIGEST), said.append).sha256 == DIGEST
    assert any(line.startswith("warning:") for line in said)


def test_a_refresh_fetches_only_what_is_new(server, want, said, store):
    checksums = server.serve("SUMS", f"{DIGEST}  disk.img\n".encode())
    asked = want(server.serve("disk.img", DISK), checksums=checksums)
    old = ensure(asked, said.append)
    assert ensure(asked, said.append, refresh=True) == old
    assert len(server.requests_for("disk.img")) == 1
    new_digest = hashlib.sha256(OTHER).hexdigest()
    server.serve("SUMS", f"{new_digest}  disk.img\n".encode())
    server.serve("disk.img", OTHER, etag='"2"')
    assert ensure(asked, said.append) == old
    assert ensure(asked, said.append, refresh=True).sha256 == new_digest
    assert ensure(asked, said.append).sha256 == new_digest
    assert {image.sha256 for image in store.images()} == {DIGEST, new_digest}


# -- lock files --------------------------------------------------------------------------------------------------------


def lock(folder: Path, url: str, content: bytes) -> None:
    write_lock(
        folder / "mvpnet-images.lock", {url: Pin(hashlib.sha256(content).hexdigest(), len(content), "2026-01-01")}
    )


def test_a_lock_pins_and_locked_wants_one(server, want, said, launch_folder):
    url = server.serve("disk.img", DISK)
    with pytest.raises(ConfigError, match=r"image\.locked: .*disk\.img is not in .*mvpnet-images\.lock"):
        want(url, locked=True)
    lock(launch_folder, url, DISK)
    assert want(url).sha256 == DIGEST
    assert ensure(want(url, locked=True), said.append).sha256 == DIGEST
    assert want(url, locked=True, lock_file=str(launch_folder / "mvpnet-images.lock")).sha256 == DIGEST


def test_a_digest_in_the_config_is_a_pin_too_unless_the_lock_has_another(server, want, launch_folder):
    url = server.serve("disk.img", DISK)
    assert want(url, locked=True, sha256=DIGEST).sha256 == DIGEST
    lock(launch_folder, url, OTHER)
    assert want(url, sha256=DIGEST).sha256 == DIGEST
    with pytest.raises(ConfigError, match=r"is not what .* pins"):
        want(url, locked=True, sha256=DIGEST)


def test_a_vendor_who_moved_on_is_refused_before_anything_is_fetched(server, want, said, launch_folder, store):
    longer = DISK + bytes(512)
    url = server.serve("disk.img", longer)
    lock(launch_folder, url, DISK)
    with pytest.raises(ImageError, match=rf"has {len(longer)} bytes now, and {len(DISK)} where it was locked"):
        ensure(want(url), said.append)
    assert store.transfers.part(url).stat().st_size == 0
    checksums = server.serve("SUMS", f"{hashlib.sha256(longer).hexdigest()}  disk.img\n".encode())
    server.requests.clear()
    with pytest.raises(ImageError, match="the vendor publishes another image there"):
        ensure(want(url, checksums=checksums), said.append)
    assert server.requests_for("disk.img") == []


# -- from a file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_url", [False, True])
def test_a_local_file_is_copied_into_the_store(want, said, tmp_path, as_url):
    path = tmp_path / "my disk.img"
    path.write_bytes(DISK)
    asked = want(path.as_uri() if as_url else path)
    image = ensure(asked, said.append)
    assert image.disk.read_bytes() == DISK
    assert not image.disk.samefile(path)
    path.write_bytes(OTHER)
    assert ensure(asked, said.append).disk.read_bytes() == OTHER
    path.unlink()
    with pytest.raises(ImageError, match=r"image\.source: there is no .*my disk\.img"):
        ensure(asked, said.append)


def test_a_file_that_is_not_there_or_no_file(want, said, tmp_path, store):
    for path in (tmp_path / "none.img", tmp_path):
        with pytest.raises(ImageError, match=r"image\.source: "):
            ensure(want(path), said.append)
    assert_nothing_taken(store)


@pytest.mark.parametrize("how", ["xz", "gz"])
def test_a_compressed_image_is_kept_unpacked(server, want, said, how):
    packed = lzma.compress(DISK) if how == "xz" else gzip.compress(DISK)
    image = ensure(want(server.serve("disk.img.packed", packed)), said.append)
    assert image.disk.read_bytes() == DISK
    assert (image.compression, image.sha256, image.disk_sha256) == (how, hashlib.sha256(packed).hexdigest(), DIGEST)
    assert (image.size_bytes, image.disk_bytes) == (len(packed), len(DISK))


@pytest.mark.parametrize(
    ("content", "keys", "message"),
    [
        (b"<html>login</html>", {}, "is a web page"),
        (os.urandom(4096), {}, "not a disk image"),
        (DISK[:-1], {}, "no whole sectors"),
        (DISK, {"compression": Compression.xz}, "cannot be unpacked as xz"),
        (lzma.compress(DISK)[:-40], {}, "cannot be unpacked as xz"),
        (lzma.compress(DISK), {"compression": Compression.none}, "still compressed by xz"),
        (lzma.compress(b"<html>"), {}, "is a web page"),
        (DISK, {"format": "qcow2"}, "is not qcow2"),
    ],
)
def test_what_is_no_image_is_refused_and_put_aside(server, want, said, store, content, keys, message):
    with pytest.raises(ImageError, match=message) as caught:
        ensure(want(server.serve("disk.img", content), **keys), said.append)
    [aside] = store.quarantined()
    assert str(aside) in str(caught.value)
    assert aside.read_bytes() == content
    assert_nothing_taken(store)


# -- a full disk -------------------------------------------------------------------------------------------------------


def test_an_image_that_is_larger_than_the_disk_is_refused_before_it_is_fetched(server, want, said, store):
    url = server.serve("disk.img", DISK, length=2**60)
    with pytest.raises(ImageError, match=rf"no space left in .* for .*disk\.img: {2**60} more bytes needed, \d+ free"):
        ensure(want(url), said.append)
    assert_nothing_taken(store)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """image.cache_dir on a file system of 1 MiB."""
    folder = tmp_path / "cache"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "mvpnet-test", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("what", ["transfer", "unpacking", "copy"])
def test_a_disk_that_gets_full_meanwhile(server, want, said, store, small_disk, tmp_path, what):
    if what == "copy":
        source = tmp_path / "disk.img"
        source.write_bytes(DISK)
    elif what == "transfer":
        source = server.serve("disk.img", DISK, says_length=False)
    else:
        source = server.serve("disk.img.xz", lzma.compress(bytes(510) + b"\x55\xaa" + b"x" * 3 * 2**20))
    with pytest.raises(ImageError, match=r"no space left in .*cache.* for .*disk.img") as caught:
        ensure(want(source), said.append)
    assert "image.cache_dir" in str(caught.value)
    assert_nothing_taken(store)
    shutil.rmtree(store.root)  # nothing is held open or left locked


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"source": None}, r"image\.source: there is nothing to boot"),
        ({"kind": ImageKind.tiny}, r"image\.source: the tiny guest is built here"),
        ({"source": "ftp://v/disk.img"}, r"image\.source: ftp:// is not fetched"),
        ({"sha256": "abc"}, r"image\.sha256: 'abc' is no SHA-256 digest"),
        ({"path": "/disk", "sha256": DIGEST}, r"image\.sha256: is about an image from the store"),
        ({"path": "/disk", "locked": True}, r"image\.locked: is about an image from the store"),
        ({"path": "/disk", "compression": Compression.xz}, r"image\.compression: is about an image from the store"),
        ({"use": ImageUse.direct}, r"image\.use: direct would let the guest write the store's image"),
        ({"format": "raw", "properties": {"format": "raw"}}, r"image\.format: is given twice"),
    ],
)
def test_keys_that_contradict(make_image, keys, message):
    with pytest.raises(ConfigError, match=message):
        parse_request(make_image(**{"source": "https://v/disk.img", **keys}))


def test_a_path_is_used_where_it_is_also_with_a_vendors_option(make_image):
    assert parse_request(make_image("https://v/disk.img", checksums="https://v/SUMS", path="/disk")) is None


@pytest.mark.parametrize(
    ("keys", "binary", "refused"),
    [
        ({"arch": "x86_64"}, "qemu-system-x86_64", False),
        ({"arch": "amd64"}, "/opt/bin/qemu-system-x86_64", False),
        ({"arch": "aarch64"}, "qemu-system-x86_64", True),
        ({"arch": "x86_64"}, "qemu-system-aarch64", True),
        ({}, "qemu-system-x86_64", False),
        ({"source": "https://v/disk-arm64.img"}, "qemu-system-x86_64", True),
        ({"source": "https://v/disk-arm64.img", "arch": "x86_64"}, "qemu-system-x86_64", False),
        ({"source": "https://v/disk-arm64.img", "path": "/disk"}, "qemu-system-x86_64", False),
        ({"arch": "aarch64"}, "my-own-qemu", False),
        ({"arch": "i386"}, "qemu-system-x86_64", False),
        ({"arch": "x86_64"}, "qemu-system-i386", True),
        ({"arch": "armhf"}, "qemu-system-aarch64", False),
        ({"arch": "arm64"}, "qemu-system-arm", True),
        ({"source": "https://v/get?file=disk-arm64.qcow2"}, "qemu-system-x86_64", True),
        ({"source": "https://v/disk.qcow2?token=arm64"}, "qemu-system-x86_64", False),
    ],
)
def test_an_image_of_another_architecture(make_image, keys, binary, refused):
    image = make_image(**{"source": "https://v/disk.img", **keys})
    if refused:
        with pytest.raises(ImageError, match=r"image\.arch: the image is for (x86_64|aarch64), as .* says"):
            check_architecture(image, binary)
    else:
        check_architecture(image, binary)


@pytest.mark.parametrize(
    ("written", "program"),
    [
        ("amd64", "qemu-system-x86_64"),
        ("x64", "qemu-system-x86_64"),
        ("i686", "qemu-system-i386"),
        ("arm64", "qemu-system-aarch64"),
        ("armhf", "qemu-system-arm"),
        ("ppc64le", "qemu-system-ppc64"),
        ("riscv64", "qemu-system-riscv64"),
        ("loong64", "qemu-system-loongarch64"),
    ],
)
def test_a_hint_names_the_program_that_runs_it(make_image, written, program):
    with pytest.raises(ImageError) as refused:
        check_architecture(make_image("https://v/disk.img", arch=written), "qemu-system-s390x")
    assert refused.value.hint == f"qemu.binary={program} runs it"


def test_an_architecture_that_is_none(make_image):
    with pytest.raises(ConfigError, match=r"image\.arch: 'amd46' is no architecture .*did you mean amd64"):
        check_architecture(make_image("https://v/disk.img", arch="amd46"), "qemu-system-x86_64")


@pytest.mark.parametrize("no_proxy", ["a, 127.0.0.1", "a 127.0.0.1", "127.0.0.1:{port}", "127.0.0.0/8", " * "])
def test_the_environments_no_proxy(server, make_image, said, monkeypatch, no_proxy):
    url = server.serve("disk.img", DISK)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", no_proxy.format(port=url.split(":")[2].partition("/")[0]))
    server.serve("moved.img", b"", redirect=url)
    want = parse_request(make_image(server.url("moved.img")))
    assert want and ensure(want, said.append).sha256 == DIGEST


@pytest.mark.parametrize("no_proxy", ["", "127.0.0.1:1", "10.0.0.0/8"])
def test_without_it_the_proxy_is_asked(server, make_image, said, monkeypatch, no_proxy):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", no_proxy)
    want = parse_request(make_image(server.serve("disk.img", DISK)))
    with pytest.raises(ImageError, match="cannot be had"):
        ensure(want, said.append)


# -- for a job ---------------------------------------------------------------------------------------------------------


def job_of(image: Image, *overrides: Override, world_size: int = 4, qemu: Qemu | None = None) -> JobSpec:
    config = Config(job=Job(name="job7"), image=image, qemu=qemu or Qemu())
    return JobSpec(world_size=world_size, run_dir=Path("/run"), config=config, overrides=overrides)


def test_a_jobs_image_is_decided_once_for_all_ranks(server, make_image, said, launch_folder):
    url = server.serve("disk.img", DISK)
    job = image_store.pin_images(job_of(make_image(url)), said.append)
    assert {job.for_rank(rank).image.sha256 for rank in range(4)} == {DIGEST}
    server.serve("disk.img", OTHER, etag='"2"')
    elsewhere = dataclasses.replace(
        job.config, image=dataclasses.replace(job.config.image, cache_dir=str(launch_folder))
    )
    with ExitStack() as stack, pytest.raises(ImageError, match="has not the sha256 digest"):
        image_store.provide_image(dataclasses.replace(job, config=elsewhere).for_rank(1), stack, said.append)


def test_ranks_with_other_images(server, make_image, said):
    other = server.serve("other.img", OTHER)
    head = Override("head", RankSet.parse("0,2"), {"image": {"source": other}})
    job = image_store.pin_images(job_of(make_image(server.serve("disk.img", DISK)), head), said.append)
    digests = [job.for_rank(rank).image.sha256 for rank in range(4)]
    assert digests == [hashlib.sha256(OTHER).hexdigest(), DIGEST] * 2
    assert [override.on.text for override in job.overrides[1:]] == ["0-0,2-2", "1-1,3-3"]


def test_a_job_without_images_from_the_store_is_left_as_it_is(said):
    job = job_of(Image())
    assert image_store.pin_images(job, said.append) == job
    with ExitStack() as stack:
        assert image_store.provide_image(job.for_rank(0), stack, said.append) == job.for_rank(0)


def test_a_job_is_refused_for_one_rank_of_another_architecture(make_image, said):
    odd = Override("odd", RankSet.parse("odd"), {"qemu": {"binary": "qemu-system-aarch64"}})
    with pytest.raises(ImageError, match=r"image\.arch"):
        image_store.pin_images(job_of(make_image("https://v/disk.img", arch="x86_64"), odd), said.append)


def test_a_provided_image_is_a_drive_and_stays_while_in_use(server, make_image, said, store, tmp_path):
    job = image_store.pin_images(job_of(make_image(server.serve("disk.img", DISK))), said.append)
    with ExitStack() as stack:
        spec = image_store.provide_image(job.for_rank(0), stack, said.append)
        [drive] = plan_drives(spec, tmp_path)
        assert (drive.source, drive.source_format, drive.use) == (
            store.folder(DIGEST) / "disk",
            "raw",
            ImageUse.overlay,
        )
        assert image_store.planned(spec) == spec
        assert store.remove(store.folder(DIGEST)) is False
    assert store.remove(store.folder(DIGEST)) is True
    assert_nothing_taken(store)


def test_a_plan_fetches_nothing(make_image, said, store, tmp_path):
    spec = job_of(make_image("http://127.0.0.1:1/disk.img.xz")).for_rank(0)
    step = first_step(spec)
    assert step and (step.work, step.files) == (Work.fetch, (store.root / "not-fetched-yet" / "disk",))
    [drive] = plan_drives(image_store.planned(spec), tmp_path, step.files)
    assert drive.source == store.root / "not-fetched-yet" / "disk"
    pinned = job_of(make_image("http://127.0.0.1:1/disk.raw.xz", sha256=DIGEST)).for_rank(0)
    [drive] = plan_drives(image_store.planned(pinned), tmp_path, [store.folder(DIGEST) / "disk"])
    assert (drive.source, drive.source_format) == (store.folder(DIGEST) / "disk", "raw")
    assert not store.root.exists()


def test_braces_and_commas_in_the_stores_path(server, said, tmp_path):
    image = Image(
        kind=ImageKind.cloud,
        source=server.serve("disk.img", DISK),
        cache_dir=str(tmp_path / "{rank},a=b{{"),
        use=ImageUse.copy,
    )
    with ExitStack() as stack:
        spec = image_store.provide_image(job_of(image).for_rank(0), stack, said.append)
        [drive] = plan_drives(spec, tmp_path)
    assert drive.source == tmp_path / "{rank},a=b{{" / "images" / DIGEST / "disk"


# -- what is in the store ----------------------------------------------------------------------------------------------


@pytest.fixture
def stored(server: ImageServer, want: Callable[..., ImageRequest]) -> StoredImage:
    return ensure(want(server.serve("disk.img", DISK)), lambda line: None)


def test_an_image_that_is_not_whole_is_fetched_again(server, want, said, store, stored):
    stored.disk.chmod(0o644)
    os.truncate(stored.disk, 1000)
    assert store.find(DIGEST) is None
    assert store.broken() == [stored.folder]
    assert ensure(want(server.url("disk.img")), said.append).disk.read_bytes() == DISK
    assert store.broken() == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 1}'])
def test_an_image_whose_record_cannot_be_read_is_no_image(store, stored, text):
    (stored.folder / "image.json").write_text(text)
    assert store.find(DIGEST) is None


def test_an_image_removed_between_two_steps_is_not_held(store, stored):
    shutil.rmtree(stored.folder)
    with pytest.raises(FileNotFoundError), store.in_use(stored):
        pytest.fail("it was held")


def test_a_fetch_under_way_is_not_swept_away(server, want, store):
    url = server.serve("disk.img", DISK, pause_at=STEP)
    thread = threading.Thread(target=lambda: ensure(want(url), lambda line: None))
    thread.start()
    try:
        eventually(
            lambda: store.transfers.part(url).exists() and store.transfers.part(url).stat().st_size == STEP,
            what="a part",
        )
        assert store.transfers.part(url) in store.transfers.unfinished()
        assert not any(store.transfers.remove_unfinished(path) for path in store.transfers.unfinished())
    finally:
        server.files["disk.img"].go_on.set()
        thread.join()
    assert store.find(DIGEST)


def test_a_digest_by_its_beginning(store, stored):
    assert store.by_prefix(DIGEST[:6].upper()) == stored
    with pytest.raises(ImageError, match=r"no image in .* with a digest that begins with 'zz'"):
        store.by_prefix("zz")


def test_a_netrc_that_is_no_text_is_told(server, want, said, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_bytes(b"machine h login \xff password y\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with pytest.raises(ImageError, match=r"~/\.netrc is no text in UTF-8"):
        ensure(want(server.serve("disk.img", DISK)), said.append)
