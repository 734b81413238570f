"""What a file is by its first bytes, and what is refused as a disk, kernel, initrd or seed, by kind."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mvpnet.errors import ImageError
from mvpnet.images.file_check import DiskUse, check_initrd_file, check_kernel_file, check_seed_file, disk_format
from mvpnet.images.file_kind import RAW, Family, kind_of, kind_of_file
from mvpnet.images.qcow2 import check_whole, read_header

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
Make = Callable[[bytes], Path]
BOOTS = DiskUse(boots=True)

DISK = bytes(510) + b"\x55\xaa" + bytes(512 * 7)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def tar(name: str = "disk.qcow2") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def bzimage(size_bytes: int) -> bytes:
    head = bytearray(size_bytes)
    head[0x1F1] = 1
    head[0x1F4:0x1F8] = struct.pack("<I", (size_bytes - 1024) // 16)
    head[0x1FE:0x200] = b"\x55\xaa"
    head[0x202:0x206] = b"HdrS"
    return bytes(head)


def elf(machine: int) -> bytes:
    return b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack("<HH", 2, machine) + bytes(4096)


ARM64_IMAGE = bytes(56) + b"ARM\x64" + bytes(4096)
ISO = bytes(32769) + b"CD001" + bytes(4096)
FAT = bytes(54) + b"FAT16".ljust(456) + b"\x55\xaa"
EXT = bytes(1080) + b"\x53\xef" + bytes(4096)

#: content → the words that say what it is, and the beginning of what to do
NO_DISKS = {
    "xz": (lzma.compress(DISK), "compressed by xz", "xz -dk"),
    "gzip": (gzip.compress(DISK, mtime=0), "compressed by gzip", "gzip -dk"),
    "bzip2": (bz2.compress(DISK), "compressed by bzip2", "bzip2 -dk"),
    "zstd": (b"\x28\xb5\x2f\xfd" + DISK, "compressed by zstd", "zstd -d"),
    "tar": (tar(), "a tar archive", "tar xf"),
    "zip": (b"PK\3\4" + DISK, "a zip archive", "unzip"),
    "git-lfs": (LFS, "a pointer of git-lfs", "git lfs pull"),
    "git-annex": (b"/annex/objects/SHA256E-s1--ab.qcow2\n", "a pointer of git-annex", "git annex get"),
    "html": (b"\n<!DOCTYPE html><title>Login</title>", "a web page", "is it the address"),
    "xml": (b"\xef\xbb\xbf<?xml version='1.0'?><Error/>", "a web page", "is it the address"),
    "json": (b'{"message": "401 Unauthorized"}', "a text in JSON", "it may be a server's error"),
    "luks": (b"LUKS\xba\xbe\0\2" + bytes(4096), "encrypted (LUKS)", "cryptsetup"),
    "kernel": (bzimage(4096), "a Linux kernel", "image.kernel="),
    "empty": (b"", "empty", "was a copy"),
}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def write(content: bytes) -> Path:
        path = tmp_path / "thing"
        path.write_bytes(content)
        return path

    return write


def qemu_img(*arguments: object) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


# -- disks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NO_DISKS)
def test_what_is_no_boot_disk(make: Make, name: str) -> None:
    content, words, todo = NO_DISKS[name]
    path = make(content)
    with pytest.raises(ImageError) as refused:
        disk_format(path, "image.path", BOOTS)
    assert refused.value.message.startswith(f"image.path: {path} is {words}")
    assert refused.value.hint and refused.value.hint.startswith(todo)
    assert refused.value.exit_code == 4


@pytest.mark.parametrize("name", [name for name in NO_DISKS if name != "empty"])
def test_any_of_it_is_a_raw_disk_if_the_user_says_so(make: Make, name: str) -> None:
    assert disk_format(make(NO_DISKS[name][0]), "image.path", DiskUse("raw", boots=True)) == "raw"


@pytest.mark.parametrize("name", ["luks", "kernel"])
def test_a_drive_that_the_guest_does_not_boot_may_hold_it(make: Make, name: str) -> None:
    assert disk_format(make(NO_DISKS[name][0]), "image.drives[1]", DiskUse()) == "raw"


@pytest.mark.parametrize(
    "content",
    [bytes(4096), DISK, ISO, FAT, EXT, b"some text\n", os.urandom(4096).replace(b"\x1f", b" "), bytes(1000)],
    ids=["zeros", "mbr", "iso", "fat", "ext", "text", "noise", "no whole sectors"],
)
def test_ordinary_raw_disks(make: Make, content: bytes) -> None:
    assert disk_format(make(content), "image.path", BOOTS) == "raw"


@pytest.mark.parametrize("said", ["qcow2", "vmdk", "vdi"])
@pytest.mark.parametrize("content", [DISK, lzma.compress(DISK), LFS])
def test_a_format_that_it_is_not(make: Make, said: str, content: bytes) -> None:
    with pytest.raises(ImageError, match=rf"not the {said} image that its format is said to be"):
        disk_format(make(content), "image.path", DiskUse(said))


def test_formats_without_a_mark_of_their_own_are_left_to_qemu(make: Make) -> None:
    assert disk_format(make(DISK), "image.path", DiskUse("vpc")) == "vpc"


def test_folders_and_devices(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder, not a disk image"):
        disk_format(tmp_path, "image.path", BOOTS)
    with pytest.raises(ImageError, match="neither a file nor a block device"):
        disk_format(Path("/dev/null"), "image.path", BOOTS)


def ext_of(blocks: int) -> bytes:
    content = bytearray(EXT)
    content[1028:1032] = struct.pack("<I", blocks)
    return bytes(content)


def gpt_of(last_block: int) -> bytes:
    content = bytearray(DISK)
    content[512:520] = b"EFI PART"
    content[560:568] = struct.pack("<Q", last_block)
    return bytes(content)


@pytest.mark.parametrize("make_content", [ext_of, gpt_of])
def test_raw_disks_that_were_cut_off(make: Make, make_content: Callable[[int], bytes]) -> None:
    assert disk_format(make(make_content(4)), "image.path", BOOTS) == "raw"
    with pytest.raises(ImageError, match="was cut off"):
        disk_format(make(make_content(1000)), "image.path", BOOTS)
    assert disk_format(make(make_content(1000)), "image.path", DiskUse("raw")) == "raw"


# -- qcow2 -------------------------------------------------------------------------------------------------------------

OPTIONS = [
    [],
    ["-o", "compat=0.10"],
    ["-o", "cluster_size=512"],
    ["-o", "cluster_size=2M"],
    ["-o", "extended_l2=on"],
    ["-o", "refcount_bits=1"],
    ["-o", "refcount_bits=64"],
    ["-o", "preallocation=metadata"],
    ["-o", "preallocation=falloc"],
    ["-o", "lazy_refcounts=on"],
]


@needs_qemu_img
@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_whole_and_cut_qcow2_images(tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "d.qcow2"
    qemu_img("create", "-f", "qcow2", *options, path, "20M")
    assert disk_format(path, "image.path", BOOTS) == "qcow2"
    write = ["-c", "write -P 1 0 3M", "-c", "write -P 2 17M 1M", "-c", "write -z 9M 1M"]
    subprocess.run(["qemu-io", "-f", "qcow2", *write, path], check=True, capture_output=True)
    assert disk_format(path, "image.path", BOOTS) == "qcow2"
    size = path.stat().st_size
    for length in (size * 2 // 3, size // 3, 3000, 90, 20):
        os.truncate(path, length)
        with pytest.raises(ImageError, match=rf"image\.path: {path} is a qcow2 image that was cut off|of no known"):
            disk_format(path, "image.path", DiskUse("qcow2"))


@needs_qemu_img
def test_a_compressed_qcow2_image_ends_where_it_likes(tmp_path: Path) -> None:
    raw, path = tmp_path / "raw", tmp_path / "d.qcow2"
    raw.write_bytes(os.urandom(300_000) + bytes(700_000))
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, path)
    assert disk_format(path, "image.path", BOOTS) == "qcow2"
    os.truncate(path, 200_000)
    with pytest.raises(ImageError, match="was cut off"):
        disk_format(path, "image.path", BOOTS)


@needs_qemu_img
def test_clusters_that_are_counted_and_not_used_may_be_missing(tmp_path: Path) -> None:
    """As after a crash of qemu: the last cluster was allocated, and nothing refers to it."""
    path = tmp_path / "d.qcow2"
    qemu_img("create", "-f", "qcow2", path, "20M")
    header = read_header(path)
    with path.open("r+b") as file:
        file.seek(header.refcount_table_at)
        (block,) = struct.unpack(">Q", file.read(8))
        file.seek(block + 2 * 100)
        file.write(b"\0\1")
    check_whole(path, header)
    assert disk_format(path, "image.path", BOOTS) == "qcow2"


@needs_qemu_img
@pytest.mark.parametrize(("method", "words"), [(2, "LUKS"), (1, "AES")])
def test_an_encrypted_qcow2_image(tmp_path: Path, method: int, words: str) -> None:
    path = tmp_path / "d.qcow2"
    qemu_img("create", "-f", "qcow2", path, "1M")
    with path.open("r+b") as file:
        file.seek(32)
        file.write(struct.pack(">I", method))
    with pytest.raises(ImageError, match=rf"is an encrypted qcow2 image \({words}\)"):
        disk_format(path, "image.path", BOOTS)
    assert disk_format(path, "image.path", DiskUse(properties={"encrypt.key-secret": "s"})) == "qcow2"


@needs_qemu_img
def test_a_data_file_that_is_missing(tmp_path: Path) -> None:
    path, data = tmp_path / "d.qcow2", tmp_path / "d.raw"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={data},data_file_raw=on", path, "1M")
    assert disk_format(path, "image.path", BOOTS) == "qcow2"
    data.unlink()
    with pytest.raises(
        ImageError, match=rf"image\.path: {path} is a qcow2 image with its data in {data}, and there is no"
    ):
        disk_format(path, "image.path", BOOTS)


@needs_qemu_img
def test_an_extent_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "d.vmdk"
    qemu_img("create", "-f", "vmdk", "-o", "subformat=monolithicFlat", path, "1M")
    assert disk_format(path, "image.path", BOOTS) == "vmdk"
    (tmp_path / "d-flat.vmdk").unlink()
    with pytest.raises(ImageError, match=r"a vmdk image with its data in d-flat\.vmdk, and there is no"):
        disk_format(path, "image.path", BOOTS)


@needs_qemu_img
@pytest.mark.parametrize("written", ["base.qcow2", "{folder}/base.qcow2", "file:{folder}/base.qcow2"])
def test_backing_files(tmp_path: Path, written: str) -> None:
    base, middle, top = tmp_path / "base.qcow2", tmp_path / "middle.qcow2", tmp_path / "top.qcow2"
    qemu_img("create", "-f", "qcow2", base, "1M")
    name = written.format(folder=tmp_path)
    qemu_img("create", "-f", "qcow2", "-u", "-b", name, "-F", "qcow2", middle, "1M")
    qemu_img("create", "-f", "qcow2", "-b", middle, "-F", "qcow2", top)
    assert disk_format(top, "image.path", BOOTS) == "qcow2"
    os.truncate(base, 1000)
    with pytest.raises(ImageError, match=rf"{base} is a qcow2 image that was cut off"):
        disk_format(top, "image.path", BOOTS)
    base.write_bytes(LFS)
    with pytest.raises(ImageError, match=rf"{middle} is an overlay of {base}, which is a pointer of git-lfs"):
        disk_format(top, "image.path", BOOTS)
    base.unlink()
    with pytest.raises(ImageError, match=rf"{middle} is an overlay of {name}, and there is no {base}"):
        disk_format(top, "image.path", BOOTS)


@needs_qemu_img
@pytest.mark.parametrize("backing", ["nbd://127.0.0.1:1/x", 'json:{"driver": "null-co"}'])
def test_what_comes_by_a_protocol_is_no_file(tmp_path: Path, backing: str) -> None:
    path = tmp_path / "d.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", backing, "-F", "raw", path, "1M")
    assert disk_format(path, "image.path", BOOTS) == "qcow2"


@needs_qemu_img
def test_an_overlay_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "d.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", tmp_path / "other", "-F", "qcow2", path, "1M")
    qemu_img("rebase", "-f", "qcow2", "-u", "-b", path, "-F", "qcow2", path)
    with pytest.raises(ImageError, match="overlay of it again"):
        disk_format(path, "image.path", BOOTS)


# -- kernel and initrd -------------------------------------------------------------------------------------------------

X86, ARM = "x86_64", "aarch64"
KERNELS = [
    (bzimage(8192), X86),
    (bzimage(8192), "i386"),
    (elf(62), X86),
    (elf(3), X86),
    (bytes(4096) + b"\x02\xb0\xad\x1b" + bytes(4096), X86),  # multiboot
    (ARM64_IMAGE, ARM),
    (gzip.compress(ARM64_IMAGE, mtime=0), ARM),
    (b"MZ\0\0zimg".ljust(4096), ARM),
    (elf(183), ARM),
    (os.urandom(4096).replace(b"\x1f", b" "), ARM),  # any code
    (os.urandom(4096).replace(b"\x1f", b" "), None),
]


@pytest.mark.parametrize(("content", "architecture"), KERNELS)
def test_kernels(make: Make, content: bytes, architecture: str | None) -> None:
    check_kernel_file(make(content), "image.kernel", architecture)


NO_KERNELS = [
    (gzip.compress(bzimage(8192), mtime=0), X86, "compressed by gzip, not a kernel"),
    (lzma.compress(ARM64_IMAGE), ARM, "compressed by xz, not a kernel"),
    (bytes(4096), X86, "of no known format, not a kernel"),
    (b"", X86, "empty"),
    (LFS, ARM, "a pointer of git-lfs"),
    (NO_DISKS["html"][0], None, "a web page"),
    (tar(), None, "a tar archive"),
    (b"QFI\xfb\0\0\0\3".ljust(4096), ARM, "a qcow2 image, not a kernel"),
    (ARM64_IMAGE, X86, "for aarch64 or riscv64 or riscv32, and qemu.binary is of x86_64"),
    (bzimage(8192), ARM, "for i386, and qemu.binary is of aarch64"),
    (elf(62), "i386", "for x86_64, and qemu.binary is of i386"),
    (bzimage(8192)[:4096], X86, "a kernel that was cut off"),
]


@pytest.mark.parametrize(("content", "architecture", "words"), NO_KERNELS)
def test_what_is_no_kernel(make: Make, content: bytes, architecture: str | None, words: str) -> None:
    with pytest.raises(ImageError) as refused:
        check_kernel_file(make(content), "image.kernel", architecture)
    assert words in refused.value.message and refused.value.message.startswith("image.kernel: ")


INITRDS = [gzip.compress(b"070701", mtime=0), lzma.compress(b"070701"), b"070701".ljust(512), EXT, bytes(512)]


@pytest.mark.parametrize("content", INITRDS)
def test_initrds(make: Make, content: bytes) -> None:
    check_initrd_file(make(content), "image.initrd", RAW)


@pytest.mark.parametrize(
    "content", [b"", LFS, NO_DISKS["html"][0], tar(), b"QFI\xfb\0\0\0\3".ljust(512), bzimage(4096)]
)
def test_what_is_no_initrd(make: Make, content: bytes) -> None:
    with pytest.raises(ImageError, match=r"^image\.initrd: "):
        check_initrd_file(make(content), "image.initrd", kind_of(bzimage(4096)))


def test_a_multiboot_kernel_takes_a_kernel_as_its_module(make: Make) -> None:
    check_initrd_file(make(bzimage(4096)), "image.initrd", kind_of(elf(3)))


# -- seeds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [ISO, FAT, DISK, EXT[:1144] + b"config-2" + EXT[1152:]])
def test_images_of_seeds(make: Make, content: bytes) -> None:
    assert check_seed_file(make(content), "cloud_init.path") == "raw"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (LFS, "a pointer of git-lfs"),
        (NO_DISKS["html"][0], "a web page"),
        (tar("user-data"), "a tar archive"),
        (gzip.compress(ISO, mtime=0), "compressed by gzip"),
        (EXT, "an ext2, ext3 or ext4 file system"),
        (bytes(4096), "of no known format"),
        (b"#cloud-config\npackages: [a]\n", "user-data itself"),
    ],
)
def test_what_is_no_seed(make: Make, content: bytes, words: str) -> None:
    path = make(content)
    with pytest.raises(ImageError) as refused:
        check_seed_file(path, "cloud_init.path")
    assert refused.value.message.startswith(f"cloud_init.path: {path} is {words}")
    assert refused.value.hint


def test_a_seed_that_mvpnet_makes_is_one(tmp_path: Path) -> None:
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, vol_ident="cidata")
    iso.write(str(tmp_path / "seed.iso"))
    iso.close()
    assert kind_of_file(tmp_path / "seed.iso").family is Family.file_system
    assert check_seed_file(tmp_path / "seed.iso", "cloud_init.path") == "raw"
