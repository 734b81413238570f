"""Images from the store, for a job: what each is, decided once for all hosts, and then had on each of them."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from mvpnet.images.store.fetch import ensure, find
from mvpnet.images.store.request import ImageRequest, check_architecture, parse_request
from mvpnet.spec import option_string
from mvpnet.spec.model import JobSpec, Override, RankSpec
from mvpnet.spec.rank_set import RankSet, runs_of
from mvpnet.spec.schema import Compression, Image, Prepare
from mvpnet.util.text import Say


def pin_images(job: JobSpec, say: Say) -> JobSpec:
    """The job with a digest for every image from the store, the same for all ranks; on rank 0, before any rank starts.

    Images of rank 0's own, and those of which nothing says yet what they are, are fetched here: what cannot be had is
    then found out once, and not by every rank. A job that has these pins already, as one run again, stays as it is.
    Raises ConfigError, HostError and ImageError.
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
    """The rank's spec with its image at hand: fetched if need be, and kept from being removed until `stack` closes.

    Raises ConfigError, HostError and ImageError.
    """
    want = parse_request(spec.image)
    if want is None:
        return planned(spec)
    image = ensure(want, say)
    try:
        stack.enter_context(want.store.in_use(image))
    except FileNotFoundError:  # pruned between the two
        image = ensure(want, say)
        stack.enter_context(want.store.in_use(image))
    return _with_disk(spec, image.disk, image.format)


def planned(spec: RankSpec) -> RankSpec:
    """The rank's spec with the path that its image has or will have in the store. Fetches nothing.

    Raises ConfigError, and ImageError for an image of another architecture.
    """
    check_architecture(spec.image, spec.qemu.binary)
    want = parse_request(spec.image)
    if want is None:
        return spec if spec.image.format is None else replace(spec, image=_with_format(spec.image, spec.image.format))
    image = find(want)
    if image:
        return _with_disk(spec, image.disk, image.format)
    # What is not here yet is planned as what vendors ship, unless its name says otherwise.
    guess = spec.image.format or ("raw" if ".raw" in want.name else "qcow2")
    return _with_disk(spec, want.store.folder(want.sha256 or "not-fetched-yet") / "disk", guess)


def _with_disk(spec: RankSpec, disk: Path, format_name: str) -> RankSpec:
    """The spec with a path that is written as a user would write it: {rank} and commas mean something there."""
    path = option_string.escaped(disk).replace("{", "{{").replace("}", "}}")
    image = replace(spec.image, source=None, sha256=None, checksums=None, compression=Compression.auto, locked=False)
    image = replace(image, prepare=Prepare())
    return replace(spec, image=replace(_with_format(image, format_name), path=path))


def _with_format(image: Image, format_name: str) -> Image:
    return replace(image, format=None, properties={**image.properties, "format": format_name})
