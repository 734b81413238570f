"""The images that a job's overrides ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mvpnet.config import compose
from mvpnet.errors import ConfigError
from mvpnet.images.store.prepared import source_of
from mvpnet.images.store.request import ImageRequest, check_architecture, parse_request
from mvpnet.spec.model import JobSpec
from mvpnet.spec.plain import changed
from mvpnet.spec.schema import Image, ImageKind


def wanted_images(
    overrides: tuple[str, ...], config_dir: str | None, *, under_lock: bool = True, source: bool = False
) -> Iterator[tuple[Image, ImageRequest | None]]:
    """The images of the jobs that these overrides compose, each with what is asked of the store; None for a built one.

    With `source`, what a prepared image is made from is meant in its place.
    Raises ConfigError, also for an image that is used where it is.
    """
    seen: set[ImageRequest | None] = set()
    for composition in compositions(overrides):
        job = composed(composition, config_dir)
        for config in (job.config, *(changed(job.config, override.changes) for override in job.overrides)):
            one = config.image if under_lock else replace(config.image, locked=False)
            one = source_of(one) if source else one
            check_architecture(one, config.qemu.binary)
            want = parse_request(one, under_lock=under_lock)
            if want is None and one.kind not in (ImageKind.tiny, ImageKind.debian):
                raise ConfigError("image.path: is used where it is: there is nothing to fetch")
            if want is None or want not in seen:
                seen.add(want)
                yield one, want


def composed(composition: list[str], config_dir: str | None) -> JobSpec:
    """Compose a job for its images alone, whatever number of ranks it is made for. Raises ConfigError."""
    return compose.compose([*composition, "job.ranks=null"], 1, config_dir)


def compositions(overrides: tuple[str, ...]) -> list[list[str]]:
    """A composition for each image that is named: image=a,b and image=a image=b are two."""
    names = [name for word in overrides if word.startswith("image=") for name in word[len("image=") :].split(",")]
    others = [word for word in overrides if not word.startswith("image=")]
    return [[f"image={name}", *others] for name in names] or [others]
