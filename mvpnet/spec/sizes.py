"""Parse sizes with units, such as "4G"."""

from __future__ import annotations

import re

from mvpnet.errors import ConfigError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?", re.IGNORECASE)
_SCALE = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(text: str, key: str, *, bare: str = "") -> int:
    """Return the bytes of a size such as 512M, 4G or 1.5G (powers of 1024); `bare` is the unit of a bare number.

    Raises:
        ConfigError: It is no size, or no whole number of bytes. Names `key`.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{key}: {text!r} is not a size", hint="write a number and K, M, G or T, as in 512M or 4G")
    size = float(match[1]) * _SCALE[match[2].upper() or ("" if match[3] else bare)]
    if size != int(size):
        raise ConfigError(f"{key}: {text!r} is not a whole number of bytes")
    return int(size)
