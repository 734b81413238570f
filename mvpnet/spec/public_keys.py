"""Public ssh keys: a line of authorized_keys is taken apart, and what is no key is told from one.

Formats: sshd(8), "AUTHORIZED_KEYS FILE FORMAT"; RFC 4253, section 6.6; RFC 5656; RFC 8709; OpenSSH's PROTOCOL.u2f.
What is refused is never repeated: it may be a private key.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

# How many strings the blob of a key has, the type's name among them.
_PARTS = {
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
    "ssh-dss": 5,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}
_ED25519_BYTES = 32
_CERTIFICATE = re.compile(r"[a-z0-9@.-]+-cert-v\d\d@openssh\.com")
_TYPE_LIKE = re.compile(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+")
_OPTION = r'[A-Za-z0-9-]+(="(?:\\.|[^"\\])*")?'
_OPTIONS = re.compile(rf"{_OPTION}(,{_OPTION})*(?=[ \t])")


def fault_of_key(line: str) -> str | None:
    """Return why a line is no public key as authorized_keys takes it, without any of it; None for a key."""
    text = line.strip()
    if "\n" in text or "\r" in text:
        return "has several lines; a public key has one"
    if "PRIVATE KEY" in text:
        return "is of a private key"
    words = text.split(None, 1)
    if not words:
        return "is empty"
    if words[0] not in _PARTS:
        if fault := _fault_of_type(words[0]):
            return fault
        if not (options := _OPTIONS.match(text)):
            return _NO_KEY
        words = text[options.end() :].split(None, 1)
    if words[0] not in _PARTS:
        return _fault_of_type(words[0]) or _NO_KEY
    return _fault_of_blob(words[0], words[1].split()[0]) if len(words) > 1 else "has a type, and no key behind it"


_NO_KEY = 'is no public key, which begins with its type, as in "ssh-ed25519 AAAA… comment"'


def _fault_of_type(word: str) -> str | None:
    if _CERTIFICATE.fullmatch(word):
        return "is a certificate, which authorized_keys does not take; its authority's key may be given as one"
    if _TYPE_LIKE.fullmatch(word):
        return "has a type that no key has"
    return None


def _fault_of_blob(kind: str, text: str) -> str | None:
    """Return what is wrong with the key itself, in base64."""
    try:
        blob = base64.b64decode(text, validate=True)
        parts = list(_strings(blob))
    except (binascii.Error, ValueError):
        return "is not whole: its base64 text is cut, or has signs that base64 has not"
    if not parts or parts[0] != kind.encode():
        return "is of another type than it says"
    if len(parts) != _PARTS[kind] or not all(parts):
        return "is not whole"
    if kind == "ssh-ed25519" and len(parts[1]) != _ED25519_BYTES:
        return "is not whole"
    return None


def _strings(blob: bytes) -> Iterator[bytes]:
    """Yield the strings of a blob, each of which has its length before it. Raises ValueError for one that is cut."""
    while blob:
        length = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + length:
            raise ValueError("a string is cut")
        yield blob[4 : 4 + length]
        blob = blob[4 + length :]
