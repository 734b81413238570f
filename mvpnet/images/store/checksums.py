"""Read the digest of a file from a vendor's checksum file: SHA256SUMS, SHA512SUMS or CHECKSUM.

Both layouts of coreutils' sha256sum(1) are read, one line per file: "DIGEST  NAME" (or " *NAME", or a digest alone),
and --tag's "SHA256 (NAME) = DIGEST", which the BSDs and the Red Hat family use. All other lines (comments, and the
armour of an OpenPGP signature, which is not checked) are ignored. The stronger digest of a file takes precedence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from mvpnet.errors import ImageError

_DIGEST_LENGTHS = {64: "sha256", 128: "sha512"}  # in hexadecimal digits; shorter digests (MD5, SHA-1) are not secure
_TAGGED = re.compile(r"SHA(256|512)\s*\((.+)\)\s*=\s*([0-9A-Fa-f]+)")
_PLAIN = re.compile(r"([0-9A-Fa-f]{64}|[0-9A-Fa-f]{128})(?:\s+\*?(\S.*))?")


@dataclass(frozen=True)
class Published:
    """A digest as a vendor published it."""

    algorithm: str  # sha256 or sha512
    digest: str  # hexadecimal, lower case


def published_digest(text: str, file_name: str, listed_in: str) -> Published:
    """Return the digest of `file_name` in the checksum file `listed_in`, whose content is `text`.

    If a checksum file is named after the image (IMAGE.SHA256SUM) and has a single digest, that one is used, whatever
    name is beside it: vendors write the name of the dated image there, of which "latest" is an alias.

    Raises:
        ImageError: There is no such digest.
    """
    entries = list(_entries(text))
    matching = [published for name, published in entries if name is not None and PurePosixPath(name).name == file_name]
    if not matching and PurePosixPath(listed_in).name.startswith(file_name) and len(entries) == 1:
        matching = [entries[0][1]]
    if matching:
        return max(matching, key=lambda published: published.algorithm)
    raise ImageError(
        f"image.checksums: {listed_in} has no SHA-256 or SHA-512 digest of {file_name}",
        hint="image.checksums=null fetches without it; image.sha256 says the digest yourself",
    )


def _entries(text: str) -> Iterator[tuple[str | None, Published]]:
    for line in map(str.strip, text.splitlines()):
        if match := _TAGGED.fullmatch(line):
            algorithm, name, digest = f"sha{match[1]}", match[2], match[3]
            if _DIGEST_LENGTHS.get(len(digest)) == algorithm:
                yield name, Published(algorithm, digest.lower())
        elif match := _PLAIN.fullmatch(line):
            yield match[2], Published(_DIGEST_LENGTHS[len(match[1])], match[1].lower())
