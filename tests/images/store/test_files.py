"""What the image store makes of files: checksum files, disk images and what is none, compression, lock files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvpnet.errors import ConfigError, ImageError
from mvpnet.images.store.checksums import Published, checksums_text, published_digest
from mvpnet.images.store.inspection import inspect_disk
from mvpnet.images.store.lock_file import Pin, read_lock, write_lock
from mvpnet.images.store.unpack import compression_of, unpack
from mvpnet.qemu.architectures import in_file_name
from mvpnet.qemu.img import QemuImg
from mvpnet.spec.schema import Compression

A, B = "a" * 64, "b" * 64
C = "c" * 128
needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


# -- checksum files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"{A}  disk.img\n{B}  other.img\n",
        f"{B} *other.img\n{A} *disk.img\n",
        f"{A}  ./sub/disk.img\n",
        f"# disk.img: 12345 bytes\nSHA256 (disk.img) = {A}\nSHA256 (other.img) = {B}\n",
        f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nSHA256 (disk.img) = {A.upper()}\n"
        "-----BEGIN PGP SIGNATURE-----\n\niQIzBAEBCAAd\n-----END PGP SIGNATURE-----\n",
        f"MD5 (disk.img) = {'d' * 32}\nSHA1 (disk.img) = {'e' * 40}\nSHA256 (disk.img) = {A}\n",
        f"SHA256(./disk.img)= {A}\nSHA256(other.img)= {B}\n",
        f"SHA2-256(disk.img)= {A}\nSHA2-512(other.img)= {C}\n",
        f"sha256 (disk.img) = {A}\n",
        f"\\{B}  a\\nb.img\n\\{A}  sub\\\\x/disk.img\n",
        f"{A} disk.img\r\n{B} other.img\r\n",
    ],
    ids=[
        *("coreutils", "coreutils, binary", "in a folder", "BSD, with comments", "signed", "beside weak ones"),
        *("OpenSSL 1", "OpenSSL 3", "small letters", "escaped", "one blank, CRLF"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_layouts_that_vendors_use(text, encoding):
    read = checksums_text(text.encode(encoding))
    assert published_digest(read, "disk.img", "https://v/SHA256SUMS") == Published("sha256", A)


def test_a_name_with_a_line_break():
    assert published_digest(f"\\{A}  a\\nb.img\n", "a\nb.img", "SHA256SUMS") == Published("sha256", A)


@pytest.mark.parametrize(
    "command",
    [["openssl", "dgst", "-sha256"], ["openssl", "dgst", "-sha256", "-r"], ["sha256sum"], ["sha256sum", "--tag"]],
)
def test_what_the_programs_here_write(tmp_path, command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    (tmp_path / "disk.img").write_bytes(b"disk")
    written = subprocess.run([*command, "./disk.img"], cwd=tmp_path, capture_output=True, check=True).stdout
    assert published_digest(checksums_text(written), "disk.img", "SUMS").digest == hashlib.sha256(b"disk").hexdigest()


def test_sha512_where_that_is_what_is_published_and_before_sha256():
    assert published_digest(f"{C}  disk.img\n", "disk.img", "SHA512SUMS") == Published("sha512", C)
    both = f"SHA256 (disk.img) = {A}\nSHA512 (disk.img) = {C}\n"
    assert published_digest(both, "disk.img", "CHECKSUM") == Published("sha512", C)


def test_a_checksum_file_of_the_images_own_may_name_the_dated_image():
    text = f"SHA256 (disk-20260101.img) = {A}\n"
    assert published_digest(text, "disk-latest.img", "https://v/disk-latest.img.SHA256SUM") == Published("sha256", A)
    assert published_digest(f"{A}\n", "disk.img", "https://v/disk.img.sha256") == Published("sha256", A)


@pytest.mark.parametrize(
    ("text", "listed_in"),
    [
        (f"{A}  other.img\n", "SHA256SUMS"),
        (f"{A}  not-disk.img\n", "SHA256SUMS"),
        ("", "SHA256SUMS"),
        ("<html>404</html>", "SHA256SUMS"),
        (f"SHA256 (disk.img) = {A[:-1]}\n", "CHECKSUM"),
        (f"SHA256 (disk.img) = {C}\n", "CHECKSUM"),
        (f"{'d' * 32}  disk.img\n", "MD5SUMS"),
        (f"{A}  other.img\n{B}  another.img\n", "disk.img.SHA256SUM"),
    ],
)
def test_no_digest_of_the_image(text, listed_in):
    with pytest.raises(ImageError, match=r"no SHA-256 or SHA-512 digest of disk\.img"):
        published_digest(text, "disk.img", listed_in)


@given(st.text())
def test_any_text_is_read_or_refused(text):
    with suppress(ImageError):
        assert len(published_digest(text, "x", "SUMS").digest) in (64, 128)


# -- disk images -------------------------------------------------------------------------------------------------------


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, capture_output=True)


def inspect(path: Path, store: Path | None = None, said_format: str | None = None, *, by_qemu_img: bool = True):
    program = QemuImg() if by_qemu_img else None
    return inspect_disk(path, said_format, store or path.parent / "store", path.name, program)


@pytest.fixture
def qcow2(tmp_path: Path) -> Path:
    raw, path = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    raw.write_bytes(os.urandom(2**20))
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, path)
    return path


@needs_qemu_img
@pytest.mark.parametrize("by_qemu_img", [True, False])
def test_a_qcow2_image(qcow2, by_qemu_img):
    facts = inspect(qcow2, by_qemu_img=by_qemu_img)
    assert (facts.format, facts.virtual_bytes, facts.backing) == ("qcow2", 2**20, None)


@needs_qemu_img
@pytest.mark.parametrize("format_name", ["vmdk", "vdi", "vpc", "vhdx", "qed"])
def test_other_formats(tmp_path, format_name):
    path = tmp_path / "disk"
    qemu_img("create", "-q", "-f", format_name, path, "8M")
    facts = inspect(path)
    assert facts.format == format_name
    assert facts.virtual_bytes and facts.virtual_bytes >= 8 * 2**20
    assert inspect(path, by_qemu_img=False).virtual_bytes is None


@needs_qemu_img
@pytest.mark.parametrize("length", [40, 200_000, 600_000])
def test_a_qcow2_image_that_was_cut(qcow2, length):
    os.truncate(qcow2, length)
    with pytest.raises(ImageError, match=r"cut off|damaged qcow2"):
        inspect(qcow2)


@needs_qemu_img
def test_an_overlay_of_something_outside_the_store(qcow2, tmp_path):
    overlay = tmp_path / "overlay.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", qcow2, "-F", "qcow2", overlay)
    for by_qemu_img in (True, False):
        with pytest.raises(ImageError, match=r"overlay of .*disk\.qcow2, which is not in the image store"):
            inspect(overlay, by_qemu_img=by_qemu_img)


@needs_qemu_img
@pytest.mark.parametrize("backing", ["../../etc/passwd", "json:{}", "nbd://127.0.0.1:1/x", "disk"])
def test_a_backing_file_that_could_be_anything(tmp_path, backing):
    overlay = tmp_path / "overlay.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", "raw", overlay, "1M")
    with pytest.raises(ImageError, match="which is not in the image store"):
        inspect(overlay, tmp_path)


@needs_qemu_img
def test_an_overlay_of_an_image_in_the_store(qcow2, tmp_path):
    inside = tmp_path / "store" / A / "disk"
    inside.parent.mkdir(parents=True)
    qcow2.rename(inside)
    overlay = tmp_path / "overlay.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", inside, "-F", "qcow2", overlay)
    assert inspect(overlay).backing == inside


@needs_qemu_img
def test_a_qcow2_image_with_its_data_elsewhere(tmp_path):
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", path, "1M")
    with pytest.raises(ImageError, match="data in another file"):
        inspect(path)


@needs_qemu_img
def test_a_vmdk_that_is_only_a_description(tmp_path):
    path = tmp_path / "disk.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", path, "1M")
    with pytest.raises(ImageError, match="only names other files"):
        inspect(path)


def test_raw_disks(tmp_path):
    path = tmp_path / "disk"
    for at, mark in ((510, b"\x55\xaa"), (512, b"EFI PART"), (1080, b"\x53\xef"), (32769, b"CD001"), (0, b"XFSB")):
        disk = bytearray(64 * 1024)
        disk[at : at + len(mark)] = mark
        path.write_bytes(disk)
        facts = inspect(path)
        assert (facts.format, facts.virtual_bytes) == ("raw", 64 * 1024)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a disk image|is empty"),
        (b"hello", "of no known format"),
        (bytes(1024), "of no known format"),
        (b"\n <!DOCTYPE html><html>Not found</html>", "a web page"),
        (b"<?xml version='1.0'?><Error/>", "a web page"),
        (b"\xfd7zXZ\0more", "still compressed by xz"),
        (b"BZh91AY&SY", "bzip2"),
        (b"PK\3\4zip", "a zip archive"),
        (bytes(257) + b"ustar" + bytes(300), "a tar archive"),
        (bytes(510) + b"\x55\xaa" + b"x", "no whole sectors"),
        (b"QFI\xfb\0\0\0\3", "cut off"),
    ],
)
def test_what_is_no_disk_image(tmp_path, content, message):
    path = tmp_path / "thing"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message):
        inspect(path)


def test_the_format_that_the_user_says(tmp_path):
    path = tmp_path / "thing"
    path.write_bytes(bytes(1000))
    assert inspect(path, said_format="raw").format == "raw"
    with pytest.raises(ImageError, match=r"image\.format: thing is not qcow2; by its first bytes it is raw"):
        inspect(path, said_format="qcow2")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("debian-12-genericcloud-amd64.qcow2", "x86_64"),
        ("Rocky-9-GenericCloud.latest.aarch64.qcow2", "aarch64"),
        ("FreeBSD-14.4-RELEASE-arm64-aarch64-BASIC.qcow2.xz", "aarch64"),
        ("disk-ppc64le.img", "ppc64"),
        ("disk.img", None),
        ("xamd64y.img", None),
        ("amd64-and-arm64.img", None),
        ("debian-12-i386.qcow2", "i386"),
        ("disk.i686.raw", "i386"),
        ("win-x64.vhdx", "x86_64"),
        ("disk-X86-64.img", "x86_64"),
        ("raspios-armhf.img.xz", "arm"),
        ("fedora.s390x.qcow2", "s390x"),
        ("ubuntu-riscv64.img", "riscv64"),
        ("disk-alpha.img", None),
    ],
)
def test_architecture_in_a_name(name, expected):
    assert in_file_name(name) == expected


# -- compression -------------------------------------------------------------------------------------------------------

TOOLS = {Compression.xz: ["xz", "-k"], Compression.gz: ["gzip", "-k"], Compression.zstd: ["zstd", "-q"]}
HOLE = 4 * 2**20


@pytest.fixture(params=TOOLS, ids=lambda how: how.name)
def packed(request, tmp_path):
    """A file, how it is compressed, and what is in it."""
    if shutil.which(TOOLS[request.param][0]) is None:
        pytest.skip(f"{TOOLS[request.param][0]} is not installed")
    content = os.urandom(300_000) + bytes(HOLE) + os.urandom(1000) + bytes(2**20 + 17)
    raw = tmp_path / "raw"
    raw.write_bytes(content)
    done = subprocess.run([*TOOLS[request.param], "-c", raw], check=True, capture_output=True)
    path = tmp_path / "packed"
    path.write_bytes(done.stdout)
    return path, request.param, content


def unpacked(path: Path, how: Compression, out: Path) -> str:
    return unpack(path, how, out, path.name, lambda count: None)


def test_unpacking_leaves_holes(packed, tmp_path):
    path, how, content = packed
    assert compression_of(path) is how
    advanced: list[int] = []
    digest = unpack(path, how, tmp_path / "out", "packed", advanced.append)
    assert (tmp_path / "out").read_bytes() == content
    assert digest == hashlib.sha256(content).hexdigest()
    assert sum(advanced) == path.stat().st_size
    assert (tmp_path / "out").stat().st_blocks * 512 < len(content) - HOLE // 2


def test_files_that_were_joined(packed, tmp_path):
    path, how, content = packed
    path.write_bytes(path.read_bytes() * 2)
    unpacked(path, how, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content * 2


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.999])
def test_a_compressed_file_that_was_cut(packed, tmp_path, keep):
    path, how, _ = packed
    os.truncate(path, int(path.stat().st_size * keep))
    with pytest.raises(ImageError, match=f"packed cannot be unpacked as {how.name}"):
        unpacked(path, how, tmp_path / "out")


def test_the_wrong_compression(packed, tmp_path):
    path, how, _ = packed
    wrong = next(other for other in TOOLS if other is not how)
    with pytest.raises(ImageError, match=f"cannot be unpacked as {wrong.name}"):
        unpacked(path, wrong, tmp_path / "out")


# -- lock files --------------------------------------------------------------------------------------------------------


def test_a_lock_file_is_read_as_written(tmp_path):
    path = tmp_path / "mvpnet-images.lock"
    assert read_lock(path) == {}
    pins = {"https://v/b": Pin(B, 2, "2026-01-02T00:00:00+0000"), "https://v/a": Pin(A, 1, "2026-01-01T00:00:00+0000")}
    write_lock(path, pins)
    assert read_lock(path) == pins
    assert list(json.loads(path.read_text())["images"]) == ["https://v/a", "https://v/b"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "{}",
        '{"version": 1}',
        '{"version": 2, "images": {}}',
        '{"version": 1, "images": []}',
        '{"version": 1, "images": {"u": {"sha256": "short"}}}',
        '{"version": 1, "images": {"u": {"sha256": 5}}}',
        '{"version": 1, "images": {"u": {"digest": "x"}}}',
    ],
)
def test_what_is_no_lock_file(tmp_path, text):
    path = tmp_path / "lock"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"image\.lock_file: .*lock"):
        read_lock(path)


def test_a_lock_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no text in UTF-8, and no lock file"):
        read_lock(tmp_path / "lock")
    with pytest.raises(ConfigError, match="no ordinary file"):
        read_lock(Path("/dev/zero"))
