"""Resolve a job's images from the store: pinned once for all hosts, then provided on each host."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from mvpnet.images.store.fetch import ensure, find
from mvpnet.images.store.request import ImageRequest, check_architecture, parse_request
from mvpnet.spec.drive_text import drive_of_file
from mvpnet.spec.model import JobSpec, Override, RankSpec
from mvpnet.spec.rank_set import RankSet, runs_of
from mvpnet.spec.schema import Compression, Image, Prepare
from mvpnet.util.text import Say


def pin_images(job: JobSpec, say: Say) -> JobSpec:
    """Return the job with a digest for every image from the store, the same for all ranks.

    Call it on rank 0, before any rank starts. Images of rank 0, and those without a known digest, are fetched here, so
    that a failure is found once, and not by every rank. A job with these pins, such as a replayed one, is unchanged.

    Raises:
        ConfigError: The image section is invalid.
        HostError: The store cannot be written.
        ImageError: An image cannot be fetched.
    """
    ranks_of: dict[ImageRequest, list[int]] = defaultdict(list)
    for rank in range(job.world_size):
        spec = job.for_rank(rank)
        check_architecture(spec.image, spec.qemu.binary)
        if want := parse_request(spec.image):
            ranks_of[want].append(rank)
    pins = tuple(
        Override(
            name=f"image_{want.name}",
            on=_rank_set(ranks, job.world_size),
            changes={"image": _pin(want, _decided(want, ranks, say))},
        )
        for want, ranks in ranks_of.items()
    )
    return replace(job, overrides=(*(one for one in job.overrides if one not in pins), *pins))


def _pin(want: ImageRequest, sha256: str) -> dict[str, Any]:
    return {"prepare": {"sha256": sha256}} if want.is_prepared else {"sha256": sha256}


def _decided(want: ImageRequest, ranks: list[int], say: Say) -> str:
    return want.sha256 if want.sha256 and 0 not in ranks else ensure(want, say).sha256


def _rank_set(ranks: list[int], world_size: int) -> RankSet:
    if len(ranks) == world_size:
        return RankSet.parse("all")
    return RankSet.parse(",".join(f"{first}-{last}" for first, last in runs_of(ranks)))


def provide_image(spec: RankSpec, stack: ExitStack, say: Say) -> RankSpec:
    """Return the rank's spec with the path of its image, which is fetched if needed.

    Args:
        spec: The rank's spec.
        stack: Keeps the image from being removed until it closes.
        say: Called with a line of text at each step.

    Raises:
        ConfigError: The image section is invalid.
        HostError: The store cannot be written.
        ImageError: The image cannot be fetched.
    """
    want = parse_request(spec.image)
    if want is None:
        return planned(spec)
    image = ensure(want, say)
    try:
        stack.enter_context(want.store.in_use(image))
    except FileNotFoundError:  # removed between the two calls
        image = ensure(want, say)
        stack.enter_context(want.store.in_use(image))
    return _with_disk(spec, image.disk, image.format)


def planned(spec: RankSpec) -> RankSpec:
    """Return the rank's spec with the present or future path of its image in the store, without fetching it.

    Raises:
        ConfigError: The image section is invalid.
        ImageError: The image is of another architecture.
    """
    check_architecture(spec.image, spec.qemu.binary)
    want = parse_request(spec.image)
    if want is None:
        return spec if spec.image.format is None else replace(spec, image=_with_format(spec.image, spec.image.format))
    image = find(want)
    if image:
        return _with_disk(spec, image.disk, image.format)
    # A missing image is assumed to have the format that vendors ship, unless its name says otherwise.
    guess = spec.image.format or ("raw" if ".raw" in want.name else "qcow2")
    return _with_disk(spec, want.planned_disk, guess)


def _with_disk(spec: RankSpec, disk: Path, format_name: str) -> RankSpec:
    """Return the spec with a path as a user would write it, as {rank} and commas have a meaning there."""
    path = drive_of_file(disk)
    image = replace(spec.image, source=None, sha256=None, checksums=None, compression=Compression.auto, locked=False)
    image = replace(image, prepare=Prepare())
    return replace(spec, image=replace(_with_format(image, format_name), path=path))


def _with_format(image: Image, format_name: str) -> Image:
    return replace(image, format=None, properties={**image.properties, "format": format_name})
