"""The verbs that look at the store alone: `mvpnet image list`, `verify`, `prune`, `import`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypedDict

import click

from mvpnet.cli.host_path import HostPath
from mvpnet.cli.image.common import (
    as_json_option,
    cache_dir_option,
    print_entries,
    say,
    store_in,
)
from mvpnet.errors import ImageError
from mvpnet.images.store.fetch import ensure
from mvpnet.images.store.lock_file import LOCK_FILE, read_lock
from mvpnet.images.store.request import parse_request
from mvpnet.images.store.store import Store, StoredImage
from mvpnet.paths import launch_folder
from mvpnet.spec.schema import Image, ImageKind
from mvpnet.util.files import size_on_disk
from mvpnet.util.text import size_text


class Removed(TypedDict):
    """What `mvpnet image prune` removed, or would."""

    path: str
    bytes: int


@click.command(name="list")
@cache_dir_option
@as_json_option
def list_(cache_dir: str | None, as_json: bool) -> None:
    """List the images in the store, and what broken and refused fetches left."""
    store = store_in(cache_dir)
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


@click.command()
@click.argument("digests", nargs=-1, metavar="[DIGEST]...")
@cache_dir_option
@as_json_option
def verify(digests: tuple[str, ...], cache_dir: str | None, as_json: bool) -> int:
    """Read images again, all or those whose digests begin so, and compare them with what was put in.

    One that changed is put aside, so that it is fetched again. The exit code is then 4.
    """
    store = store_in(cache_dir)
    results: list[dict[str, object]] = [_verified(store, one) for one in _chosen(store, digests)]
    results += [_verified_broken(store, folder) for folder in (store.broken() if not digests else [])]
    print_entries(results, as_json, lambda entry: f"{entry['sha256']}  {entry['result']}")
    return ImageError.exit_code if any(not entry["intact"] for entry in results) else 0


@click.command()
@click.argument("digests", nargs=-1, metavar="[DIGEST]...")
@click.option("--all", "everything", is_flag=True, help="every image that no job is using")
@click.option("--dry-run", is_flag=True, help="say what would go, and leave it")
@cache_dir_option
@as_json_option
def prune(digests: tuple[str, ...], everything: bool, dry_run: bool, cache_dir: str | None, as_json: bool) -> None:
    """Remove images, by their digests' beginnings; without any, what nothing needs.

    That is: what broken and refused fetches left, and images that no URL gave as its last and ./mvpnet-images.lock
    does not pin. An image that a job is using, or that another image is an overlay of, stays.
    """
    store = store_in(cache_dir)
    removed: list[Removed] = []
    for path, remove in _doomed(store, digests, everything):
        space = size_on_disk(path)
        if dry_run or remove():
            removed.append({"path": str(path), "bytes": space})
        else:
            say(f"in use, and left: {path}")
    print_entries(removed, as_json, lambda entry: f"{'would remove' if dry_run else 'removed'} {entry['path']}")
    say(f"{size_text(sum(entry['bytes'] for entry in removed))} {'would be ' if dry_run else ''}freed")


@click.command(name="import")
@click.argument("path", type=HostPath())
@click.option("--sha256", metavar="DIGEST", help="refuse any other file")
@click.option("--format", "format_name", metavar="FORMAT", help="as image.format")
@cache_dir_option
@as_json_option
def import_(path: Path, sha256: str | None, format_name: str | None, cache_dir: str | None, as_json: bool) -> None:
    """Put a disk image of yours into the store, unpacked and checked; it is then had by its digest or its path."""
    asked = Image(
        kind=ImageKind.file, source=str(path.absolute()), sha256=sha256, format=format_name, cache_dir=cache_dir
    )
    want = parse_request(asked, under_lock=False)
    assert want
    print_entries([ensure(want, say).as_dict()], as_json, lambda entry: f"{entry['sha256']}  {entry['folder']}")


def _verified(store: Store, one: StoredImage) -> dict[str, object]:
    intact = store.is_intact(one)
    aside = None if intact else store.put_aside(one)
    what = "intact" if intact else f"CHANGED, put aside as {aside}" if aside else "CHANGED, and in use by a job"
    return {"sha256": one.sha256, "intact": intact, "put_aside": str(aside) if aside else None, "result": what}


def _verified_broken(store: Store, folder: Path) -> dict[str, object]:
    aside = store.quarantine(folder, folder.name)
    return {
        "sha256": folder.name,
        "intact": False,
        "put_aside": str(aside),
        "result": f"NOT WHOLE, put aside as {aside}",
    }


def _doomed(store: Store, digests: tuple[str, ...], everything: bool) -> Iterator[tuple[Path, Callable[[], bool]]]:
    """What is to go, each with what removes it and tells whether it did."""
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
        needed |= {pin.sha256 for pin in read_lock(launch_folder() / LOCK_FILE).values()}
        chosen = [one for one in store.images() if everything or one.sha256 not in needed]
    going = {one.sha256 for one in chosen}
    backing = {one.backing for one in store.images() if one.sha256 not in going}
    for one in chosen:
        if one.sha256 in backing:
            say(f"the backing file of another image, and left: {one.folder}")
        else:
            yield one.folder, partial(store.remove, one.folder)


def _chosen(store: Store, digests: tuple[str, ...]) -> list[StoredImage]:
    return [store.by_prefix(digest) for digest in digests] if digests else store.images()
