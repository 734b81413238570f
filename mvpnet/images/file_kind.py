"""Tell what a file is by its first bytes: a disk format, a packed file, a file system, a kernel, a web page, …

All checks of images, kernels, initrds and seeds ask here. The signatures are those of the formats; for
disk formats they are those that qemu probes for (block/*.c, *_probe).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

#: Bytes that `kind_of` looks at: the farthest signature is btrfs', at 64 KiB and 64 bytes.
HEAD_BYTES = 68 * 1024


class Family(Enum):
    """What a file of a kind is good for."""

    disk = "disk"  # a disk in a format of qemu's
    file_system = "file_system"  # a raw disk with something on it
    packed = "packed"  # one file, compressed
    archive = "archive"  # several files
    kernel = "kernel"
    encrypted = "encrypted"
    page = "page"  # what a server or a version control system gave in the file's place
    empty = "empty"
    unknown = "unknown"  # a raw disk, perhaps


@dataclass(frozen=True)
class FileKind:
    """One kind of file.

    `name` is a short one, for disks qemu's own; `words` follows "is"; `todo` makes something usable of it, with {path}.
    """

    name: str
    family: Family
    words: str
    todo: str | None = None


@dataclass(frozen=True)
class _Mark:
    kind: FileKind
    signatures: tuple[tuple[int, bytes], ...]  # offset and bytes; one of them is enough


def _disk(name: str, *signatures: tuple[int, bytes]) -> _Mark:
    return _Mark(FileKind(name, Family.disk, f"a {name} image"), signatures)


def _packed(name: str, by: str, command: str, *signatures: tuple[int, bytes]) -> _Mark:
    kind = FileKind(name, Family.packed, f"compressed by {by}", f"{command} {{path}} unpacks it")
    return _Mark(kind, signatures)


def _archive(name: str, words: str, command: str, *signatures: tuple[int, bytes]) -> _Mark:
    return _Mark(FileKind(name, Family.archive, words, f"{command} {{path}} takes the image out of it"), signatures)


def _page(name: str, words: str, todo: str, *signatures: tuple[int, bytes]) -> _Mark:
    return _Mark(FileKind(name, Family.page, words, todo), signatures)


def _encrypted(name: str, words: str, todo: str, *signatures: tuple[int, bytes]) -> _Mark:
    return _Mark(FileKind(name, Family.encrypted, words, todo), signatures)


def _kernel(name: str, words: str, *signatures: tuple[int, bytes]) -> _Mark:
    return _Mark(FileKind(name, Family.kernel, words, "image.kernel={path} boots it"), signatures)


def _raw(name: str, words: str, *signatures: tuple[int, bytes]) -> _Mark:
    return _Mark(FileKind(name, Family.file_system, words), signatures)


EMPTY = FileKind("empty", Family.empty, "empty", "was a copy or a download of it cut off?")
RAW = FileKind("raw", Family.unknown, "of no known format")
HTML = FileKind(
    "html", Family.page, "a web page", "is it the address of the file itself, and does its server ask for a login?"
)
JSON = FileKind(
    "json", Family.page, "a text in JSON", "it may be a server's error message: look into it, and fetch it again"
)
_LUKS_TODO = "cryptsetup opens it on the host; or boot a disk that has an unencrypted boot partition"
_MARKS = (
    _disk("qcow2", (0, b"QFI\xfb\0\0\0\x02"), (0, b"QFI\xfb\0\0\0\x03")),
    _disk("qcow", (0, b"QFI\xfb\0\0\0\x01")),
    _disk("qed", (0, b"QED\0")),
    _disk("vmdk", (0, b"KDMV"), (0, b"COWD"), (0, b"# Disk DescriptorFile")),
    _disk("vhdx", (0, b"vhdxfile")),
    _disk("vpc", (0, b"conectix")),
    _disk("vdi", (64, b"\x7f\x10\xda\xbe")),
    _packed("xz", "xz", "xz -dk", (0, b"\xfd7zXZ\0")),
    _packed("zstd", "zstd", "zstd -d", (0, b"\x28\xb5\x2f\xfd")),
    _packed("gz", "gzip", "gzip -dk", (0, b"\x1f\x8b\x08")),
    _packed("bz2", "bzip2", "bzip2 -dk", (4, b"1AY&SY")),
    _packed("lz4", "lz4", "lz4 -d", (0, b"\x04\x22\x4d\x18"), (0, b"\x02\x21\x4c\x18")),
    _packed("lzip", "lzip", "lzip -dk", (0, b"LZIP\x01")),
    _packed("lzop", "lzop", "lzop -d", (0, b"\x89LZO\0\r\n\x1a\n")),
    _archive("zip", "a zip archive", "unzip", (0, b"PK\3\4"), (0, b"PK\5\6")),
    _archive("tar", "a tar archive", "tar xf", (257, b"ustar")),
    _archive("7z", "a 7z archive", "7z x", (0, b"7z\xbc\xaf\x27\x1c")),
    _archive("rar", "a rar archive", "unrar x", (0, b"Rar!\x1a\7")),
    _archive("cpio", "a cpio archive, as an initrd is", "cpio -id <", (0, b"070701"), (0, b"070702")),
    _archive("deb", "a Debian package or other ar archive", "dpkg-deb -x", (0, b"!<arch>\n")),
    _archive("rpm", "an RPM package", "rpm2cpio", (0, b"\xed\xab\xee\xdb")),
    _page(
        "git-lfs",
        "a pointer of git-lfs, not the file that it stands for",
        "git lfs pull, in its folder, fetches that",
        (0, b"version https://git-lfs.github.com/spec/"),
    ),
    _page(
        "git-annex",
        "a pointer of git-annex, not the file that it stands for",
        "git annex get {path} fetches that",
        (0, b"/annex/objects/"),
    ),
    _encrypted("luks", "encrypted (LUKS)", _LUKS_TODO, (0, b"LUKS\xba\xbe")),
    _encrypted("pgp", "encrypted (OpenPGP)", "gpg -d {path} decrypts it", (0, b"-----BEGIN PGP MESSAGE")),
    _encrypted("openssl", "encrypted (openssl enc)", "openssl enc -d decrypts it", (0, b"Salted__")),
    _encrypted("age", "encrypted (age)", "age -d {path} decrypts it", (0, b"age-encryption.org/v1")),
    _kernel("bzImage", "a Linux kernel for x86", (0x202, b"HdrS")),  # Documentation/arch/x86/boot.rst
    _kernel(
        "Image", "a Linux kernel", (56, b"ARM\x64"), (56, b"RSC\x05")
    ),  # arm64/booting.rst, riscv/boot-image-header
    _kernel("zImage", "a Linux kernel for ARM", (36, b"\x18\x28\x6f\x01"), (36, b"\x01\x6f\x28\x18")),
    _kernel("uImage", "a kernel for U-Boot", (0, b"\x27\x05\x19\x56")),
    _kernel("elf", "an ELF program or kernel", (0, b"\x7fELF")),
    _raw(
        "gpt", "a disk with a partition table", (512, b"EFI PART"), (4096, b"EFI PART")
    ),  # 512 and 4096 bytes a sector
    _raw("iso9660", "an ISO 9660 image", (32769, b"CD001")),
    _raw("vfat", "a FAT file system", (54, b"FAT12"), (54, b"FAT16"), (82, b"FAT32")),
    _raw("ext", "an ext2, ext3 or ext4 file system", (1080, b"\x53\xef")),
    _raw("xfs", "an XFS file system", (0, b"XFSB")),
    _raw("btrfs", "a btrfs file system", (0x10040, b"_BHRfS_M")),
    _raw("squashfs", "a squashfs file system", (0, b"hsqs")),
    _raw("mbr", "a disk with a boot sector", (510, b"\x55\xaa")),
    # Short marks last, as the boot code of a disk may begin with the same bytes.
    _packed("lzma", "lzma", "xz -dk --format=lzma", (0, b"\x5d\0\0\x80\0"), (0, b"\x5d\0\0\0\x04")),
    _packed("compress", "compress", "gzip -dk", (0, b"\x1f\x9d")),
    _kernel("pe", "an EFI or Windows program, perhaps a kernel", (0, b"MZ")),
)
_MARKUP = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|!--|html|head|\?xml)", re.IGNORECASE)
_JSON = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*"[ -~]*"\s*:')


def kind_of(head: bytes) -> FileKind:
    """Return the kind of the file that begins with these bytes, `HEAD_BYTES` of them where it has so many."""
    if not head:
        return EMPTY
    if _MARKUP.match(head):
        return HTML
    for mark in _MARKS:
        if any(head[at : at + len(signature)] == signature for at, signature in mark.signatures):
            return mark.kind
    return JSON if _JSON.match(head) else RAW


def read_head(path: Path, size_bytes: int = HEAD_BYTES) -> bytes:
    """Return the first bytes of a file. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        return file.read(size_bytes) or b""


def kind_of_file(path: Path) -> FileKind:
    """Return the kind of a file. Raises OSError."""
    return kind_of(read_head(path))
