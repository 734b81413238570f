"""Program that copies disks into a save and syncs them; a process of its own, because a rank's loop must not block.

    python -m mvpnet.snapshot.copy_disks FOLDER [FROM TO]...

Disks are cloned if the file system can, else copied with their holes. On failure it exits with 1 and writes a line to
standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mvpnet.errors import ImageError
from mvpnet.images.disk_image import copy_image, to_disk


def main(argv: Sequence[str]) -> int:
    folder, *files = map(Path, argv)
    try:
        for source, target in zip(files[::2], files[1::2], strict=True):
            copy_image(source, target, "mvpnet save", lambda line: None)
        for file in folder.iterdir():
            to_disk(file)
    except (ImageError, OSError) as error:
        print(error.message if isinstance(error, ImageError) else error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
