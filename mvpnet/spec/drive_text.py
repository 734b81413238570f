"""Parse and write drives as text: qemu's -drive options with templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter

from mvpnet.errors import ConfigError
from mvpnet.spec import option_string
from mvpnet.spec.model import RankSpec
from mvpnet.spec.sizes import parse_size

MVPCTL_FLAGS = {
    "c": "copy the image to image.copy_dir",
    "j": "the job's name in the copy's name",
    "r": "the rank in the copy's name",
    "d": "remove the copy at the end",
    "J": "the job's name in the image's own name",
    "R": "the rank in the image's own name",
    "D": "remove the image at the end",
    "p": "write-protect (read-only=on)",
    "s": "snapshot mode (snapshot=on)",
}
_PROPERTY = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)=(.*)", re.DOTALL)
# What the text of a -drive option may begin with: qemu(1), "-drive", and its blockdev properties, which have a dot.
_OF_DRIVES = re.compile(
    r"file|if|bus|unit|index|media|snapshot|cache|aio|format|driver|node-name|id|serial|[rw]error|read-?only|"
    r"auto-read-only|copy-on-read|discard|detect-zeroes|(bps|iops)(_[a-z_]+)?|.+\..+"
)
_NAMES_A_FILE = re.compile(r"file(\..+)?|driver")
_FORMAT = re.compile(r"[<>^]?0?\d{0,2}[dsxXo]?")  # of a rank; job is a text


@dataclass(frozen=True)
class DriveText:
    """A parsed drive. Without a path, its whole text is passed to qemu unchanged."""

    path: str | None
    properties: Mapping[str, str]
    mvpctl: str | None = None


def parse_drive(text: str, key: str) -> DriveText:
    """Parse the text of a drive.

    Raises:
        ConfigError: It is neither a path nor property=value. Names `key`.
    """
    first, *rest = option_string.split(text)
    begins = _PROPERTY.fullmatch(first)
    passed_through = begins is not None and _OF_DRIVES.fullmatch(begins[1]) is not None
    properties: dict[str, str] = {}
    for part in [first, *rest] if passed_through else rest:
        match = _PROPERTY.fullmatch(part)
        if match is None:
            raise ConfigError(
                f"{key}: {part!r} in {text!r} is no property=value", hint="a comma in a path or value is doubled: a,,b"
            )
        if match[1] in properties:
            raise ConfigError(f"{key}: {match[1]} is given twice in {text!r}")
        properties[match[1]] = match[2]
    mvpctl = properties.pop("mvpctl", None)
    if passed_through:
        if mvpctl is not None:
            raise ConfigError(
                f"{key}: mvpctl cannot be used in {text!r}, which is passed to qemu as it is",
                hint="write PATH,mvpctl=… in place of file=PATH,mvpctl=…",
            )
        if "media" not in properties and not any(map(_NAMES_A_FILE.fullmatch, properties)):
            raise ConfigError(
                f"{key}: {text!r} are properties of a drive, and name no file", hint=f"./{text}, or file=…"
            )
        return DriveText(None, properties)
    if not first:
        raise ConfigError(f"{key}: {text!r} names no image")
    if "file" in properties:
        raise ConfigError(f"{key}: {text!r} names an image twice, by its path and by file=")
    return DriveText(first, properties, mvpctl)


def drive_text(drive: DriveText) -> str:
    """Return the text of a drive, such that `parse_drive` reads it back."""
    flags = [] if drive.mvpctl is None else [f"mvpctl={drive.mvpctl}"]
    path = [] if drive.path is None else [drive.path]
    return option_string.joined([*path, *(f"{name}={value}" for name, value in drive.properties.items()), *flags])


def absolute_drive(text: str, key: str, located: Callable[[str, str], str]) -> str:
    """Return the drive's text with its path, if any, made absolute.

    Args:
        text: The drive as written.
        key: What set it.
        located: Returns the absolute path for a path as written and its key.

    Raises:
        ConfigError: It is neither a path nor property=value, or there is no such path.
    """
    drive = parse_drive(text, key)
    if drive.path is None:
        return text
    return drive_text(replace(drive, path=located(drive.path, key)))


def drive_of_file(path: Path) -> str:
    """Return the drive that a user would write for this file: {rank} and commas have a meaning there."""
    return option_string.escaped(path).replace("{", "{{").replace("}", "}}")


def expand(text: str, spec: RankSpec, key: str) -> str:
    """Expand {rank} and {job} in a text; {rank:04d} and other formats of a number work too.

    Raises:
        ConfigError: The text has any other name in braces. Names `key`.
    """
    try:
        for _, name, form, conversion in Formatter().parse(text):
            if name is not None and (name not in ("rank", "job") or conversion or "{" in (form or "")):
                raise ConfigError(
                    f"{key}: {{{name}}} in {text!r} is not known", hint="{rank} and {job} are; a brace is written {{"
                )
            if form and not _FORMAT.fullmatch(form):
                raise ConfigError(f"{key}: {{{name}:{form}}} is no way to write a number", hint="as in {rank:04d}")
        return text.format(rank=spec.rank, job=spec.job_name)
    except ValueError as error:
        raise ConfigError(f"{key}: {text!r}: {error}", hint="as in {rank}, {rank:04d}, {job}") from error


def growth(size: str) -> tuple[int, bool]:
    """Parse a size for qemu-img resize: bytes, and whether they are added ("+3G"). Raises ConfigError."""
    if size.startswith("-"):
        raise ConfigError(f"image.size: {size!r} would shrink the disk, which loses data; it can only grow")
    return parse_size(size.removeprefix("+"), "image.size"), size.startswith("+")
