"""Text as bytes, whatever the locale: names of files need not be text in any encoding.

Python keeps bytes that are not UTF-8 as lone surrogates (PEP 383). Written out, they become the same bytes again.
"""

from __future__ import annotations

import codecs
import os
import sys
from io import TextIOWrapper

AS_BYTES = "mvpnet.as_bytes"  # an error handler, for `errors=` of files and streams


def _encode(error: UnicodeError) -> tuple[bytes, int]:
    """Return what stands for signs that an encoding lacks: the bytes that they were, else an escape sequence."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return b"".join(map(_escaped, signs)), error.end


def _escaped(sign: str) -> bytes:
    return bytes([ord(sign) - 0xDC00]) if "\udc80" <= sign <= "\udcff" else sign.encode("ascii", "backslashreplace")


codecs.register_error(AS_BYTES, _encode)


def encoded(text: str) -> bytes:
    """Return the text in UTF-8. Never fails."""
    return text.encode("utf-8", AS_BYTES)


def set_up_streams() -> None:
    """Let standard output and error take any text, whatever encoding the locale or PYTHONIOENCODING gives them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=AS_BYTES)


def ensure_utf8() -> None:
    """Start this program anew in Python's UTF-8 mode where the locale has another encoding (PEP 540).

    Names of files would be read and written in that encoding else, and so would every file. Children inherit the mode.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return
    os.environ["PYTHONUTF8"] = "1"
    python = sys.executable
    os.execv(python, [python, "-X", "utf8", *sys.orig_argv[1:]])  # as it was started, but for the mode
