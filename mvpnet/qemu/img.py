"""Run qemu-img: what an image is, and overlays, copies and sizes of images."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvpnet.errors import HostError, ImageError

_CHECKED_WHOLE = (0, 3, 63)  # qemu-img(1), check: whole; whole with leaked clusters; a format that has no check
_DISK_FULL = ("No space left on device", "Disk quota exceeded")


class QemuImgError(ImageError):
    """qemu-img refused; the message is its complaint, in one line."""

    def __init__(self, complaint: str) -> None:
        super().__init__(complaint)
        self.is_disk_full = any(words in complaint for words in _DISK_FULL)


@dataclass(frozen=True)
class ImageInfo:
    """What qemu-img tells of an image."""

    virtual_bytes: int  # of the disk, as the guest sees it
    backing: str | None  # full path of the backing file
    backing_as_written: str | None  # the same as the image has it, perhaps relative to its folder
    backing_format: str | None


def find_qemu_img(qemu_binary: str) -> Path:
    """qemu-img beside this qemu, else on PATH: a qemu with a prefix of its own comes with its own. Raises HostError."""
    qemu = shutil.which(qemu_binary)
    if qemu and (beside := shutil.which(str(Path(qemu).resolve().parent / "qemu-img"))):
        return Path(beside)
    if found := shutil.which("qemu-img"):
        return Path(found).absolute()
    raise HostError(
        "there is no qemu-img beside qemu.binary or on PATH",
        hint="it is in the package qemu-utils or qemu-img; or avoid it: image.use=snapshot",
    )


@dataclass(frozen=True)
class QemuImg:
    """The qemu-img that belongs to a qemu.

    Its program is looked for when it is needed first. All methods raise QemuImgError when it refuses, and HostError
    when there is none.
    """

    qemu_binary: str = "qemu-system-x86_64"

    @functools.cached_property
    def program(self) -> Path:
        return find_qemu_img(self.qemu_binary)

    @property
    def is_installed(self) -> bool:
        try:
            return bool(self.program)
        except HostError:
            return False

    def info(self, image: Path, format_name: str) -> ImageInfo:
        """What the image is. Its backing file is not opened."""
        return _info(json.loads(self._run(*_INFO, "-f", format_name, image)))

    def info_of_chain(self, image: Path, format_name: str) -> ImageInfo:
        """What the image is; all that it is backed by is opened too."""
        return _info(json.loads(self._run(*_INFO, "--backing-chain", "-f", format_name, image))[0])

    def damage(self, image: Path, format_name: str) -> str | None:
        """The first thing that is wrong with the image; None for one that is whole, or whose format has no check."""
        done = self._done("check", "-q", "-f", format_name, image)
        if done.returncode in _CHECKED_WHOLE:
            return None
        first = next((line for line in done.stderr.splitlines() if line.strip()), "")
        return _complaint(first, done.returncode)

    def create_overlay(self, overlay: Path, backing: Path, backing_format: str) -> None:
        """Make an empty qcow2 image backed by another."""
        self._run("create", "-q", "-f", "qcow2", "-b", backing, "-F", backing_format, overlay)

    def convert(self, image: Path, target: Path) -> None:
        """Write the image, whose format is told by its first bytes, as a whole qcow2 image."""
        self._run("convert", "-O", "qcow2", image, target)

    def resize(self, image: Path, format_name: str, size_bytes: int) -> None:
        self._run("resize", "-q", "-f", format_name, image, str(size_bytes))

    def rename_backing(self, image: Path, format_name: str, backing: str, backing_format: str | None) -> None:
        """Have the image name its backing file otherwise; neither's content is looked at."""
        form = ["-F", backing_format] if backing_format else []
        self._run("rebase", "-u", "-f", format_name, "-b", backing, *form, image)

    def _run(self, *arguments: str | Path) -> str:
        done = self._done(*arguments)
        if done.returncode:
            raise QemuImgError(_complaint(done.stderr, done.returncode))
        return done.stdout

    def _done(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C"},
        )


# -U: others may have the image open. The answer is JSON since qemu 1.3.
_INFO = ("info", "-U", "--output=json")


def _info(told: dict[str, Any]) -> ImageInfo:
    return ImageInfo(
        told["virtual-size"],
        told.get("full-backing-filename"),
        told.get("backing-filename"),
        told.get("backing-filename-format"),
    )


def _complaint(stderr: str, exit_code: int) -> str:
    return " ".join(stderr.split()).removeprefix("qemu-img: ") or f"qemu-img ended with {exit_code}"
