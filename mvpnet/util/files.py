"""Write files atomically, and create private folders."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from mvpnet.util.encoding import AS_BYTES


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file by `write_whole`."""
    write_whole(path, json.dumps(value, indent=1) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically: a reader finds the old content or the new. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, newline="", errors=AS_BYTES)
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Create a file that no other user may read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def size_on_disk(path: Path) -> int:
    """Return the bytes that a file, or all files in a folder, take on disk; a sparse file takes less than its size."""
    if not path.is_dir():
        return path.stat().st_blocks * 512
    return sum(one.lstat().st_blocks * 512 for one in path.rglob("*") if not one.is_dir())


def make_private(folder: Path) -> None:
    """Create a folder that only this user may enter; an existing one is left unchanged. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)


def create_folder(folder: Path) -> bool:
    """Create a folder; return whether it was not there. Of several processes, one alone hears so. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def file_digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
