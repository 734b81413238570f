"""Where built images are kept: one folder an image, named after what it was made of.

    CACHE/<digest>/{vmlinuz,initrd,build.json}    whole images, put in place by one rename
    CACHE/.build-*/                               a build under way, or what a killed one left: the next one removes it
    CACHE/.lock                                   held while building, so that ranks that start at once build once

An image is used again as long as the recipe is the same, without asking apt: a job starts the same guest until the
user wants newer packages (``refresh``), and starts without a network.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvpnet.images.tiny import packages
from mvpnet.images.tiny.build import Tree, initrd
from mvpnet.images.tiny.errors import TinyBuildError
from mvpnet.images.tiny.packages import Package
from mvpnet.images.tiny.recipe import image_digest, recipe_digest
from mvpnet.util.text import Say

BUILD_PREFIX = ".build-"


@dataclass(frozen=True)
class TinyImage:
    """A built guest; ``digest`` stands for its recipe and the versions of its packages."""

    kernel: Path
    initrd: Path
    digest: str


def ensure(cache_dir: Path, say: Say, *, refresh: bool = False) -> TinyImage:
    """The tiny guest's image, built first if the cache has none of this recipe.

    ``say`` is called with a line of text at each step of a build. ``refresh`` asks apt whether any of the packages
    has a newer version, and builds a new image if so. Any number of processes may call this at once.
    Raises TinyBuildError, whose message says what is missing and what to use instead.
    """
    recipe = recipe_digest()
    if not refresh and (image := newest(cache_dir, recipe)):
        return image
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with locked(cache_dir, say):
            if not refresh and (image := newest(cache_dir, recipe)):
                return image
            remove_leftovers(cache_dir)
            with tempfile.TemporaryDirectory(prefix=BUILD_PREFIX, dir=cache_dir.absolute()) as work:
                return _resolve_and_build(cache_dir, Path(work), recipe, say)
    except OSError as error:
        raise TinyBuildError(f"{error} (the cache folder is {cache_dir}; a build needs 1 GB there).") from error


def newest(cache_dir: Path, recipe: str) -> TinyImage | None:
    """The image of this recipe that was built last."""
    builds = [(build["built_at"], folder) for folder, build in whole_images(cache_dir) if build["recipe"] == recipe]
    return image_in(max(builds)[1]) if builds else None


def whole_images(cache_dir: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders of the images whose files have the sizes that they were built with, and their build.json."""
    for record in cache_dir.glob("[!.]*/build.json"):
        try:
            build = json.loads(record.read_text())
            sizes = {name: (record.parent / name).stat().st_size for name in build["size_bytes"]}
        except (OSError, ValueError, LookupError, TypeError):
            continue
        if sizes == build["size_bytes"]:
            yield record.parent, build


def image_in(folder: Path) -> TinyImage:
    """The image, by absolute paths, as qemu may run in another folder."""
    return TinyImage(folder.absolute() / "vmlinuz", folder.absolute() / "initrd", folder.name)


@contextmanager
def locked(cache_dir: Path, say: Say) -> Iterator[None]:
    """Hold the cache's lock. The kernel lets it go with the process that holds it, however that ends."""
    with (cache_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("tiny: another process is building the image; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove_leftovers(cache_dir: Path) -> None:
    """Remove what killed builds left. Only for the holder of the lock."""
    for folder in cache_dir.glob(f"{BUILD_PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _resolve_and_build(cache_dir: Path, work: Path, recipe: str, say: Say) -> TinyImage:
    packages.check_host()
    say("tiny: looking up the guest's packages")
    apt, wanted = packages.find(work / "apt", say)
    if image := _whole_image(cache_dir, recipe, wanted):
        return image
    fetched = packages.fetch(apt, wanted, work / "debs", say)
    say("tiny: unpacking")
    packages.unpack(work / "debs", work / "tree")
    say("tiny: packing the initrd")
    return _put_in_place(cache_dir, work, recipe, fetched, say)


def _whole_image(cache_dir: Path, recipe: str, wanted: list[Package]) -> TinyImage | None:
    folder = cache_dir / image_digest(recipe, packages.versions(wanted))
    return image_in(folder) if folder in dict(whole_images(cache_dir)) else None


def _put_in_place(cache_dir: Path, work: Path, recipe: str, used: list[Package], say: Say) -> TinyImage:
    """Make the image in the work folder, then give it its name: it appears with all its files or not at all."""
    digest = image_digest(recipe, packages.versions(used))
    new, tree = work / digest, Tree(work / "tree")
    new.mkdir()
    (new / "vmlinuz").write_bytes(tree.kernel().read_bytes())
    (new / "initrd").write_bytes(initrd(tree, build_id=digest))
    size_bytes = {path.name: path.stat().st_size for path in new.iterdir()}
    build = {
        "recipe": recipe,
        "built_at": time.time(),
        "size_bytes": size_bytes,
        "packages": packages.versions(used),
    }
    (new / "build.json").write_text(json.dumps(build, indent=1))
    shutil.rmtree(cache_dir / digest, ignore_errors=True)  # one that is not whole, or no longer
    new.rename(cache_dir / digest)
    say(f"tiny: built {cache_dir / digest} ({sum(size_bytes.values()) / 1e6:.0f} MB)")
    return image_in(cache_dir / digest)
