"""Take the secrets out of URLs: passwords, and the query parameters by which a URL is signed or its user known.

Two rules, both without effect on what they themselves returned:

- `address` returns a URL as it is recorded and compared. Two URLs with the same address give the same file. User name,
  password, fragment and all parameters of signatures are left out; of other parameters that are as long as secrets a
  digest is put in their place, because they may as well say which file it is.
- `masked` takes out of any text what is a secret by its name: the user name and password of a URL, and the values of
  parameters of signatures.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
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
# user:password@, or user@, where some servers take a token (RFC 3986, 3.2.1); passwords may have signs unquoted
_USERINFO = re.compile(r"(?<=://)(?:[^/\s\"'?#]*@|[^/\s\"':?#]+:[^/\s\"']*@)+")
_IN_TEXT = re.compile(rf"(?<=[?&])({_SECRET_NAME})=[^&\s\"'<>#]+", re.IGNORECASE)
_MASK = "masked"
#: Keys of the section `image` that are URLs of files.
IMAGE_URLS = ("source", "checksums")
_IMAGE_WORD = re.compile(rf"\+*(?:\S+\.)?({'|'.join(IMAGE_URLS)})=")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_URL = re.compile(rf"{_SCHEME.pattern}[^\s,'\"\[\]{{}}]+")


def is_url(text: str) -> bool:
    """Tell whether a text is a URL that can be taken apart (RFC 3986), with a port that is one."""
    try:
        return bool(urlsplit(text).scheme) and (urlsplit(text).port or 1) > 0
    except ValueError:
        return False


def address(url: str) -> str:
    """Return the URL as it is recorded and compared, without secrets; what is no URL unchanged."""
    if not _SCHEME.match(url):
        return masked(url)
    try:
        parts = urlsplit(_USERINFO.sub("", url))
    except ValueError:  # "[" without "]" where the host is: nothing to be fetched
        return re.split("[?#]", masked(url))[0]
    kept = [_public(name, value) for name, value in _public_parameters(parts.query)]
    return urlunsplit(parts._replace(query="&".join(kept), fragment=""))


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
        parts = urlsplit(_USERINFO.sub("", url))
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


def masked_words(text: str, urls: Iterable[str]) -> str:
    """Return a text `masked`, and with the `address` in place of each of these URLs of images."""
    for url in sorted({one for one in urls if one != address(one)}, key=len, reverse=True):
        text = text.replace(url, address(url))
    return masked(text)


def urls_in_words(words: Iterable[str]) -> list[str]:
    """Return the URLs of images in the words of a command line, as in image.source=URL,URL."""
    given = (word.partition("=")[2] for word in words if _IMAGE_WORD.match(word))
    return [url for values in given for url in _URL.findall(values)]


# -- trees of a spec, in JSON's types ----------------------------------------------------------------------------------


def masked_tree(value: Any) -> Any:
    """Return a spec with all its texts `masked`, and the `address` of the URLs of images."""
    return _changed(value, masked)


def with_addresses(value: Any) -> Any:
    """Return a spec with the `address` of the URLs of images, and all else as it is."""
    return _changed(value, lambda text: text)


def _changed(value: Any, of_text: Callable[[str], str], of_image: bool = False) -> Any:
    if isinstance(value, str):
        return of_text(value)
    if isinstance(value, Mapping):
        return {
            key: address(item)
            if of_image and key in IMAGE_URLS and isinstance(item, str)
            else _changed(item, of_text, key == "image")
            for key, item in value.items()
        }
    return [_changed(item, of_text) for item in value] if isinstance(value, list) else value


def image_urls(value: Any, of_image: bool = False) -> Iterator[str]:
    """Yield the URLs of images, and of their checksum files, in a spec."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if of_image and key in IMAGE_URLS and isinstance(item, str):
                yield item
            else:
                yield from image_urls(item, key == "image")
    elif isinstance(value, list):
        for item in value:
            yield from image_urls(item)
