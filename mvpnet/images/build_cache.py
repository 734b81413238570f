"""Cache builds made on this machine: one folder each, built once and put in place by one rename.

CACHE/<digest>/…, build.json     complete builds: build.json has the size of every file
CACHE/.build-*/                  a build in progress, or the rest of a killed one: the next build removes it
CACHE/.lock                      locked while building, so that ranks and jobs that start at once build once
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvpnet.util.locks import lock
from mvpnet.util.text import Say, megabytes

_BUILD_PREFIX = ".build-"


def find(cache: Path, digest: str) -> Path | None:
    """Return the folder of a complete build; None when there is none, or a file of it is missing or truncated."""
    return cache / digest if _record(cache / digest) else None


def whole_builds(cache: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the folders of all complete builds, each with its build.json."""
    for path in cache.glob("[!.]*/build.json"):
        if record := _record(path.parent):
            yield path.parent, record


def _record(folder: Path) -> dict[str, Any] | None:
    """Return build.json, if the files that it lists have their original sizes."""
    try:
        record: dict[str, Any] = json.loads((folder / "build.json").read_text())
        sizes = record["size_bytes"]
        whole = sizes == {name: (folder / name).stat().st_size for name in sizes}
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return record if whole else None


def ensure(cache: Path, digest: str, what: str, build: Callable[[Path], Mapping[str, Any]], say: Say) -> Path:
    """Return the folder of the build `digest`, after building it if it does not exist yet.

    Args:
        cache: Folder of the cache.
        digest: Digest of the build's inputs.
        what: Name of the build for messages.
        build: Called with an empty folder to create the files in. Its result is kept in build.json.
        say: Called with a line of text at each step.

    Raises:
        OSError: The cache cannot be written. Errors of `build` propagate too.
    """
    if folder := find(cache, digest):
        return folder
    with building(cache, what, say) as work:
        if folder := find(cache, digest):
            return folder
        new = work / "new"
        new.mkdir()
        return put_in_place(new, cache / digest, build(new), what, say)


@contextmanager
def building(cache: Path, what: str, say: Say) -> Iterator[Path]:
    """Lock the cache for building, and provide an empty folder, which is removed in the end.

    The rests of killed builds are removed first. Raises OSError when the cache cannot be written.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as file:
        lock(file.fileno(), on_wait=lambda: say(f"{what}: another process is building it; waiting"))
        for leftover in cache.glob(f"{_BUILD_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_BUILD_PREFIX, dir=cache.absolute()) as work:
            yield Path(work)


def put_in_place(new: Path, folder: Path, facts: Mapping[str, Any], what: str, say: Say) -> Path:
    """Rename the built folder `new` to its final name, so that it appears complete or not at all.

    Call it only while `building`.

    Returns:
        `folder`.
    """
    sizes = {path.name: path.stat().st_size for path in new.iterdir()}
    record = {"built_at": time.time(), "size_bytes": sizes, **facts}
    (new / "build.json").write_text(json.dumps(record, indent=1))
    shutil.rmtree(folder, ignore_errors=True)  # an incomplete build
    new.rename(folder)
    say(f"{what}: built {folder} ({megabytes(sum(sizes.values()))})")
    return folder
