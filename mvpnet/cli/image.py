"""The verbs of `mvpnet image`: what the image store does, by hand.

`fetch`, `lock` and `info` take the overrides that a job takes (`image=centos9 image.cache_dir=/shared`); the others
look at the store alone. What a person reads goes to standard error, results to standard output, as JSON on request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mvpnet.errors import ConfigError, ImageError
from mvpnet.paths import cache_base
from mvpnet.util.files import size_on_disk
from mvpnet.util.text import size_text

if TYPE_CHECKING:
    from mvpnet.images.store.request import ImageRequest
    from mvpnet.images.store.store import Store, StoredImage
    from mvpnet.spec.schema import Image

Command = TypeVar("Command", bound=Callable[..., Any])


def _options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_as_json = click.option("--json", "as_json", is_flag=True, help="print JSON")
_cache_dir = click.option("--cache-dir", metavar="DIR", help="as image.cache_dir; default ~/.cache/mvpnet")
_of_a_job = _options(
    click.option("--config-dir", metavar="DIR", help="more config groups, as for a job"),
    click.argument("overrides", nargs=-1),
)


@click.group()
def image() -> None:
    """The image store: fetch, pin, look at and remove disk images."""


@image.command()
@_of_a_job
@click.option("--refresh", is_flag=True, help="ask again for what is here already: a vendor's URL may have moved on")
@_as_json
def fetch(overrides: tuple[str, ...], config_dir: str | None, refresh: bool, as_json: bool) -> None:
    """Have the images of a job in the store, as in: mvpnet image fetch image=centos9

    With image=tiny or image=debian12-built, build that. Several may be named: image=centos9,debian12.
    """
    from mvpnet.images.store.fetch import ensure

    had = []
    for one, want in _wanted(overrides, config_dir, source=True):
        if want is None:
            had.append(_build(one))
        else:
            had.append(ensure(want, _say, refresh=refresh).as_dict())
    _print(had, as_json, lambda entry: f"{entry['sha256'] or ''}  {entry['folder']}".strip())


@image.command()
@_of_a_job
@click.option("--refresh", is_flag=True, help="make it anew, from what the source gives now")
@_as_json
def prepare(overrides: tuple[str, ...], config_dir: str | None, refresh: bool, as_json: bool) -> None:
    """Make the images that a job wants prepared, as in: mvpnet image prepare recipe=ubuntu2404-prepared

    One guest is booted from the source, given image.prepare's packages, runcmd and script, and sealed; the image is
    kept in the store. What was made already of the same is not made again.
    """
    from mvpnet.config import compose
    from mvpnet.images.prepare import prepare as prepared
    from mvpnet.images.store.prepared import is_asked
    from mvpnet.spec.plain import changed

    made = {}
    for composition in _compositions(overrides):
        job = compose.compose(composition, 1, config_dir)
        for config in (job.config, *(changed(job.config, override.changes) for override in job.overrides)):
            if is_asked(config.image):
                one = prepared(config, _say, refresh=refresh)
                made[one.sha256] = one.as_dict()
    if not made:
        raise ConfigError(
            "image.prepare: nothing is asked for",
            hint="image.prepare.packages, runcmd or script say what is done to the image; recipes may too",
        )
    _print(list(made.values()), as_json, lambda entry: f"{entry['sha256']}  {entry['folder']}")


@image.command()
@_of_a_job
@click.option("--update", is_flag=True, help="pin what the URL gives now, in place of what it gave")
@_as_json
def lock(overrides: tuple[str, ...], config_dir: str | None, update: bool, as_json: bool) -> None:
    """Pin the images of a job: write URL and digest to the lock file, fetching what is not here.

    From then on a job that uses the URL takes this image or none; image.locked=true refuses whatever is not pinned.
    """
    from mvpnet.images.store.fetch import ensure
    from mvpnet.images.store.lock_file import Pin, read_lock, write_lock
    from mvpnet.images.store.request import lock_path
    from mvpnet.util.text import timestamp

    locked = []
    for one, want in _wanted(overrides, config_dir, under_lock=False, source=True):
        if want is None:
            raise ConfigError("image.source: there is nothing to lock: the tiny guest is built here, not fetched")
        path = lock_path(one)
        pins = read_lock(path)
        if update or want.address not in pins:
            stored = ensure(want, _say, refresh=update)
            pins[want.address] = Pin(stored.sha256, stored.size_bytes, timestamp())
            write_lock(path, pins)
        locked.append({"lock_file": str(path), "url": want.address, **vars(pins[want.address])})
    _print(locked, as_json, lambda entry: f"{entry['sha256']}  {entry['url']}  ({entry['lock_file']})")


@image.command(name="list")
@_cache_dir
@_as_json
def list_(cache_dir: str | None, as_json: bool) -> None:
    """List the images in the store, and what broken and refused fetches left."""
    store = _store(cache_dir)
    images = store.images()
    leftovers = {
        "quarantine": store.quarantined(),
        "unfinished": store.transfers.unfinished(),
        "broken": store.broken(),
    }
    if as_json:
        listed = {name: [str(path) for path in paths] for name, paths in leftovers.items()}
        click.echo(json.dumps({"images": [one.as_dict() for one in images], **listed}, indent=1))
        return
    if images:
        click.echo(f"{'DIGEST':12}  {'FORMAT':6}  {'DISK':>10}  {'SPACE':>10}  {'FETCHED':16}  SOURCE")
    for one in images:
        space = size_on_disk(one.disk)
        disk = "?" if one.virtual_bytes is None else size_text(one.virtual_bytes)
        columns = f"{one.sha256[:12]}  {one.format:6}  {disk:>10}  {size_text(space):>10}"
        click.echo(f"{columns}  {one.fetched_at[:16].replace('T', ' ')}  {one.source}")
    for name, paths in leftovers.items():
        if paths:
            click.echo(f"{name}: {len(paths)} in {paths[0].parent}; mvpnet image prune removes them", err=True)
    if not images:
        click.echo(f"there is no image in {store.root}", err=True)


@image.command()
@click.argument("digests", nargs=-1, metavar="[DIGEST]...")
@_cache_dir
@_as_json
def verify(digests: tuple[str, ...], cache_dir: str | None, as_json: bool) -> int:
    """Read images again, all or those whose digests begin so, and compare them with what was put in.

    One that changed is put aside, so that it is fetched again. The exit code is then 4.
    """
    store = _store(cache_dir)
    results: list[dict[str, Any]] = [_verified(store, one) for one in _chosen(store, digests)]
    results += [_verified_broken(store, folder) for folder in (store.broken() if not digests else [])]
    _print(results, as_json, lambda entry: f"{entry['sha256']}  {entry['result']}")
    return ImageError.exit_code if any(not entry["intact"] for entry in results) else 0


@image.command()
@click.argument("digests", nargs=-1, metavar="[DIGEST]...")
@click.option("--all", "everything", is_flag=True, help="every image that no job is using")
@click.option("--dry-run", is_flag=True, help="say what would go, and leave it")
@_cache_dir
@_as_json
def prune(digests: tuple[str, ...], everything: bool, dry_run: bool, cache_dir: str | None, as_json: bool) -> None:
    """Remove images, by their digests' beginnings; without any, what nothing needs.

    That is: what broken and refused fetches left, and images that no URL gave as its last and ./mvpnet-images.lock
    does not pin. An image that a job is using, or that another image is an overlay of, stays.
    """
    store = _store(cache_dir)
    removed: list[dict[str, Any]] = []
    for path, remove in _doomed(store, digests, everything):
        space = size_on_disk(path)
        if dry_run or remove():
            removed.append({"path": str(path), "bytes": space})
        else:
            _say(f"in use, and left: {path}")
    _print(removed, as_json, lambda entry: f"{'would remove' if dry_run else 'removed'} {entry['path']}")
    _say(f"{size_text(sum(entry['bytes'] for entry in removed))} {'would be ' if dry_run else ''}freed")


@image.command(name="import")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--sha256", metavar="DIGEST", help="refuse any other file")
@click.option("--format", "format_name", metavar="FORMAT", help="as image.format")
@_cache_dir
@_as_json
def import_(path: Path, sha256: str | None, format_name: str | None, cache_dir: str | None, as_json: bool) -> None:
    """Put a disk image of yours into the store, unpacked and checked; it is then had by its digest or its path."""
    from mvpnet.images.store.fetch import ensure
    from mvpnet.images.store.request import parse_request
    from mvpnet.spec.schema import Image, ImageKind

    asked = Image(
        kind=ImageKind.file, source=str(path.absolute()), sha256=sha256, format=format_name, cache_dir=cache_dir
    )
    want = parse_request(asked, under_lock=False)
    assert want
    _print([ensure(want, _say).as_dict()], as_json, lambda entry: f"{entry['sha256']}  {entry['folder']}")


@image.command(context_settings={"ignore_unknown_options": True})  # -3G is no option, and refused as a size
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("size")
@_cache_dir
def resize(path: Path, size: str, cache_dir: str | None) -> None:
    """Grow a disk image of yours, in place: to 20G, or by +3G.

    The store's own images stay as they are: image.size grows a job's overlay.
    """
    from mvpnet.images.disk_image import image_format
    from mvpnet.qemu.img import QemuImg
    from mvpnet.spec.drive_text import growth

    root = _store(cache_dir).root
    if path.resolve().is_relative_to(root.resolve()):
        raise ImageError(f"{path} is in the image store, where nothing is changed", hint=f"image.size={size} for a job")
    bytes_, added = growth(size)
    format_name = image_format(path, "PATH")
    now_bytes = QemuImg().info(path, format_name).virtual_bytes
    wanted_bytes = now_bytes + bytes_ if added else bytes_
    if wanted_bytes < now_bytes:
        raise ImageError(f"{path} has {now_bytes} bytes, and {size} is less: shrinking would lose data")
    QemuImg().resize(path, format_name, wanted_bytes)
    click.echo(f"{path}: {size_text(now_bytes)} -> {size_text(wanted_bytes)}")


@image.command()
@click.argument("what", nargs=-1, metavar="[PATH | DIGEST | OVERRIDES...]")
@click.option("--config-dir", metavar="DIR", help="more config groups, as for a job")
@_cache_dir
@_as_json
def info(what: tuple[str, ...], config_dir: str | None, cache_dir: str | None, as_json: bool) -> None:
    """Tell of a file, of an image in the store, or of what a job would take from the store (image=centos9)."""
    facts: list[dict[str, Any]]
    if len(what) == 1 and "=" not in what[0]:
        path = Path(what[0])
        facts = [_file_facts(path) if path.exists() else _store(cache_dir).by_prefix(what[0]).as_dict()]
    else:
        facts = [_job_facts(one, want) for one, want in _wanted(what, config_dir)]
    _print(facts, as_json, lambda entry: "\n".join(f"{k}: {v}" for k, v in entry.items() if v is not None) + "\n")


# -- what the verbs are made of ----------------------------------------------------------------------------------------


def _wanted(
    overrides: tuple[str, ...], config_dir: str | None, *, under_lock: bool = True, source: bool = False
) -> Iterator[tuple[Image, ImageRequest | None]]:
    """The images of the jobs that these overrides compose, each with what is asked of the store; None for a built one.

    With `source`, what a prepared image is made from is meant in its place.
    Raises ConfigError, also for an image that is used where it is.
    """
    from mvpnet.config import compose
    from mvpnet.images.store.prepared import source_of
    from mvpnet.images.store.request import check_architecture, parse_request
    from mvpnet.spec.plain import changed
    from mvpnet.spec.schema import ImageKind

    seen: set[ImageRequest | None] = set()
    for composition in _compositions(overrides):
        job = compose.compose(composition, 1, config_dir)
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


def _compositions(overrides: tuple[str, ...]) -> list[list[str]]:
    """A composition for each image that is named: image=a,b and image=a image=b are two."""
    names = [name for word in overrides if word.startswith("image=") for name in word[len("image=") :].split(",")]
    others = [word for word in overrides if not word.startswith("image=")]
    return [[f"image={name}", *others] for name in names] or [others]


def _build(one: Image) -> dict[str, Any]:
    from mvpnet.images import debian, tiny
    from mvpnet.spec.schema import ImageKind

    cache = cache_base(one.cache_dir)
    if one.kind is ImageKind.debian:
        kernel = debian.ensure(cache / "debian", one.packages, _say).kernel
    else:
        kernel = tiny.ensure(cache / "tiny", _say).kernel
    return {"sha256": None, "folder": str(kernel.parent)}


def _job_facts(one: Image, want: ImageRequest | None) -> dict[str, Any]:
    from mvpnet.images.store.fetch import find

    if want is None:
        return {"kind": one.kind.name}
    stored = find(want)
    asked = {"source": want.address, "pinned_by": want.pinned_by if want.sha256 else None, "sha256": want.sha256}
    return {**asked, "in_store": stored is not None, **(stored.as_dict() if stored else {})}


def _file_facts(path: Path) -> dict[str, Any]:
    from mvpnet.images.disk_image import image_format
    from mvpnet.images.store.unpack import compression_of
    from mvpnet.qemu.img import QemuImg
    from mvpnet.spec.schema import Compression

    format_name = image_format(path, "PATH")
    facts: dict[str, Any] = {"path": str(path.absolute()), "bytes": path.stat().st_size}
    if (packed := compression_of(path)) is not Compression.none:
        return {**facts, "compression": packed.name}
    told = QemuImg().info(path, format_name)
    return {
        **facts,
        "format": format_name,
        "virtual_bytes": told.virtual_bytes,
        "backing": told.backing,
    }


def _verified(store: Store, one: StoredImage) -> dict[str, Any]:
    intact = store.is_intact(one)
    aside = None if intact else store.put_aside(one)
    what = "intact" if intact else f"CHANGED, put aside as {aside}" if aside else "CHANGED, and in use by a job"
    return {"sha256": one.sha256, "intact": intact, "put_aside": str(aside) if aside else None, "result": what}


def _verified_broken(store: Store, folder: Path) -> dict[str, Any]:
    aside = store.quarantine(folder, folder.name)
    return {
        "sha256": folder.name,
        "intact": False,
        "put_aside": str(aside),
        "result": f"NOT WHOLE, put aside as {aside}",
    }


def _doomed(store: Store, digests: tuple[str, ...], everything: bool) -> Iterator[tuple[Path, Callable[[], bool]]]:
    """What is to go, each with what removes it and tells whether it did."""
    from mvpnet.images.store.lock_file import LOCK_FILE, read_lock

    if digests:
        chosen = _chosen(store, digests)
    else:
        for path in store.transfers.unfinished():
            yield path, partial(store.transfers.remove_unfinished, path)
        for path in store.quarantined():
            yield path, partial(store.remove_aside, path)
        for path in store.broken():
            yield path, partial(store.remove, path)
        needed = {record.sha256 for record in store.source_records.all()}
        needed |= {pin.sha256 for pin in read_lock(Path.cwd() / LOCK_FILE).values()}
        chosen = [one for one in store.images() if everything or one.sha256 not in needed]
    going = {one.sha256 for one in chosen}
    backing = {one.backing for one in store.images() if one.sha256 not in going}
    for one in chosen:
        if one.sha256 in backing:
            _say(f"the backing file of another image, and left: {one.folder}")
        else:
            yield one.folder, partial(store.remove, one.folder)


def _chosen(store: Store, digests: tuple[str, ...]) -> list[StoredImage]:
    return [store.by_prefix(digest) for digest in digests] if digests else store.images()


def _store(cache_dir: str | None) -> Store:
    from mvpnet.images.store.store import Store

    return Store(cache_base(cache_dir) / "images")


def _print(entries: list[dict[str, Any]], as_json: bool, line: Callable[[dict[str, Any]], str]) -> None:
    click.echo(json.dumps(entries, indent=1) if as_json else "\n".join(map(line, entries)), nl=as_json or bool(entries))


def _say(line: str) -> None:
    click.echo(line, err=True)
