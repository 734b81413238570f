"""The first line of a script, by which Linux finds the program that runs it: execve(2), "Interpreter scripts"."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

HEAD_BYTES = 4096  # enough for the first line
_MARK = b"\xef\xbb\xbf"
UNIX_LINES_HINT = "write it with Unix's line ends: sed -i 's/\\r$//' FILE"


def first_line_fault(head: bytes) -> str | None:
    """Return why a script's beginning makes it fail everywhere; None if it is none, or not seen there.

    Args:
        head: The file's first bytes.
    """
    if head.startswith(_MARK + b"#!"):
        return "has a byte order mark before its #!, so that Linux does not see it"
    if not head.startswith(b"#!"):
        return None
    line = head.split(b"\n", 1)[0]
    name = interpreter(head)
    if line.endswith(b"\r"):
        return f"has lines that end in CR LF, as on Windows: Linux would look for an interpreter {name + chr(13)!r}"
    if not name:
        return "names no interpreter behind its #!"
    return None if name.startswith("/") else f"names the interpreter {name!r}, which is no absolute path"


def interpreter(head: bytes) -> str:
    """Return the interpreter that a script names; empty if it names none."""
    words = _words(head)
    return words[0] if words else ""


def _words(head: bytes) -> list[str]:
    line = head.split(b"\n", 1)[0].decode(errors="replace")
    return line.removeprefix("#!").split() if line.startswith("#!") else []


def script_fault(path: Path, *, is_text: bool) -> str | None:
    """Return why a script can run nowhere; None if that is not seen at its beginning.

    Args:
        path: The file.
        is_text: Whether a text without #! is a script too, for sh.
    """
    head = _head(path)
    if is_text and not head.startswith(b"#!") and b"\r\n" in head and b"\0" not in head:
        return "has lines that end in CR LF, as on Windows, which sh takes for parts of its commands"
    return first_line_fault(head)


def host_script_fault(path: Path) -> str | None:
    """Return why a script cannot run on this host; None if that is not seen in its first line."""
    head = _head(path)
    if fault := first_line_fault(head):
        return fault
    name = interpreter(head)
    if name and not Path(name).exists():
        return f"names the interpreter {name}, and there is none on this host"
    words = _words(head)
    if Path(name).name == "env" and len(words) == 2 and not shutil.which(words[1]):
        return f"is for {words[1]}, and there is no such program on this host's PATH"
    return None


def is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _head(path: Path) -> bytes:
    """Return a file's first bytes; none of a file that is not there yet, or cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""
