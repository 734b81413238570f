"""Download a URL into a file by HTTP, and resume broken transfers.

    NAME.part    the beginning of the file
    NAME.json    the version of the file on the server that it belongs to: its ETag or Last-Modified, and its size

A transfer is resumed (RFC 9110, 14.2 and 13.1.5: Range and If-Range) only if the server confirms that the file is
unchanged; otherwise it restarts. Proxies and passwords are found by requests: in the environment (https_proxy) and
in ~/.netrc.
"""

from __future__ import annotations

import errno
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mvpnet.errors import ImageError
from mvpnet.images.store.progress import Advance, Meter
from mvpnet.spec.urls import address, file_name, masked

if TYPE_CHECKING:
    from requests import Response

_TRIES = 5  # for one transfer that breaks off, with progress each time
_TIMEOUT_S = 30  # for the connection, and for silence on it
_CHUNK = 64 * 1024  # bytes; a transfer that breaks off loses less than one
_TEXT_BYTES = 4 * 2**20  # the longest checksum file that is read
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_OFFLINE_HINT = (
    "hosts of a cluster often have no way out: fetch where there is one, by mvpnet image fetch with the same "
    "arguments and an image.cache_dir that both see; a proxy is taken from https_proxy"
)


class _CutOffError(Exception):
    """The transfer broke off after it had begun."""


class _StalePartError(Exception):
    """The partial file is of no use to this server."""


def download(url: str, part: Path, meter: Meter, *, proven: bool, expected_bytes: int | None = None) -> None:
    """Download all of `url` into `part`.

    A partial transfer is kept for the next time, unless the disk was full.

    Args:
        url: The URL.
        part: File for the data, which may have the beginning already.
        meter: Shows the progress.
        proven: The digest of the file is known and will be checked.
        expected_bytes: Refuse a file of any other size before it is fetched.

    Raises:
        ImageError: Says what the server, the connection or the disk reported.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            _attempt(url, part, meter, proven, expected_bytes)
            return
        except _StalePartError:
            part.unlink(missing_ok=True)
        except _CutOffError as error:
            if not tries_left:
                raise ImageError(
                    f"image.source: {address(url)} was cut off {_TRIES} times: {error}",
                    hint=f"what came is kept in {part}; fetch again to go on",
                ) from error
    raise ImageError(f"image.source: the server of {address(url)} answers every request for a part with another part")


def download_small(url: str) -> bytes:
    """Return the content of a small file. Raises ImageError."""
    sink = io.BytesIO()

    def begin(response: Response) -> None:
        _refuse_downgrade(url, response, proven=False)
        if int(response.headers.get("Content-Length") or 0) > _TEXT_BYTES:
            raise ImageError(f"image.checksums: {address(url)} is too long to be a checksum file")

    _get(url, sink.write, begin, {})
    return sink.getvalue()


def _attempt(url: str, part: Path, meter: Meter, proven: bool, expected_bytes: int | None) -> None:
    with part.open("ab") as file, ExitStack() as stack:
        sink = _Sink(url, part, file, meter, stack, proven, expected_bytes)
        if sink.is_whole():
            return
        try:
            _get(url, sink.write, sink.begin, sink.request_headers())
            file.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            part.unlink(missing_ok=True)
            raise _no_space(url, part.parent, sink.missing_bytes()) from error
        if sink.total is not None and not sink.is_whole():
            raise _CutOffError(f"{sink.size} bytes came of {sink.total}")


class _Sink:
    """File that a transfer is written to, and the known facts about the whole file."""

    def __init__(
        self,
        url: str,
        part: Path,
        file: IO[bytes],
        meter: Meter,
        stack: ExitStack,
        proven: bool,
        expected_bytes: int | None,
    ) -> None:
        self._url, self._file, self._meter, self._stack = url, file, meter, stack
        self._proven, self._expected_bytes = proven, expected_bytes
        self._folder = part.parent
        self._state = part.with_suffix(".json")
        self._advance: Advance = lambda count: None
        self.size = file.tell()
        known = _read_state(self._state) if self.size else {}
        self._validator: str | None = known.get("validator") if known.get("url") == address(url) else None
        self.total: int | None = known.get("total_bytes") if self._validator else None

    def is_whole(self) -> bool:
        return self.total is not None and self.size == self.total

    def missing_bytes(self) -> int:
        return max(0, (self.total or 0) - self.size)

    def request_headers(self) -> dict[str, str]:
        if not (self.size and self._validator):
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self._validator}

    def begin(self, response: Response) -> None:
        """Handle an answer before its body is read (requests' response hook)."""
        _refuse_downgrade(self._url, response, proven=self._proven)
        if response.status_code == 416:
            raise _StalePartError
        if response.is_redirect or response.status_code >= 400:
            return
        if response.status_code == 206:
            match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != self.size:
                raise _StalePartError
        else:
            self._file.truncate(0)
            self.size = 0
        length = response.headers.get("Content-Length")
        self.total = self.size + int(length) if length is not None else None
        if None not in (self.total, self._expected_bytes) and self.total != self._expected_bytes:
            raise ImageError(
                f"{address(self._url)} has {self.total} bytes now, and {self._expected_bytes} where it was locked: the "
                "vendor has published another one",
                hint="mvpnet image lock --update pins the new one; for the old one, image.source is its dated URL",
            )
        if self.missing_bytes() > shutil.disk_usage(self._folder).free:
            raise _no_space(self._url, self._folder, self.missing_bytes())
        state = {"url": address(self._url), "validator": _validator(response.headers), "total_bytes": self.total}
        self._state.write_text(json.dumps(state))
        self._advance = self._stack.enter_context(self._meter(f"fetching {_name(self._url)}", self.total, self.size))

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)
        self._advance(len(data))


def _get(
    url: str, write: Callable[[bytes], object], begin: Callable[[Response], None], headers: dict[str, str]
) -> None:
    """Send one request and call `begin` with each answer.

    Raises:
        ImageError: The request failed.
        _CutOffError: The connection was lost in the middle.
    """
    from mvpnet.images.store import http_session

    begun = False
    responses = ExitStack()

    def hook(response: Response, **_: object) -> None:
        nonlocal begun
        responses.callback(response.close)
        begin(response)
        # Some servers declare a .gz file as gzip-encoded, and requests would unpack it. The digest is that of the
        # packed file.
        response.raw.headers.pop("Content-Encoding", None)
        begun = response.ok and not response.is_redirect

    headers = {"Accept-Encoding": "identity", **headers}
    try:
        with responses:
            session = responses.enter_context(http_session.Session())
            response = session.get(url, headers=headers, hooks={"response": hook}, timeout=_TIMEOUT_S, stream=True)
            if not response.ok:
                raise _refused(url, response)
            for data in response.iter_content(_CHUNK):
                write(data)
    except http_session.RequestException as error:
        if begun:
            raise _CutOffError(_reason(error)) from error
        raise ImageError(f"{address(url)} cannot be had: {_reason(error)}", hint=_OFFLINE_HINT) from error
    except UnicodeDecodeError as error:  # what requests asks for a password
        hint = "save ~/.netrc as UTF-8"
        raise ImageError(f"{address(url)} cannot be had: ~/.netrc is no text in UTF-8", hint=hint) from error


def _refused(url: str, answer: Response) -> ImageError:
    return ImageError(
        f"{address(url)} cannot be had: the server answers {answer.status_code} {answer.reason}",
        hint="has the vendor moved it? image.source names another place" if answer.status_code == 404 else None,
    )


def _reason(error: Exception) -> str:
    """Return the innermost message of requests, urllib3 and the system, such as "Connection refused"."""
    inner: BaseException = error
    while True:
        nested = [a for a in (*inner.args, getattr(inner, "reason", None)) if isinstance(a, BaseException)]
        following = inner.__cause__ or inner.__context__ or (nested[0] if nested else None)
        if following is None:
            return masked(str(inner)) or type(inner).__name__
        inner = following


def _refuse_downgrade(url: str, response: Response, *, proven: bool) -> None:
    if not proven and urlsplit(url).scheme == "https" and urlsplit(response.url).scheme == "http":
        raise ImageError(
            f"{address(url)} leads to {address(response.url)}, which anybody on the way can change",
            hint="image.sha256 or image.checksums makes sure of what comes",
        )


def _validator(headers: Mapping[str, str]) -> str | None:
    """Return a value for If-Range: a strong entity tag, else the date of the last change."""
    tag = headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    return headers.get("Last-Modified")


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _name(url: str) -> str:
    return file_name(url) or address(url)


def _no_space(url: str, folder: Path, needed: int) -> ImageError:
    return ImageError(
        f"image.cache_dir: no space left in {folder} for {address(url)}: {needed} more bytes needed, "
        f"{shutil.disk_usage(folder).free} free",
        hint="mvpnet image prune frees some, or choose another folder by image.cache_dir",
    )
