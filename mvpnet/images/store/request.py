"""Turn the `image` section into a request to the image store: read, checked, and joined with its pin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mvpnet.errors import ConfigError, ImageError
from mvpnet.images.store import prepared
from mvpnet.images.store.lock_file import LOCK_FILE, SHA256, Pin, read_lock
from mvpnet.images.store.store import Store
from mvpnet.paths import cache_base, launch_folder
from mvpnet.qemu.architectures import ARCHITECTURES, in_file_name, of_program, runs
from mvpnet.spec.near import near
from mvpnet.spec.schema import Compression, Image, ImageKind, ImageUse
from mvpnet.spec.urls import address as address_of
from mvpnet.spec.urls import file_name


@dataclass(frozen=True)
class ImageRequest:
    """An image to be had from the store."""

    root: Path  # the store's folder
    url: str  # http, https or file
    name: str  # the file's name, in its folder or on its server
    sha256: str | None  # the pin, if there is one
    pinned_by: str
    size_bytes: int | None  # of the file as it is fetched, if the lock file has it
    checksums: str | None
    compression: Compression
    format: str | None

    @property
    def store(self) -> Store:
        return Store(self.root)

    @property
    def address(self) -> str:
        """Return the URL without secrets, as it is recorded, and by which it is found again."""
        return address_of(self.url)

    @property
    def is_prepared(self) -> bool:
        """Return whether it is created here by `mvpnet image prepare`, and cannot be fetched."""
        return self.url.startswith(f"{prepared.SCHEME}:")

    @property
    def local_path(self) -> Path | None:
        return _local(self.url)

    @property
    def local_checksums(self) -> Path | None:
        return _local(source_url(self.checksums)) if self.checksums else None

    @property
    def planned_disk(self) -> Path:
        """Return where the disk will be, as far as that is known: the store's folders are named after digests."""
        return self.store.folder(self.sha256 or "not-fetched-yet") / "disk"


def parse_request(image: Image, *, under_lock: bool = True) -> ImageRequest | None:
    """Return the request to the store; None for an image from elsewhere.

    Args:
        image: The image section.
        under_lock: Read the lock file.

    Raises:
        ConfigError: Keys contradict each other, or the image is not pinned under image.locked.
    """
    check_image(image)
    if prepared.is_asked(image):
        return _wanted_prepared(image, under_lock)
    if image.path is not None or image.source is None:
        return None
    url = source_url(image.source)
    pin, pinned_by = _pin(image, address_of(url), under_lock)
    return ImageRequest(
        root=cache_base(image.cache_dir) / "images",
        url=url,
        name=file_name(url) or "image",
        sha256=pin.sha256 if pin else None,
        pinned_by=pinned_by,
        size_bytes=pin.size_bytes if pin else None,
        checksums=image.checksums,
        compression=image.compression,
        format=image.format,
    )


def declaration(image: Image, *, under_lock: bool = True) -> tuple[ImageRequest | None, dict[str, Any]]:
    """Return the source of a prepared image (None for a built one), and the inputs that determine the result.

    Raises:
        ConfigError: As `parse_request`.
    """
    source = parse_request(prepared.source_of(image), under_lock=under_lock)
    return source, prepared.declared(image, source.address if source else None, source.sha256 if source else None)


def _wanted_prepared(image: Image, under_lock: bool) -> ImageRequest:
    source, what = declaration(image, under_lock=under_lock)
    pinned = image.prepare.sha256
    return ImageRequest(
        root=cache_base(image.cache_dir) / "images",
        url=f"{prepared.SCHEME}:{prepared.key_of(what)}",
        name=f"the image prepared from {source.name if source else 'debian12-built'}",
        sha256=pinned.lower() if pinned else None,
        pinned_by="image.prepare.sha256",
        size_bytes=None,
        checksums=None,
        compression=Compression.none,
        format="qcow2",
    )


def check_image(image: Image) -> None:
    """Refuse invalid keys, or keys without effect, with a ConfigError that names the key."""
    if image.source is not None and image.kind is ImageKind.tiny:
        raise ConfigError("image.source: the tiny guest is built here, not fetched", hint="add image=file")
    if image.kind is ImageKind.cloud and image.source is None and image.path is None:
        raise ConfigError("image.source: there is nothing to boot", hint="image.source is a URL or a path")
    from_store = image.path is None and image.source is not None
    only_there = {
        "sha256": image.sha256 is not None,
        "compression": image.compression is not Compression.auto,
        "locked": image.locked,
    }
    if not from_store and (key := next((key for key, is_set in only_there.items() if is_set), None)):
        raise ConfigError(
            f"image.{key}: is about an image from the store, and this one is not",
            hint="image.source=PATH in place of image.path=PATH puts a file of yours into the store",
        )
    if (from_store or prepared.is_asked(image)) and image.use is ImageUse.direct:
        raise ConfigError(
            "image.use: direct would let the guest write the store's image",
            hint="image.use=overlay (the default) or copy; image.path=PATH uses a file of yours directly",
        )
    for key, digest in (("sha256", image.sha256), ("prepare.sha256", image.prepare.sha256)):
        if digest is not None and not SHA256.fullmatch(digest.lower()):
            raise ConfigError(f"image.{key}: {digest!r} is no SHA-256 digest", hint="64 hexadecimal digits")
    prepared.check_prepare(image)
    if image.format is not None and "format" in image.properties:
        raise ConfigError("image.format: is given twice, here and in image.properties")


def check_architecture(image: Image, qemu_binary: str) -> None:
    """Refuse an image of another architecture than qemu's, as far as names tell.

    The names are image.arch, else that of image.source, and that of qemu's program. The image itself is not inspected.

    Raises:
        ConfigError: image.arch is none.
        ImageError: qemu does not run the image.
    """
    source_name = file_name(image.source) if image.source and image.path is None else ""
    of_image = _said_architecture(image) or in_file_name(source_name)
    of_qemu = of_program(qemu_binary)
    if of_qemu is None or of_image is None or runs(of_qemu, of_image):
        return
    why = "image.arch says" if image.arch else f"its name, {source_name}, says"
    raise ImageError(
        f"image.arch: the image is for {of_image}, as {why}, and {qemu_binary} is {of_qemu}",
        hint=f"qemu.binary=qemu-system-{of_image} runs it" + ("" if image.arch else f"; image.arch={of_qemu} if not"),
    )


def _said_architecture(image: Image) -> str | None:
    """Return image.arch as qemu names it. Raises ConfigError for a name that is none."""
    if image.arch is None:
        return None
    if found := ARCHITECTURES.get(image.arch.lower()):
        return found
    raise ConfigError(
        f"image.arch: {image.arch!r} is no architecture that is known{near(image.arch, ARCHITECTURES)}",
        hint="it is named as in qemu-system-NAME, or as vendors do: x86_64, amd64, aarch64, arm64, i386, riscv64, …",
    )


def _local(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def source_url(source: str) -> str:
    """Return image.source as a URL, file:// for a path. Raises ConfigError for an unsupported scheme."""
    scheme = urlsplit(source).scheme if "://" in source else None
    if scheme is None:
        return Path(source).absolute().as_uri()
    if scheme not in ("http", "https", "file"):
        raise ConfigError(f"image.source: {scheme}:// is not fetched", hint="https://, http://, file:// or a path")
    return source


def _pin(image: Image, address: str, under_lock: bool) -> tuple[Pin | None, str]:
    """Return the pin of the source, and where it is written."""
    given = Pin(image.sha256.lower()) if image.sha256 else None
    if not under_lock or (given and not image.locked):
        return given, "image.sha256"
    path = lock_path(image)
    pin = read_lock(path).get(address)
    if given and pin and given.sha256 != pin.sha256:
        raise ConfigError(f"image.sha256: {given.sha256} is not what {path} pins {address} to, which is {pin.sha256}")
    if image.locked and not (given or pin):
        raise ConfigError(
            f"image.locked: {address} is not in {path}, and image.sha256 is not set",
            hint="mvpnet image lock, with the same arguments, pins it",
        )
    return (pin, str(path)) if pin else (given, "image.sha256")


def lock_path(image: Image) -> Path:
    return Path(image.lock_file) if image.lock_file else launch_folder() / LOCK_FILE
