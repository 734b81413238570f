"""A cache of things that are built on this machine: a folder each, put in place by one rename, built once.

CACHE/<digest>/…, build.json     whole builds: build.json has the size of every file
CACHE/.build-*/                  a build under way, or what a killed one left: the next build removes it
CACHE/.lock                      held (flock) while building, so that ranks and jobs that start at once build once
"""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mvpnet.util.text import Say

_BUILD_PREFIX = ".build-"


def find(cache: Path, digest: str) -> Path | None:
    """The folder of a whole build; None when there is none, or one with a file missing or cut short."""
    folder = cache / digest
    try:
        sizes = json.loads((folder / "build.json").read_text())["size_bytes"]
        whole = sizes == {name: (folder / name).stat().st_size for name in sizes}
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return folder if whole else None


def ensure(cache: Path, digest: str, what: str, build: Callable[[Path], Mapping[str, Any]], say: Say) -> Path:
    """The folder of the build `digest`; `build(folder)` makes its files there if there is none yet.

    What `build` returns is kept in build.json. `what` names the thing in messages. Raises what `build` does, OSError
    when the cache cannot be written.
    """
    if folder := find(cache, digest):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache, what, say):
        if folder := find(cache, digest):
            return folder
        for leftover in cache.glob(f"{_BUILD_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_BUILD_PREFIX, dir=cache) as work:
            new = Path(work) / "new"
            new.mkdir()
            facts = build(new)
            sizes = {path.name: path.stat().st_size for path in new.iterdir()}
            record = {"built_at": time.time(), "size_bytes": sizes, **facts}
            (new / "build.json").write_text(json.dumps(record, indent=1))
            shutil.rmtree(cache / digest, ignore_errors=True)  # one that is not whole
            new.rename(cache / digest)
        say(f"{what}: built {cache / digest} ({sum(sizes.values()) / 1e6:.0f} MB)")
    return cache / digest


@contextmanager
def _locked(cache: Path, what: str, say: Say) -> Iterator[None]:
    """Hold the cache's lock. The kernel lets it go with the process that holds it, however that ends."""
    with (cache / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{what}: another process is building it; waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
