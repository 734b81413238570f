"""Pack a folder into an ISO 9660 image, for a qemu that shows a guest no folders (block driver vvfat)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path, PurePosixPath

from mvpnet.errors import ImageError

_DEEPEST = 7  # folders below the root: ISO 9660, 6.8.2.1
_BY_HAND = "an image of it in place of the folder: genisoimage -V cidata -J -R -o seed.iso FOLDER"


def pack_folder(folder: Path, image: Path, key: str) -> None:
    """Write a new image, 0600, of a folder's files, as a volume named cidata with Rock Ridge and Joliet names.

    Links are followed. What is neither file nor folder is left out.

    Raises:
        ImageError: A file cannot be read, or has no place in such an image. Names `key`.
    """
    import pycdlib.pycdlibexception  # slow to import, and few need it

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    plain_names, plain_folders = count(1), {PurePosixPath("/"): PurePosixPath("/")}  # by the name with Rock Ridge
    try:
        for path, place in _entries(folder, PurePosixPath("/")):
            plain = plain_folders[place.parent] / f"N{next(plain_names):07}"
            if path.is_dir():
                plain_folders[place] = plain
                iso.add_directory(str(plain), rr_name=place.name, joliet_path=str(place), file_mode=0o040555)
            else:
                iso.add_file(str(path), f"{plain}.;1", rr_name=place.name, joliet_path=str(place), file_mode=0o100444)
        with os.fdopen(os.open(image, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "w+b") as file:
            iso.write_fp(file)
    except (pycdlib.pycdlibexception.PyCdlibException, OSError) as error:
        image.unlink(missing_ok=True)
        raise ImageError(f"{key}: {folder} cannot be packed into an image: {error}", hint=_BY_HAND) from error
    finally:
        iso.close()


def _entries(folder: Path, place: PurePosixPath) -> Iterator[tuple[Path, PurePosixPath]]:
    """Yield files and folders below a folder, each with its place in the image, a folder before its content."""
    if len(place.parts) - 1 > _DEEPEST:
        raise OSError(f"{folder} is deeper than {_DEEPEST} folders")
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield path, place / path.name
            yield from _entries(path, place / path.name)
        elif path.is_file():
            yield path, place / path.name
