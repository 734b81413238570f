"""A cache of things that are built on this machine: a folder each, put in place by one rename, built once.

CACHE/<digest>/…, build.json     whole builds: build.json has the size of every file
CACHE/.build-*/                  a build under way, or what a killed one left: the next build removes it
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
    """The folder of a whole build; None when there is none, or one with a file missing or cut short."""
    return cache / digest if _record(cache / digest) else None


def whole_builds(cache: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders of all whole builds, each with its build.json."""
    for path in cache.glob("[!.]*/build.json"):
        if record := _record(path.parent):
            yield path.parent, record


def _record(folder: Path) -> dict[str, Any] | None:
    """build.json, if the files that it lists have the sizes that they were built with."""
    try:
        record: dict[str, Any] = json.loads((folder / "build.json").read_text())
        sizes = record["size_bytes"]
        whole = sizes == {name: (folder / name).stat().st_size for name in sizes}
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return record if whole else None


def ensure(cache: Path, digest: str, what: str, build: Callable[[Path], Mapping[str, Any]], say: Say) -> Path:
    """The folder of the build `digest`; `build(folder)` makes its files there if there is none yet.

    What `build` returns is kept in build.json. `what` names the thing in messages. Raises what `build` does, OSError
    when the cache cannot be written.
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
    """Be the only one who builds; gives an empty folder to build in, which is removed in the end.

    What killed builds left is removed first. Raises OSError when the cache cannot be written.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as file:
        lock(file.fileno(), on_wait=lambda: say(f"{what}: another process is building it; waiting"))
        for leftover in cache.glob(f"{_BUILD_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_BUILD_PREFIX, dir=cache.absolute()) as work:
            yield Path(work)


def put_in_place(new: Path, folder: Path, facts: Mapping[str, Any], what: str, say: Say) -> Path:
    """Give the built folder `new` its name: it appears with all its files or not at all. Only while `building`.

    Returns:
        `folder`.
    """
    sizes = {path.name: path.stat().st_size for path in new.iterdir()}
    record = {"built_at": time.time(), "size_bytes": sizes, **facts}
    (new / "build.json").write_text(json.dumps(record, indent=1))
    shutil.rmtree(folder, ignore_errors=True)  # one that is not whole, or no longer
    new.rename(folder)
    say(f"{what}: built {folder} ({megabytes(sum(sizes.values()))})")
    return folder
