"""Run qemu-img: query images, and create, copy, resize and rebase them."""

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

_CHECKED_WHOLE = (0, 3, 63)  # exit codes of qemu-img check: intact; intact with leaked clusters; format without a check
_DISK_FULL = ("No space left on device", "Disk quota exceeded")


class QemuImgError(ImageError):
    """qemu-img failed; the message is its own, in one line."""

    def __init__(self, complaint: str) -> None:
        super().__init__(complaint)
        self.is_disk_full = any(words in complaint for words in _DISK_FULL)


@dataclass(frozen=True)
class ImageInfo:
    """Properties of an image, as qemu-img reports them."""

    virtual_bytes: int  # of the disk, as the guest sees it
    backing: str | None  # full path of the backing file
    backing_as_written: str | None  # the same as written in the image, perhaps relative to its folder
    backing_format: str | None


def find_qemu_img(qemu_binary: str) -> Path:
    """Return qemu-img beside this qemu, else on PATH, as a qemu with its own prefix has its own qemu-img.

    Raises:
        HostError: There is no qemu-img.
    """
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
    """The qemu-img that belongs to a qemu, looked up at its first use.

    All methods raise QemuImgError when it fails, and HostError when there is none.
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
        """Return the properties of an image. Its backing file is not opened."""
        return _info(json.loads(self._run(*_INFO, "-f", format_name, image)))

    def info_of_chain(self, image: Path, format_name: str) -> ImageInfo:
        """Return the properties of an image, after opening all of its backing files too."""
        return _info(json.loads(self._run(*_INFO, "--backing-chain", "-f", format_name, image))[0])

    def damage(self, image: Path, format_name: str) -> str | None:
        """Return the first error that a check of the image finds; None for an intact one, or without a check."""
        done = self._done("check", "-q", "-f", format_name, image)
        if done.returncode in _CHECKED_WHOLE:
            return None
        first = next((line for line in done.stderr.splitlines() if line.strip()), "")
        return _complaint(first, done.returncode)

    def create_overlay(self, overlay: Path, backing: Path, backing_format: str) -> None:
        """Create an empty qcow2 overlay of a backing file."""
        self._run("create", "-q", "-f", "qcow2", "-b", backing, "-F", backing_format, overlay)

    def convert(self, image: Path, target: Path) -> None:
        """Convert an image of any format, which qemu-img detects, to a qcow2 image without a backing file."""
        self._run("convert", "-O", "qcow2", image, target)

    def resize(self, image: Path, format_name: str, size_bytes: int) -> None:
        self._run("resize", "-q", "-f", format_name, image, str(size_bytes))

    def rename_backing(self, image: Path, format_name: str, backing: str, backing_format: str | None) -> None:
        """Change the name of the backing file in the image. The content of neither is read."""
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
            errors="surrogateescape",
            env={**os.environ, "LC_ALL": "C"},
        )


# -U: other processes may have the image open. JSON output exists since qemu 1.3.
_INFO = ("info", "-U", "--output=json")


def _info(report: dict[str, Any]) -> ImageInfo:
    return ImageInfo(
        report["virtual-size"],
        report.get("full-backing-filename"),
        report.get("backing-filename"),
        report.get("backing-filename-format"),
    )


def _complaint(stderr: str, exit_code: int) -> str:
    return " ".join(stderr.split()).removeprefix("qemu-img: ") or f"qemu-img ended with {exit_code}"
