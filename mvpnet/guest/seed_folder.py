"""The file of a seed drive that is packed from a folder: `drives.seed_drive` plans it."""

from __future__ import annotations

from collections.abc import Iterable

from mvpnet.cloudinit.folder_image import pack_folder
from mvpnet.guest.drives import DrivePlan


def pack_seed_folder(drives: Iterable[DrivePlan]) -> None:
    """Pack the folder of cloud_init.path into its image, where the drives are planned so.

    Raises:
        ImageError: The folder cannot be packed.
    """
    for drive in drives:
        if drive.source is not None and drive.target not in (None, drive.source) and drive.source.is_dir():
            assert drive.target is not None
            pack_folder(drive.source, drive.target, drive.key)
