"""Planning of a guest's drives: from `image` and `cloud_init` to qemu's -drive options, before any file is made.

A drive is written as the C program mvpnet's -i takes it: "PATH,property=value,…,mvpctl=FLAGS", of which the
properties go on to -drive and the flags say how the image is used, or "file=…,property=value,…", which is passed
to qemu as it is. Without mvpctl, `image.use` says how. Commas in paths and values are doubled, as in qemu.

Planning looks at the images (their format is told by their first bytes) and changes nothing;
`drive_files.prepare_drives` makes the overlays and copies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mvpnet.cloudinit.seed_files import SEED_KEY
from mvpnet.errors import ConfigError, ImageError
from mvpnet.guest.firmware import KEY as FIRMWARE_KEY
from mvpnet.guest.firmware import VARIABLES_KEY, FlashDrive, flash_drives
from mvpnet.images.disk_image import image_format
from mvpnet.qemu.binary import has_block_driver
from mvpnet.spec import option_string
from mvpnet.spec.drive_text import MVPCTL_FLAGS, DriveText, expand, growth, parse_drive
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import ImageKind, ImageUse

_DEFAULTS = {"media": "disk", "if": "virtio"}
_ALIASES = {"readonly": "read-only", "driver": "format"}
_TRUE = ("on", "yes", "true", "y")  # qemu's qapi_bool_parse


@dataclass(frozen=True)
class DriveRequest:
    """One image and its requested use, before the image itself is read."""

    key: str  # the configuration key it comes from, for messages
    use: ImageUse
    source: Path  # the image
    target: Path  # what qemu opens: the image, its copy, or its overlay
    properties: Mapping[str, str]  # of -drive, without file and format
    image_format: str | None  # given by the user; None: detected by its first bytes
    remove: tuple[Path, ...]  # files to remove when the job ends
    size: str | None = None  # image.size, to which target is grown

    @property
    def writes(self) -> bool:
        """Whether what the guest writes changes `target` itself."""
        protected = any(self.properties.get(name) in _TRUE for name in ("read-only", "snapshot"))
        return not protected and self.properties.get("media") != "cdrom"


@dataclass(frozen=True)
class DrivePlan:
    """One -drive option and the files that it needs. Drives that are passed to qemu unchanged have no files."""

    key: str
    option: str  # the exact value of -drive
    use: ImageUse | None = None
    source: Path | None = None
    source_format: str | None = None  # of the image; an overlay's backing format
    target: Path | None = None
    format: str | None = None  # of target
    writes: bool = False  # whether the guest's writes change target itself
    remove: tuple[Path, ...] = ()  # files to remove when the job ends
    size: str | None = None  # image.size, to which target is grown


def plan_drives(spec: RankSpec, scratch: Path) -> tuple[DrivePlan, ...]:
    """Return the guest's drives in qemu's order: boot drive, cloud-init's, then the others, and the firmware's.

    Args:
        spec: The rank's spec.
        scratch: The folder for overlays.

    Raises:
        ConfigError: A drive or property is written wrongly.
        ImageError: An image is missing or cannot be read.
        HostError: There is no firmware as vm.firmware asks for.
    """
    return (*plan_disks(spec, scratch), *plan_flash(spec, scratch))


def plan_flash(spec: RankSpec, scratch: Path) -> tuple[DrivePlan, ...]:
    """Return the drives of the guest's UEFI firmware; none without.

    Raises:
        ConfigError, ImageError, HostError: There is no firmware as vm.firmware asks for.
    """
    return tuple(_flash_drive(one, scratch, spec.rank) for one in flash_drives(spec))


def plan_disks(spec: RankSpec, scratch: Path) -> tuple[DrivePlan, ...]:
    """Return the drives as `plan_drives` does, without the firmware's."""
    requests = requested_images(spec, scratch)
    _check_targets(requests.values())
    plans = [_planned(requests[key]) if key in requests else DrivePlan(key, text) for key, text in _written(spec)]
    if spec.cloud_init.path is not None:
        path = Path(expand(spec.cloud_init.path, spec, "cloud_init.path"))
        packs = path.is_dir() and not has_block_driver(spec.qemu.binary, "vvfat")
        plans.insert(1, seed_drive(path, packed=scratch / f"seed-{spec.rank}.iso" if packs else None))
    return tuple(plans)


def _flash_drive(flash: FlashDrive, scratch: Path, rank: int) -> DrivePlan:
    image = flash.image
    target = scratch / f"firmware-variables-{rank}.fd" if flash.is_copied else image.path
    parts = {"file": str(target), "format": image.format, "if": "pflash", "unit": str(flash.unit)}
    if not flash.is_copied:
        parts["read-only"] = "on"
    return DrivePlan(
        key=flash.key,
        option=option_string.joined(f"{name}={value}" for name, value in parts.items()),
        use=ImageUse.copy if flash.is_copied else ImageUse.readonly,
        source=image.path,
        source_format=image.format,
        target=target,
        format=image.format,
        writes=flash.is_copied,
        remove=(target,) if flash.is_copied else (),
    )


def firmware_warnings(drives: Iterable[DrivePlan]) -> list[str]:
    """Return what to say of the firmware among a guest's drives."""
    by_key = {drive.key: drive for drive in drives}
    code = by_key.get(FIRMWARE_KEY)
    if code is None or VARIABLES_KEY in by_key:
        return []
    return [
        f"{FIRMWARE_KEY}: no template of variables is beside {code.source}: what the firmware saves, as the order of "
        "boot, is lost when qemu ends"
    ]


def seed_drive(path: Path, key: str = "cloud_init.path", packed: Path | None = None) -> DrivePlan:
    """Return the drive for cloud-init's NoCloud source: a folder as a FAT file system named cidata, or an image.

    Args:
        path: A folder, or an image.
        key: The configuration key, for messages.
        packed: The image to pack the folder into, for a qemu that shows no folders; `pack_seed_folder` does it.

    Raises:
        ImageError: The path is missing, or is a folder without the two files that NoCloud requires (cloud-init's
            documentation, "NoCloud", "Source files").
    """
    tail = {**_DEFAULTS, "snapshot": "on"}
    if not path.is_dir():
        found = image_format(path, key)
        return DrivePlan(key, _option(path, found, tail), ImageUse.snapshot, path, found, path, found)
    for name in ("user-data", "meta-data"):
        if not (path / name).is_file():
            raise ImageError(f"{key}: {path} has no {name}; cloud-init ignores a folder without it")
    if packed is not None:
        return replace(made_seed_drive(packed), key=key, source=path, remove=(packed,))
    # Not file=fat:PATH, which is equivalent but cannot name a folder with a colon in its path.
    folder = {"file.driver": "vvfat", "file.dir": str(path), "file.label": "cidata", "format": "raw", **tail}
    option = option_string.joined(f"{name}={value}" for name, value in folder.items())
    return DrivePlan(key, option, ImageUse.snapshot, path, "raw", path, "raw")


def with_seed(drives: tuple[DrivePlan, ...], seed: Path | None) -> tuple[DrivePlan, ...]:
    """Insert the drive of a seed made by mvpnet, if any, after the boot drive."""
    return (*drives[:1], *([made_seed_drive(seed)] if seed else []), *drives[1:])


def check_shared_writes(specs: Sequence[RankSpec], hosts: Sequence[str] | None = None) -> None:
    """Refuse an image that one rank writes and another rank uses. Reads no file.

    Args:
        specs: The specs of all ranks.
        hosts: The host of each rank. Without it copies are not compared, because each host may have its own folder.

    Raises:
        ConfigError: Two ranks, which the message names, use the same file.
    """
    users: dict[tuple[str, Path], list[tuple[int, str, bool]]] = defaultdict(list)  # rank, key, whether it writes
    for spec in specs:
        for drive in requested_images(spec, Path("scratch")).values():
            in_place = drive.target == drive.source
            users["", drive.source].append((spec.rank, drive.key, in_place and drive.writes))
            if hosts is not None and drive.use is ImageUse.copy:
                users[hosts[spec.rank], drive.target].append((spec.rank, drive.key, drive.writes))
    for (_, path), uses in users.items():
        writer = next((use for use in uses if use[2]), None)
        other = next((use for use in uses if use is not writer), None)
        if writer and other:
            raise ConfigError(
                f"{writer[1]}: {path} would be written by rank {writer[0]} while rank {other[0]} uses it ({other[1]})",
                hint="put {rank} in its path (mvpctl: J, R, j or r), or choose image.use=overlay",
            )


def requested_images(spec: RankSpec, scratch: Path) -> dict[str, DriveRequest]:
    """Return the requests for images by configuration key, without reading the images.

    Raises:
        ConfigError: A drive is written wrongly, or two drives are the same file.
    """
    images = {}
    for index, (key, text) in enumerate(_written(spec)):
        drive = parse_drive(text, key)
        if drive.path is not None:
            request = _request(spec, key, drive.path, drive, scratch / f"drive{index}-{spec.rank}.qcow2")
            images[key] = _sized(request, spec.image.size) if index == 0 and spec.image.size else request
        elif index == 0 and spec.image.size:
            raise ConfigError(f"image.size: the boot drive {text!r} is passed to qemu as it is, and not grown")
    return images


def _sized(boot: DriveRequest, size: str) -> DriveRequest:
    """Return the boot drive with the size to grow it to.

    Raises:
        ConfigError: The size is not one, or there is no overlay or copy to grow.
    """
    growth(size)
    if boot.use not in (ImageUse.overlay, ImageUse.copy):
        raise ConfigError(
            f"image.size: with image.use={boot.use.name} there is no overlay and no copy to grow, and the image itself "
            "is left as it is",
            hint="image.use=overlay or copy; mvpnet image resize grows a file of yours",
        )
    return replace(boot, size=size)


def _written(spec: RankSpec) -> list[tuple[str, str]]:
    """Return the drives as written, each with its key: first the boot drive, with image.properties."""
    written = [("image.path", spec.image.path)] if spec.image.path is not None else []
    written += [(f"image.drives[{i}]", text) for i, text in enumerate(spec.image.drives)]
    if not written and spec.image.kind is ImageKind.file and spec.image.kernel is None:
        raise ConfigError("image.path: there is nothing to boot", hint="as in image=file image.path=disk.qcow2")
    if spec.image.size and not written:
        raise ConfigError("image.size: there is no boot drive to grow: set image.path or image.source")
    if spec.image.properties:
        if not written:
            raise ConfigError("image.properties: there is no boot drive to add them to: set image.path")
        key, text = written[0]
        added = option_string.joined(f"{name}={value}" for name, value in spec.image.properties.items())
        written[0] = (key, f"{text},{added}")
    return written


def _request(spec: RankSpec, key: str, path: str, drive: DriveText, overlay: Path) -> DriveRequest:
    image = Path(expand(path, spec, key))
    if drive.mvpctl is None:
        use, source, target, remove = _by_use(spec, image, overlay)
        forced = {ImageUse.readonly: ["read-only"], ImageUse.snapshot: ["snapshot"]}.get(use, [])
    else:
        use, source, target, remove = _by_flags(spec, image, drive.mvpctl, key)
        forced = [name for flag, name in (("p", "read-only"), ("s", "snapshot")) if flag in drive.mvpctl]
    properties = _by_one_name(drive.properties, key)
    image_format = properties.pop("format", None)
    for name in forced:
        if (value := properties.pop(name, "on")) not in _TRUE:
            raise ConfigError(f"{key}: {name}={value} contradicts how the image is to be used")
    properties = {**_DEFAULTS, **dict.fromkeys(forced, "on"), **properties}
    if properties["if"] == "ide" and properties["media"] == "disk" and properties.get("read-only") in _TRUE:
        raise ConfigError(f"{key}: an IDE disk cannot be write-protected", hint="use if=virtio, or media=cdrom")
    return DriveRequest(key, use, source, target, properties, image_format, remove)


def _by_one_name(properties: Mapping[str, str], key: str) -> dict[str, str]:
    """Return the properties with qemu's alternative names replaced by the main ones."""
    renamed = {_ALIASES.get(name, name): value for name, value in properties.items()}
    if len(renamed) < len(properties):
        twice = next(f"{alias} and {name}" for alias, name in _ALIASES.items() if {alias, name} <= set(properties))
        raise ConfigError(f"{key}: {twice} are one property; give it once")
    return renamed


_Files = tuple[ImageUse, Path, Path, tuple[Path, ...]]  # use, source, target, remove


def _by_use(spec: RankSpec, image: Path, overlay: Path) -> _Files:
    use, keep = spec.image.use, spec.image.keep_copies
    if use is ImageUse.overlay:
        return use, image, overlay, (overlay,)
    if use is not ImageUse.copy:
        return use, image, image, ()
    if keep and spec.image.copy_dir is None:
        raise ConfigError("image.keep_copies: the scratch folder is not kept", hint="set image.copy_dir")
    folder = overlay.parent if spec.image.copy_dir is None else _copy_dir(spec)
    copy = folder / _tagged(image, spec, job=True, rank=True).name
    return use, image, copy, () if keep else (copy,)


def _by_flags(spec: RankSpec, image: Path, flags: str, key: str) -> _Files:
    _check_flags(spec, flags, key)
    image = _tagged(image, spec, job="J" in flags, rank="R" in flags)
    remove = (image,) if "D" in flags else ()
    if "c" in flags:
        copy = _copy_dir(spec) / _tagged(image, spec, job="j" in flags, rank="r" in flags).name
        return ImageUse.copy, image, copy, (copy, *remove) if "d" in flags else remove
    in_place = ImageUse.readonly if "p" in flags else ImageUse.snapshot if "s" in flags else ImageUse.direct
    return in_place, image, image, remove


def _check_flags(spec: RankSpec, flags: str, key: str) -> None:
    if unknown := next((flag for flag in flags if flag not in MVPCTL_FLAGS), None):
        known = ", ".join(f"{flag} {meaning}" for flag, meaning in MVPCTL_FLAGS.items())
        raise ConfigError(f"{key}: {unknown!r} in mvpctl={flags} is no flag", hint=f"flags are: {known}")
    if "c" in flags:
        if spec.image.copy_dir is None:
            raise ConfigError(
                f"{key}: mvpctl={flags} copies the image, and there is no folder for it: set image.copy_dir"
            )
    elif lone := next((flag for flag in "jrd" if flag in flags), None):
        raise ConfigError(f"{key}: {lone!r} in mvpctl={flags} is about a copy, and there is none without 'c'")


def _copy_dir(spec: RankSpec) -> Path:
    assert spec.image.copy_dir is not None
    return Path(expand(spec.image.copy_dir, spec, "image.copy_dir"))


def _tagged(path: Path, spec: RankSpec, *, job: bool, rank: bool) -> Path:
    """Return PATH.ext as PATH.JOB.RANK.ext, like the C program."""
    tags = (f".{spec.job_name}" if job else "") + (f".{spec.rank}" if rank else "")
    return path.with_name(path.stem + tags + path.suffix)


def _check_targets(drives: Iterable[DriveRequest]) -> None:
    """Refuse two drives of one guest that share a file which is written or made from two images."""
    seen: dict[Path, DriveRequest] = {}
    for drive in drives:
        first = seen.setdefault(drive.target, drive)
        if first is not drive and (first.writes or drive.writes or first.source != drive.source):
            raise ConfigError(f"{drive.key}: would use {drive.target}, which {first.key} uses")


def _planned(drive: DriveRequest) -> DrivePlan:
    found = drive.image_format or image_format(drive.source, drive.key)
    opened = "qcow2" if drive.use is ImageUse.overlay else found
    return DrivePlan(
        key=drive.key,
        option=_option(drive.target, opened, drive.properties),
        use=drive.use,
        source=drive.source,
        source_format=found,
        target=drive.target,
        format=opened,
        writes=drive.writes,
        remove=drive.remove,
        size=drive.size,
    )


def _option(path: Path, format_name: str, properties: Mapping[str, str]) -> str:
    # The format is always given: qemu warns about, and restricts, a raw image whose format it has to guess.
    parts = {"file": str(path), "format": format_name, **properties}
    return option_string.joined(f"{name}={value}" for name, value in parts.items())


def made_seed_drive(path: Path) -> DrivePlan:
    """Return the drive of an image that `cloudinit.seed_files.write_image` writes; it need not exist yet."""
    parts = {"file": str(path), "format": "raw", "media": "disk", "if": "virtio", "read-only": "on"}
    option = option_string.joined(f"{name}={value}" for name, value in parts.items())
    return DrivePlan(SEED_KEY, option, ImageUse.readonly, path, "raw", path, "raw")
