"""zstd as the standard library has it since Python 3.14, from the package backports.zstd for older ones.

It is imported when it is first needed: few jobs have anything packed by it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import IO, Any, Literal


def open_zstd(file: Path | IO[bytes], mode: Literal["rb", "wb"] = "rb") -> IO[bytes]:
    """A file that packs what is written to it, or unpacks what is read. EOFError is raised for one that was cut."""
    opened: IO[bytes] = _zstd().ZstdFile(file, mode)
    return opened


def zstd_error() -> type[Exception]:
    """What is raised for data that cannot be unpacked."""
    error: type[Exception] = _zstd().ZstdError
    return error


def _zstd() -> Any:
    return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
