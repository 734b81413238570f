"""The verbs that take the overrides of a job: `mvpnet image fetch`, `prepare`, `lock`, `info`."""

from __future__ import annotations

from pathlib import Path

import click

from mvpnet.cli.image.common import (
    as_json_option,
    cache_dir_option,
    of_a_job,
    print_entries,
    say,
    store_in,
)
from mvpnet.cli.image.wanted import composed, compositions, wanted_images
from mvpnet.errors import ConfigError
from mvpnet.images import debian, tiny
from mvpnet.images.disk_image import check_readable, image_format
from mvpnet.images.file_kind import Family, kind_of_file
from mvpnet.images.prepare import prepare as prepared
from mvpnet.images.store.fetch import ensure, find
from mvpnet.images.store.lock_file import Pin, read_lock, write_lock
from mvpnet.images.store.prepared import is_asked
from mvpnet.images.store.request import ImageRequest, lock_path
from mvpnet.images.store.unpack import compression_of
from mvpnet.paths import cache_base, host_path
from mvpnet.qemu.img import QemuImg
from mvpnet.spec.plain import changed
from mvpnet.spec.schema import Compression, Image, ImageKind
from mvpnet.util.text import timestamp


@click.command()
@of_a_job
@click.option("--refresh", is_flag=True, help="ask again for what is here already: a vendor's URL may have moved on")
@as_json_option
def fetch(overrides: tuple[str, ...], config_dir: str | None, refresh: bool, as_json: bool) -> None:
    """Have the images of a job in the store, as in: mvpnet image fetch image=centos9

    With image=tiny or image=debian12-built, build that. Several may be named: image=centos9,debian12.
    """
    had = []
    for one, want in wanted_images(overrides, config_dir, source=True):
        if want is None:
            had.append(_build(one))
        else:
            had.append(ensure(want, say, refresh=refresh).as_dict())
    print_entries(had, as_json, lambda entry: f"{entry['sha256'] or ''}  {entry['folder']}".strip())


@click.command()
@of_a_job
@click.option("--refresh", is_flag=True, help="make it anew, from what the source gives now")
@as_json_option
def prepare(overrides: tuple[str, ...], config_dir: str | None, refresh: bool, as_json: bool) -> None:
    """Make the images that a job wants prepared, as in: mvpnet image prepare recipe=ubuntu2404-prepared

    One guest is booted from the source, given image.prepare's packages, runcmd and script, and sealed; the image is
    kept in the store. What was made already of the same is not made again.
    """
    made = {}
    for composition in compositions(overrides):
        job = composed(composition, config_dir)
        for config in (job.config, *(changed(job.config, override.changes) for override in job.overrides)):
            if is_asked(config.image):
                one = prepared(config, say, refresh=refresh)
                made[one.sha256] = one.as_dict()
    if not made:
        raise ConfigError(
            "image.prepare: nothing is asked for",
            hint="image.prepare.packages, runcmd or script say what is done to the image; recipes may too",
        )
    print_entries(list(made.values()), as_json, lambda entry: f"{entry['sha256']}  {entry['folder']}")


@click.command()
@of_a_job
@click.option("--update", is_flag=True, help="pin what the URL gives now, in place of what it gave")
@as_json_option
def lock(overrides: tuple[str, ...], config_dir: str | None, update: bool, as_json: bool) -> None:
    """Pin the images of a job: write URL and digest to the lock file, fetching what is not here.

    From then on a job that uses the URL takes this image or none; image.locked=true refuses whatever is not pinned.
    """
    locked = []
    for one, want in wanted_images(overrides, config_dir, under_lock=False, source=True):
        if want is None:
            raise ConfigError("image.source: there is nothing to lock: the tiny guest is built here, not fetched")
        path = lock_path(one)
        pins = read_lock(path)
        if update or want.address not in pins:
            stored = ensure(want, say, refresh=update)
            pins[want.address] = Pin(stored.sha256, stored.size_bytes, timestamp())
            write_lock(path, pins)
        locked.append({"lock_file": str(path), "url": want.address, **vars(pins[want.address])})
    print_entries(locked, as_json, lambda entry: f"{entry['sha256']}  {entry['url']}  ({entry['lock_file']})")


@click.command()
@click.argument("what", nargs=-1, metavar="[PATH | DIGEST | OVERRIDES...]")
@click.option("--config-dir", metavar="DIR", help="more config groups, as for a job")
@cache_dir_option
@as_json_option
def info(what: tuple[str, ...], config_dir: str | None, cache_dir: str | None, as_json: bool) -> None:
    """Tell of a file, of an image in the store, or of what a job would take from the store (image=centos9)."""
    facts: list[dict[str, object]]
    if len(what) == 1 and "=" not in what[0]:
        path = host_path(what[0], "PATH")
        facts = [_file_facts(path) if path.exists() else store_in(cache_dir).by_prefix(what[0]).as_dict()]
    else:
        facts = [_job_facts(one, want) for one, want in wanted_images(what, config_dir)]
    print_entries(
        facts, as_json, lambda entry: "\n".join(f"{k}: {v}" for k, v in entry.items() if v is not None) + "\n"
    )


def _build(one: Image) -> dict[str, object]:
    cache = cache_base(one.cache_dir)
    if one.kind is ImageKind.debian:
        kernel = debian.ensure(cache / "debian", one.packages, say).kernel
    else:
        kernel = tiny.ensure(cache / "tiny", say).kernel
    return {"sha256": None, "folder": str(kernel.parent)}


def _job_facts(one: Image, want: ImageRequest | None) -> dict[str, object]:
    if want is None:
        return {"kind": one.kind.name}
    stored = find(want)
    asked = {"source": want.address, "pinned_by": want.pinned_by if want.sha256 else None, "sha256": want.sha256}
    return {**asked, "in_store": stored is not None, **(stored.as_dict() if stored else {})}


def _file_facts(path: Path) -> dict[str, object]:
    check_readable(path, "PATH")
    kind = kind_of_file(path)
    facts: dict[str, object] = {"path": str(path.absolute()), "bytes": path.stat().st_size, "is": kind.words}
    if (packed := compression_of(path)) is not Compression.none:
        return {**facts, "compression": packed.name}
    if kind.family not in (Family.disk, Family.file_system, Family.unknown):
        return {**facts, "format": None, "what_to_do": kind.todo.format(path=path) if kind.todo else None}
    format_name = image_format(path, "PATH")
    told = QemuImg().info(path, format_name)
    return {
        **facts,
        "format": format_name,
        "virtual_bytes": told.virtual_bytes,
        "backing": told.backing,
    }
