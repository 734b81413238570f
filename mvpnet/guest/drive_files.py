"""Files of the planned drives: overlays and copies are made before the guest starts and removed after its end."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mvpnet.errors import ImageError
from mvpnet.guest.drives import DrivePlan
from mvpnet.images.disk_image import check_readable, copy_error, copy_image, no_space
from mvpnet.qemu.img import ImageInfo, QemuImg, QemuImgError
from mvpnet.spec.drive_text import growth
from mvpnet.spec.schema import ImageUse
from mvpnet.util.text import Say

# Size of an empty qcow2 overlay: header, refcount and L1 tables, a cluster of 64 KiB each.
_OVERLAY_BYTES = 256 * 1024


def prepare_drives(plans: Iterable[DrivePlan], say: Say, *, qemu_binary: str = "qemu-system-x86_64") -> None:
    """Check every image and make the overlays and copies; after a failure, remove those made here.

    Args:
        plans: The planned drives.
        say: Called with a line for a copy that takes long, and for one that exists already.
        qemu_binary: qemu-img, which overlays and images with a backing file need, is searched beside this program and
            then on PATH.

    Raises:
        ImageError: An image cannot be used.
        HostError: qemu-img is missing.
    """
    made: list[Path] = []
    qemu_img = QemuImg(qemu_binary)
    try:
        for plan in plans:
            if plan.source is None or plan.source.is_dir():  # passed to qemu unchanged, or cloud-init's folder
                continue
            check_readable(plan.source, plan.key)
            _check_chain(plan, qemu_img)
            if plan.use is ImageUse.overlay:
                made.append(_make_overlay(plan, qemu_img))
            elif plan.use is ImageUse.copy:
                made += _make_copy(plan, say, qemu_img)
            elif plan.writes and not os.access(plan.source, os.W_OK):
                raise ImageError(
                    f"{plan.key}: {plan.source} is to be used directly and may not be written by this user",
                    hint="image.use=overlay leaves it as it is",
                )
    except BaseException:
        _remove(made, say)
        raise


@contextmanager
def opened_drives(plans: tuple[DrivePlan, ...], say: Say, *, qemu_binary: str) -> Iterator[tuple[DrivePlan, ...]]:
    """Keep the drives' files while inside the context: `prepare_drives` first, `remove_leftovers` at the end."""
    prepare_drives(plans, say, qemu_binary=qemu_binary)
    try:
        yield plans
    finally:
        remove_leftovers(plans, say)


def remove_leftovers(plans: Iterable[DrivePlan], say: Say) -> None:
    """Remove the files that the plans list for removal; report failures to `say`."""
    _remove([path for plan in plans for path in plan.remove], say)


def _remove(paths: Iterable[Path], say: Say) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            say(f"{path} could not be removed: {error.strerror}")


def _check_chain(plan: DrivePlan, qemu_img: QemuImg) -> None:
    if plan.source_format != "raw":
        assert plan.source is not None and plan.source_format is not None
        _info(plan.source, plan.source_format, plan.key, qemu_img)


def _info(image: Path, format_name: str, key: str, qemu_img: QemuImg) -> ImageInfo:
    """Return qemu-img's information about an image.

    Raises:
        ImageError: The image or its backing file cannot be opened.
    """
    try:
        return qemu_img.info_of_chain(image, format_name)
    except QemuImgError as error:
        raise ImageError(f"{key}: {image} cannot be opened as {format_name}: {error.message}") from error


def _make_overlay(plan: DrivePlan, qemu_img: QemuImg) -> Path:
    assert plan.source is not None and plan.target is not None and plan.source_format is not None
    _check_folder(plan.target.parent, plan.key)
    try:
        qemu_img.create_overlay(plan.target, plan.source, plan.source_format)
    except QemuImgError as error:
        plan.target.unlink(missing_ok=True)
        if error.is_disk_full:
            raise no_space(plan.target, plan.target.parent, _OVERLAY_BYTES, plan.key) from error
        raise ImageError(f"{plan.key}: no overlay of {plan.source} could be made: {error.message}") from error
    try:
        _grow(plan, plan.target, qemu_img)
    except BaseException:
        plan.target.unlink()
        raise
    return plan.target


def _grow(plan: DrivePlan, target: Path, qemu_img: QemuImg) -> None:
    """Grow the overlay or copy to image.size, relative to the image's size; leave one that is large enough."""
    if plan.size is None:
        return
    assert plan.source is not None and plan.source_format is not None and plan.format is not None
    size, added = growth(plan.size)
    image_size = _info(plan.source, plan.source_format, plan.key, qemu_img).virtual_bytes
    wanted = image_size + size if added else size
    if wanted < image_size:
        raise ImageError(
            f"image.size: {plan.size} is {wanted} bytes, and {plan.source} has {image_size}: shrinking would lose data"
        )
    if wanted > _info(target, plan.format, plan.key, qemu_img).virtual_bytes:
        try:
            qemu_img.resize(target, plan.format, wanted)
        except QemuImgError as error:
            raise ImageError(f"image.size: {target} could not be grown to {wanted} bytes: {error.message}") from error


def _make_copy(plan: DrivePlan, say: Say, qemu_img: QemuImg) -> list[Path]:
    """Copy under another name, then link, so that the final name always is a whole copy; the first rank wins."""
    assert plan.source is not None and plan.target is not None
    _check_folder(plan.target.parent, plan.key)
    if plan.target.exists():
        _grow(plan, plan.target, qemu_img)
        return _use_existing(plan.target, say)
    try:
        handle, name = tempfile.mkstemp(dir=plan.target.parent, prefix=f".{plan.target.name}.", suffix=".part")
    except OSError as error:
        raise copy_error(error, plan.source, plan.target, plan.key) from error
    os.close(handle)
    part = Path(name)
    try:
        copy_image(plan.source, part, plan.key, say)
        _check_copy(plan, part, qemu_img)
        _grow(plan, part, qemu_img)
        _publish(part, plan.target)
    except FileExistsError:
        return _use_existing(plan.target, say)
    finally:
        part.unlink(missing_ok=True)
    return [plan.target]


def _publish(part: Path, target: Path) -> None:
    """Give a complete copy its final name.

    Raises:
        FileExistsError: Another rank was first.
    """
    try:
        target.hardlink_to(part)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system: the last copy wins, which is as complete
        part.rename(target)


def _use_existing(copy: Path, say: Say) -> list[Path]:
    made_at = datetime.datetime.fromtimestamp(copy.stat().st_mtime).astimezone()
    say(f"{copy} is there already, last written {made_at:%Y-%m-%d %H:%M:%S %z}; it is used as it is")
    return []


def _check_copy(plan: DrivePlan, copy: Path, qemu_img: QemuImg) -> None:
    """Check that the copy opens in its new folder; make a relative path of its backing file absolute."""
    if plan.source_format == "raw":
        return
    assert plan.source is not None and plan.source_format is not None
    image = _info(plan.source, plan.source_format, plan.key, qemu_img)
    if image.backing is not None and image.backing != image.backing_as_written:
        try:
            qemu_img.rename_backing(copy, plan.source_format, image.backing, image.backing_format)
        except QemuImgError as error:
            raise ImageError(f"{plan.key}: the copy of {plan.source} lost its backing file: {error.message}") from error
    _info(copy, plan.source_format, plan.key, qemu_img)


def _check_folder(folder: Path, key: str) -> None:
    if not folder.is_dir():
        raise ImageError(f"{key}: there is no folder {folder} to put the image's copy or overlay in")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ImageError(f"{key}: the folder {folder} may not be written by this user")
