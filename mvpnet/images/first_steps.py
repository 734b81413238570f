"""Tell what has to be built, fetched or prepared before a rank's guest can start, without doing it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mvpnet.images import build_cache, debian, tiny
from mvpnet.images.store.fetch import find
from mvpnet.images.store.prepared import is_asked
from mvpnet.images.store.request import ImageRequest, parse_request
from mvpnet.images.store.source_check import check_source
from mvpnet.paths import cache_base
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import ImageKind


class Work(Enum):
    build = "build"  # from packages: a job does so when it starts
    fetch = "fetch"  # into the image store: a job does so when it starts
    prepare = "prepare"  # by mvpnet image prepare: a job is refused until then


@dataclass(frozen=True)
class FirstStep:
    """One image that is not here yet."""

    work: Work
    what: str  # the image, in words
    files: tuple[Path, ...]  # of the guest that are not there before

    @property
    def is_done_by_job(self) -> bool:
        return self.work is not Work.prepare


def first_step(spec: RankSpec) -> FirstStep | None:
    """Return what comes before this rank's guest; None if its image is here, or is a file of the user's.

    Raises:
        ConfigError: The image section is invalid.
        ImageError: The source is a file that is no image.
    """
    cache = cache_base(spec.image.cache_dir)
    if want := parse_request(spec.image):
        return _from_store(want)
    if spec.image.kind is ImageKind.tiny:
        boot = planned_tiny(cache / "tiny")
        return None if boot.kernel.exists() else FirstStep(Work.build, "image=tiny", (boot.kernel, boot.initrd))
    if spec.image.kind is ImageKind.debian and not is_asked(spec.image):
        built = planned_debian(cache / "debian", spec.image.packages)
        files = (built.disk, built.kernel, built.initrd)
        is_here = build_cache.find(cache / "debian", built.digest) is not None
        return None if is_here else FirstStep(Work.build, "image=debian12-built", files)
    return None


def planned_tiny(cache: Path) -> tiny.TinyImage:
    """Return the tiny guest, the newest one that is built; before that, in a folder named after its recipe."""
    recipe = tiny.recipe_digest()
    folder = cache / recipe
    return tiny.newest(cache, recipe) or tiny.TinyImage(folder / "vmlinuz", folder / "initrd", recipe)


def planned_debian(cache: Path, packages: list[str]) -> debian.DebianImage:
    """Return the Debian image with these packages, built or not."""
    return debian.image_in(cache / debian.image_digest(packages))


def _from_store(want: ImageRequest) -> FirstStep | None:
    if find(want):
        return None
    if want.is_prepared:
        return FirstStep(Work.prepare, want.name, (want.planned_disk,))
    check_source(want)
    return FirstStep(Work.fetch, want.address, (want.planned_disk,))
