"""Provide the disk, or the kernel and initrd, that a guest boots; build them where they do not exist yet."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mvpnet.images import debian, tiny
from mvpnet.images.file_check import check_initrd_file, check_kernel_file
from mvpnet.images.file_kind import RAW
from mvpnet.images.store import provide_image
from mvpnet.images.store.prepared import is_asked
from mvpnet.paths import cache_base
from mvpnet.qemu.architectures import of_program
from mvpnet.spec.drive_text import drive_of_file, expand
from mvpnet.spec.model import RankSpec
from mvpnet.spec.plain import changed
from mvpnet.spec.schema import ImageKind
from mvpnet.util.text import Say


@dataclass(frozen=True)
class BootFiles:
    """Files that a guest boots by -kernel, and those it reads from fw_cfg; empty for a guest that boots a disk."""

    kernel: Path | None = None
    initrd: Path | None = None
    kernel_args: str | None = None
    fw_cfg: tuple[str, ...] = ()
    emulated_kernel_args: str | None = None  # put before the others, under TCG


def provide_boot(
    spec: RankSpec, key_files: tuple[Path, Path], stack: ExitStack, say: Say
) -> tuple[RankSpec, BootFiles]:
    """Provide what the guest boots: the files beside its disk, and the spec with its disk's path.

    Missing images are built or fetched.

    Args:
        spec: The rank's spec.
        key_files: Public and private ssh key.
        stack: Keeps the images from being removed until it closes.
        say: Called with a line of text at each step.

    Raises:
        ImageError: An image, kernel or initrd cannot be built, fetched or used.
    """
    boot = boot_files(spec, key_files, say)
    return provide_image(with_built_disk(spec), stack, say), boot


def boot_files(spec: RankSpec, key_files: tuple[Path, Path], say: Say) -> BootFiles:
    """Return the files that the guest boots besides its disk, after building mvpnet's own images where needed.

    Raises:
        ImageError: An image cannot be built, or a kernel or initrd cannot be used.
    """
    image = spec.image
    cache = cache_base(image.cache_dir)
    if image.kind is ImageKind.tiny:
        return tiny_boot(tiny.ensure(cache / "tiny", say), image.kernel_args, key_files)
    if image.kind is ImageKind.debian:
        return debian_boot(spec, debian.ensure(cache / "debian", image.packages, say))
    boot = disk_boot(spec)
    check_kernel(boot, spec.qemu.binary)
    return boot


def check_kernel(boot: BootFiles, qemu_binary: str) -> None:
    """Refuse a kernel or initrd of the user's that cannot be one, with an ImageError."""
    kind = check_kernel_file(boot.kernel, "image.kernel", of_program(qemu_binary)) if boot.kernel else RAW
    if boot.initrd:
        check_initrd_file(boot.initrd, "image.initrd", kind)


def with_built_disk(spec: RankSpec) -> RankSpec:
    """Return the spec with the disk that mvpnet builds as its boot disk, whether built yet or not.

    A prepared disk is in the image store instead.
    """
    if spec.image.kind is not ImageKind.debian or is_asked(spec.image):
        return spec
    folder = cache_base(spec.image.cache_dir) / "debian" / debian.image_digest(spec.image.packages)
    return changed(spec, {"image": {"path": drive_of_file(debian.image_in(folder).disk), "format": "qcow2"}})


def debian_boot(spec: RankSpec, built: debian.DebianImage) -> BootFiles:
    arguments = " ".join(filter(None, [debian.KERNEL_COMMAND_LINE, spec.image.kernel_args]))
    return BootFiles(built.kernel, built.initrd, arguments, emulated_kernel_args=debian.EMULATED_KERNEL_ARGS)


def tiny_boot(built: tiny.TinyImage, more_args: str | None, key_files: tuple[Path, Path]) -> BootFiles:
    public, private = key_files
    return BootFiles(
        built.kernel,
        built.initrd,
        " ".join(filter(None, [tiny.KERNEL_COMMAND_LINE, more_args])),
        tuple(tiny.fw_cfg(public, private)),
    )


def disk_boot(spec: RankSpec) -> BootFiles:
    image = spec.image
    return BootFiles(
        Path(expand(image.kernel, spec, "image.kernel")) if image.kernel else None,
        Path(expand(image.initrd, spec, "image.initrd")) if image.initrd else None,
        image.kernel_args,
    )
