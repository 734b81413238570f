"""Describe prepared images (image.prepare): a source image that was booted once, given packages, and generalized.

A prepared image is found by its declaration: the source, its pin, and the changes to it. So a job does not need the
source. Its image.json (`made_from`) records the source's bytes and the changes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mvpnet.errors import ConfigError
from mvpnet.images import debian
from mvpnet.spec.schema import Image, ImageKind, Prepare
from mvpnet.spec.script_text import HEAD_BYTES, UNIX_LINES_HINT, first_line_fault

SCHEME = "prepared"
_VERSION = 1  # increment it when the preparation changes such that its result differs


def is_asked(image: Image) -> bool:
    """Return whether the configuration declares a prepared image."""
    return bool(image.prepare.packages or image.prepare.runcmd or image.prepare.script)


def source_of(image: Image) -> Image:
    """Return the image that the prepared image is made from."""
    return replace(image, prepare=Prepare())


def check_prepare(image: Image) -> None:
    """Refuse an invalid preparation, or one without effect, with a ConfigError that names the key."""
    if not is_asked(image):
        given = {name for name, value in asdict(image.prepare).items() if value != getattr(Prepare(), name)}
        if given:
            raise ConfigError(
                f"image.prepare.{min(given)}: nothing is prepared",
                hint="image.prepare.packages, runcmd or script say what is done to the image",
            )
        return
    if image.kind is ImageKind.tiny:
        raise ConfigError("image.prepare: the tiny guest has no cloud-init", hint="add image=debian12-built or another")
    if image.path is not None or (image.source is None and image.kind is not ImageKind.debian):
        raise ConfigError(
            "image.prepare: an image is prepared from image.source, or from debian12-built",
            hint="image.source=PATH in place of image.path=PATH puts a file of yours into the store",
        )


def declared(image: Image, address: str | None, pinned: str | None) -> dict[str, Any]:
    """Return the inputs that determine the result of the preparation.

    Args:
        image: The image section.
        address: URL of image.source; None for a built image.
        pinned: Digest of image.source; None for a built image.

    Raises:
        ConfigError: A script cannot be read.
    """
    asked = image.prepare
    built = debian.image_digest(image.packages) if image.kind is ImageKind.debian else None
    return {
        "version": _VERSION,
        "source": address,
        "pinned": pinned,
        "built": built,
        "packages": asked.packages,
        "runcmd": asked.runcmd,
        "script": _script(asked.script),
        "user_data": asked.user_data,
        "size": asked.size,
    }


def key_of(what: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def _script(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        content = Path(path).read_bytes()
        if fault := first_line_fault(content[:HEAD_BYTES]):
            raise ConfigError(f"image.prepare.script: {path} {fault}", hint=UNIX_LINES_HINT)
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"image.prepare.script: cannot read {path}: {error}") from error
