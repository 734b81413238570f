"""The verb `mvpnet image resize`: grows a disk image outside the store."""

from __future__ import annotations

from pathlib import Path

import click

from mvpnet.cli.host_path import HostPath
from mvpnet.cli.image.common import (
    cache_dir_option,
    store_in,
)
from mvpnet.errors import ImageError
from mvpnet.images.file_check import DiskUse, disk_format
from mvpnet.qemu.img import QemuImg
from mvpnet.spec.drive_text import growth
from mvpnet.util.text import size_text


@click.command(context_settings={"ignore_unknown_options": True})  # -3G is no option, and refused as a size
@click.argument("path", type=HostPath())
@click.argument("size")
@cache_dir_option
def resize(path: Path, size: str, cache_dir: str | None) -> None:
    """Grow a disk image of yours, in place: to 20G, or by +3G.

    The store's own images stay as they are: image.size grows a job's overlay.
    """
    root = store_in(cache_dir).root
    if path.resolve().is_relative_to(root.resolve()):
        raise ImageError(f"{path} is in the image store, where nothing is changed", hint=f"image.size={size} for a job")
    bytes_, added = growth(size)
    format_name = disk_format(path, "PATH", DiskUse(boots=True))
    now_bytes = QemuImg().info(path, format_name).virtual_bytes
    wanted_bytes = now_bytes + bytes_ if added else bytes_
    if wanted_bytes < now_bytes:
        raise ImageError(f"{path} has {now_bytes} bytes, and {size} is less: shrinking would lose data")
    QemuImg().resize(path, format_name, wanted_bytes)
    click.echo(f"{path}: {size_text(now_bytes)} -> {size_text(wanted_bytes)}")
