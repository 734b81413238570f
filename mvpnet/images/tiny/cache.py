"""Cache built images of the tiny guest, in folders named after their inputs.

An image is reused as long as the recipe is the same, without asking apt. So a job starts the same guest until the user
wants newer packages (``refresh``), and starts without a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mvpnet.images import build_cache
from mvpnet.images.tiny import packages
from mvpnet.images.tiny.build import Tree, initrd
from mvpnet.images.tiny.errors import TinyBuildError
from mvpnet.images.tiny.recipe import image_digest, recipe_digest
from mvpnet.util.text import Say


@dataclass(frozen=True)
class TinyImage:
    """A built guest; ``digest`` covers its recipe and the versions of its packages."""

    kernel: Path
    initrd: Path
    digest: str


def ensure(cache_dir: Path, say: Say, *, refresh: bool = False) -> TinyImage:
    """Return the tiny guest's image, built first if the cache has none of this recipe.

    Any number of processes may call this at once.

    Args:
        cache_dir: Folder of the cache.
        say: Called with a line of text at each step of a build.
        refresh: Ask apt for newer versions of the packages, and build a new image if there are any.

    Raises:
        TinyBuildError: It cannot be built. Names what is missing and an alternative.
    """
    recipe = recipe_digest()
    if not refresh and (image := newest(cache_dir, recipe)):
        return image
    try:
        with build_cache.building(cache_dir, "tiny", say) as work:
            if not refresh and (image := newest(cache_dir, recipe)):
                return image
            return _resolve_and_build(cache_dir, work, recipe, say)
    except OSError as error:
        raise TinyBuildError(f"{error} (the cache folder is {cache_dir}; a build needs 1 GB there).") from error


def newest(cache_dir: Path, recipe: str) -> TinyImage | None:
    """Return the latest image of this recipe."""
    builds = build_cache.whole_builds(cache_dir)
    found = [(build["built_at"], folder) for folder, build in builds if build["recipe"] == recipe]
    return _image_in(max(found)[1]) if found else None


def _image_in(folder: Path) -> TinyImage:
    """Return the image with absolute paths, as qemu may run in another folder."""
    return TinyImage(folder.absolute() / "vmlinuz", folder.absolute() / "initrd", folder.name)


def _resolve_and_build(cache_dir: Path, work: Path, recipe: str, say: Say) -> TinyImage:
    packages.check_host()
    say("tiny: looking up the guest's packages")
    apt, wanted = packages.find(work / "apt", say)
    if folder := build_cache.find(cache_dir, image_digest(recipe, packages.versions(wanted))):
        return _image_in(folder)
    fetched = packages.fetch(apt, wanted, work / "debs", say)
    say("tiny: unpacking")
    packages.unpack(work / "debs", work / "tree")
    say("tiny: packing the initrd")
    return _pack(cache_dir, work, recipe, packages.versions(fetched), say)


def _pack(cache_dir: Path, work: Path, recipe: str, versions: dict[str, str], say: Say) -> TinyImage:
    """Build the image from the unpacked packages in the work folder, and put it in place."""
    digest = image_digest(recipe, versions)
    new, tree = work / digest, Tree(work / "tree")
    new.mkdir()
    (new / "vmlinuz").write_bytes(tree.kernel().read_bytes())
    (new / "initrd").write_bytes(initrd(tree, build_id=digest))
    facts = {"recipe": recipe, "packages": versions}
    return _image_in(build_cache.put_in_place(new, cache_dir / digest, facts, "tiny", say))
