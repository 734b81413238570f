"""Take the secrets out of URLs: passwords, and the query parameters by which a URL is signed or its user known.

Two rules, both without effect on what they returned before:

- `address` returns a URL as it is recorded and compared. Two URLs with the same address give the same file. User name,
  password, fragment and all parameters of signatures are left out; of other parameters that are as long as secrets a
  digest is put in their place, because they may as well say which file it is.
- `masked` takes out of any text what is a secret by its name: the user name and password of a URL, and the values of
  parameters of signatures.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import unquote, unquote_plus, urlsplit, urlunsplit

# Parameters of signed URLs: AWS, Google, Azure, Alibaba, Tencent, OpenStack Swift, CloudFront, and the usual names.
_SECRET_NAME = (
    r"(?:x-(?:amz|goog|oss|ms|cos|obs)-[\w.-]*|q-(?:sign-algorithm|ak|sign-time|key-time|header-list|url-param-list)"
    r"|temp_url_\w+|(?:[\w.-]*[-_.])?(?:token|secret|signature|sig|password|passwd|passphrase|credentials?|hmac|jwt)"
    r"|\w*(?:token|secret|signature|password|accesskey|accesskeyid|accessid|apikey)|auth|authorization|pwd|pass"
    r"|(?:[\w.-]*[-_.])?(?:api|access|private|auth)[-_.]?key(?:[-_.]?id)?|key-pair-id|policy|expires?|expiry|expiration"
    r"|expires_?in|response-[\w-]+)"
)
_IS_SECRET = re.compile(_SECRET_NAME, re.IGNORECASE)
# Azure's shared access signatures have short names, which are secrets only beside `sig`.
_SAS = frozenset(
    ("sv", "ss", "srt", "sp", "se", "st", "spr", "sip", "sr", "si", "skoid", "sktid", "skt", "ske", "sks", "skv")
)
_LONG = 16  # characters; keys and tokens have more
_KNOWN_DIGEST = re.compile(r"masked-[0-9a-f]{12}")
_FILE_NAME = re.compile(
    r".+\.(?:qcow2?|img|raw|iso|vmdk|vdi|vhdx?|qed|ova|disk|tar|tgz|zip|xz|zst|gz|bz2|txt|sha\d+)", re.I
)
_USERINFO = re.compile(r"(?<=://)[^/@\s\"']+@")  # or only a user: some servers take a token there (RFC 3986, 3.2.1)
_IN_TEXT = re.compile(rf"(?<=[?&])({_SECRET_NAME})=[^&\s\"'<>#]+", re.IGNORECASE)
_MASK = "masked"


def address(url: str) -> str:
    """Return the URL as it is recorded and compared, without secrets; what is no URL unchanged."""
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # "[" without "]" where the host is
        return masked(url)
    kept = [_public(name, value) for name, value in _public_parameters(parts.query)]
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="&".join(kept), fragment=""))


def _public_parameters(query: str) -> Iterable[tuple[str, str | None]]:
    """Yield name and value, None without one, of all parameters that are not of a signature, as they are written."""
    pairs = [(name, value if sign else None) for name, sign, value in (p.partition("=") for p in query.split("&") if p)]
    is_azure = any(unquote(name).lower() == "sig" for name, _ in pairs)
    for name, value in pairs:
        plain = unquote(name)
        if not _IS_SECRET.fullmatch(plain) and not (is_azure and plain.lower() in _SAS):
            yield name, value


def _public(name: str, value: str | None) -> str:
    if value is None:
        return name if len(name) < _LONG or _FILE_NAME.fullmatch(unquote(name)) else _digest(name)
    plain = unquote_plus(value)
    if len(plain) < _LONG or _FILE_NAME.fullmatch(plain) or _KNOWN_DIGEST.fullmatch(plain):
        return f"{name}={value}"
    return f"{name}={_digest(value)}"


def _digest(value: str) -> str:
    if _KNOWN_DIGEST.fullmatch(value):
        return value
    return f"{_MASK}-{hashlib.sha256(value.encode()).hexdigest()[:12]}"


def file_name(url: str) -> str:
    """Return the name of the file that a URL gives: the end of its path, or a parameter that is a file's name.

    A path without `://` is taken too. Empty where there is none.
    """
    if "://" not in url:
        return url.rpartition("/")[2]
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    name = unquote(parts.path.rpartition("/")[2])
    if _FILE_NAME.fullmatch(name):
        return name
    values = (unquote_plus(value).rpartition("/")[2] for _, value in _public_parameters(parts.query) if value)
    return next((value for value in values if _FILE_NAME.fullmatch(value)), name)


def masked(text: str) -> str:
    """Return any text without users and passwords in its URLs, and without the values of parameters of signatures."""
    if "://" not in text and "=" not in text:
        return text
    return _IN_TEXT.sub(lambda match: f"{match[1]}={_MASK}", _USERINFO.sub("", text))


def masked_tree(value: Any, addresses: Iterable[str] = ()) -> Any:
    """Return a tree of JSON's types with all its texts `masked`.

    Args:
        value: The tree.
        addresses: Keys whose texts are URLs of images, of which the `address` is kept.
    """
    names = frozenset(addresses)
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, Mapping):
        return {
            key: address(item) if key in names and isinstance(item, str) else masked_tree(item, names)
            for key, item in value.items()
        }
    return [masked_tree(item, names) for item in value] if isinstance(value, list) else value


def masked_words(text: str, urls: Iterable[str]) -> str:
    """Return a text `masked`, and with the `address` in place of each of these URLs of images."""
    for url in sorted({one for one in urls if one != address(one)}, key=len, reverse=True):
        text = text.replace(url, address(url))
    return masked(text)
