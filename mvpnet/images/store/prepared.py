"""Prepared images: a source image that was booted once, given packages, and sealed (image.prepare). What they are asked
for by.

A prepared image is found by what was *declared*: the source, what pins it, and what is done to it. So a job needs not
have the source. What was made of it, and from which bytes, stands in its image.json (`made_from`).
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

SCHEME = "prepared"
_VERSION = 1  # raise it when something about the preparation changes that changes what comes of it


def is_asked(image: Image) -> bool:
    """Whether the image is to be a prepared one."""
    return bool(image.prepare.packages or image.prepare.runcmd or image.prepare.script)


def source_of(image: Image) -> Image:
    """What the prepared image is made from."""
    return replace(image, prepare=Prepare())


def check_prepare(image: Image) -> None:
    """Raises ConfigError, naming the key, for a preparation that cannot be or would do nothing."""
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
    """What decides what comes of the preparation; `address` and `pinned` are of image.source, None for a built one.

    Raises ConfigError for a script that cannot be read.
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
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"image.prepare.script: cannot read {path}: {error}") from error
