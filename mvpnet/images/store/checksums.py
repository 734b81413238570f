"""Read the digest of a file from a vendor's checksum file: SHA256SUMS, SHA512SUMS or CHECKSUM.

Read are, one line per file, both layouts of coreutils' sha256sum(1): "DIGEST  NAME" (or " *NAME", or a digest alone),
and --tag's "SHA256 (NAME) = DIGEST", which the BSDs and the Red Hat family use; and those of openssl-dgst(1):
"SHA256(NAME)= DIGEST" and, from OpenSSL 3 on, "SHA2-256(NAME)= DIGEST". A name with a backslash or line break in it is
escaped, and its line begins with a backslash. All other lines (comments, and the armour of an OpenPGP signature, which
is not checked) are ignored. The stronger digest of a file takes precedence.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from mvpnet.errors import ImageError

_DIGEST_LENGTHS = {64: "sha256", 128: "sha512"}  # in hexadecimal digits; shorter digests (MD5, SHA-1) are not secure
_TAGGED = re.compile(r"SHA(?:2-)?(256|512)\s*\((.+)\)\s*=\s*([0-9A-Fa-f]+)", re.IGNORECASE)
_PLAIN = re.compile(r"([0-9A-Fa-f]{64}|[0-9A-Fa-f]{128})(?:\s+\*?(\S.*))?")
_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}  # sha256sum(1): of names, in lines that begin with a backslash
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


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
    for written in map(str.strip, text.splitlines()):
        line, is_escaped = written.removeprefix("\\"), written.startswith("\\")
        for name, published in _entry(line):
            yield _unescaped(name) if name and is_escaped else name, published


def _entry(line: str) -> Iterator[tuple[str | None, Published]]:
    if match := _TAGGED.fullmatch(line):
        algorithm, name, digest = f"sha{match[1]}", match[2], match[3]
        if _DIGEST_LENGTHS.get(len(digest)) == algorithm:
            yield name, Published(algorithm, digest.lower())
    elif match := _PLAIN.fullmatch(line):
        yield match[2], Published(_DIGEST_LENGTHS[len(match[1])], match[1].lower())


def _unescaped(name: str) -> str:
    return re.sub(r"\\[\\nr]", lambda match: _ESCAPES[match[0]], name)


def checksums_text(content: bytes) -> str:
    """Return the text of a checksum file: UTF-8, or UTF-16 with a byte order mark, as Windows' tools write it."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, errors="replace")
    return content.decode(errors="replace")
