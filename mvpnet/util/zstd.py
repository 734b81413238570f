"""Provide zstd: from the standard library since Python 3.14, from the package backports.zstd before.

It is imported at its first use, as few jobs read or write zstd data.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import IO, Any, Literal


def open_zstd(file: Path | IO[bytes], mode: Literal["rb", "wb"] = "rb") -> IO[bytes]:
    """Open a file that packs on writing and unpacks on reading. Reading a truncated one raises EOFError."""
    opened: IO[bytes] = _zstd().ZstdFile(file, mode)
    return opened


def zstd_error() -> type[Exception]:
    """Return the exception for data that cannot be unpacked."""
    error: type[Exception] = _zstd().ZstdError
    return error


def _zstd() -> Any:
    return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
