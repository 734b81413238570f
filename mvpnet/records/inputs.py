"""Input files of a run: images, kernel, initrd, seed, files for the guests, the app, the recipe.

Each rank reports its own inputs when it is prepared. Digests that are known or cheap are included then: those of the
image store, those cached by an earlier run (`digests`), and those of small files. The other files are read after the
guests have ended, each by one rank, for at most logging.digest_timeout_s, so that reading delays no start and disturbs
no measurement.
"""

from __future__ import annotations

import hashlib
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mvpnet.cloudinit.seed_files import SEED_KEY, rank_seed
from mvpnet.cloudinit.user_data import SeedFacts
from mvpnet.errors import MvpnetError
from mvpnet.guest.drives import DrivePlan
from mvpnet.paths import cache_base
from mvpnet.records.digests import OutOfTimeError, Remembered, mark, of_stored_image, sha256
from mvpnet.spec.drive_text import expand, parse_drive
from mvpnet.spec.model import JobSpec, RankSpec
from mvpnet.spec.plain import plain
from mvpnet.spec.rank_set import ranks_text
from mvpnet.util.encoding import encoded

_AT_ONCE_BYTES = 2**20  # digested before the guests start: a millisecond or two
_LATER = "not digested: the job was killed before"


@dataclass(frozen=True)
class Input:
    """One file, folder or device. If the digest is missing, `by` says why."""

    key: str  # image.path, image.drives[0], image.kernel, cloud_init.files./etc/motd, app.command[1], recipe, …
    path: str | None  # None for a generated seed, which is not kept
    size_bytes: int | None = None
    mtime_ns: int | None = None
    sha256: str | None = None
    by: str = _LATER  # store, cache, read at the start, read at the end
    written: bool = False  # the guest writes it, so its content before the run is lost

    @property
    def is_known(self) -> bool:
        return self.sha256 is not None or self.by != _LATER


def rank_inputs(spec: RankSpec, drives: Iterable[DrivePlan], kernel: Path | None, initrd: Path | None) -> list[Input]:
    """Return the inputs of this rank's guest, with the digests that are known or cheap."""
    remembered = Remembered(cache_base(spec.image.cache_dir))
    found = [_input(key, path, remembered, written) for key, path, written in _drive_files(drives)]
    found += [_input(key, path, remembered) for key, path in _boot_files(kernel, initrd)]
    found += [_input(key, path, remembered) for key, path in _files_for_guest(spec)]
    return [*found, *_made_seed(spec)]


def job_inputs(job: JobSpec) -> list[Input]:
    """Return the inputs that only rank 0 reports: files named in the app's commands, and the recipe with its folder."""
    remembered = Remembered(cache_base(job.config.image.cache_dir))
    named = [*_app_files("app", plain(job.config.app)), *_recipe_files(job.recipe)]
    return [_input(key, path, remembered) for key, path in named]


def _drive_files(drives: Iterable[DrivePlan]) -> Iterator[tuple[str, Path, bool]]:
    for drive in drives:
        if drive.key == SEED_KEY:
            continue
        if drive.source:
            yield drive.key, drive.source, drive.writes and drive.target == drive.source
        elif name := parse_drive(drive.option, drive.key).properties.get("file"):
            yield drive.key, Path(name), False


def _boot_files(kernel: Path | None, initrd: Path | None) -> Iterator[tuple[str, Path]]:
    for key, path in (("image.kernel", kernel), ("image.initrd", initrd)):
        if path:
            yield key, path


def _files_for_guest(spec: RankSpec) -> Iterator[tuple[str, Path]]:
    if spec.makes_seed:
        for target, source in sorted(spec.cloud_init.files.items()):
            key = f"cloud_init.files.{target}"
            yield key, Path(expand(source, spec, key))
        if named := spec.cloud_init.user_data_file:
            yield "cloud_init.user_data_file", Path(expand(named, spec, "cloud_init.user_data_file"))


def _made_seed(spec: RankSpec) -> Iterator[Input]:
    """Yield the seed, without the user's and the job's keys and names, which differ between runs."""
    if spec.makes_seed:
        nameless = replace(spec, job_name="job", image=replace(spec.image, user=spec.image.user or "user"))
        seed = rank_seed(nameless, nameless.image.user or "user", SeedFacts("", ""))
        texts = "\0".join(f"{name}\0{text}" for name, text in sorted(seed.files().items()))
        yield Input(SEED_KEY, None, len(texts), None, hashlib.sha256(encoded(texts)).hexdigest(), "made from the spec")


def _app_files(key: str, step: Mapping[str, Any], kind: str = "host") -> Iterator[tuple[str, Path]]:
    """Yield the host's files that a step, or an app with its steps, names, each with its key.

    These are files in its command on the host, its script for guests, and files sent to guests. Programs on PATH and
    Python are not included (`environment.software`).
    """
    kind = step.get("kind") or kind
    words = {"script": step.get("script"), **({"command": step.get("command")} if kind == "host" else {})}
    for name, value in words.items():
        yield from ((place, path) for place, word in _words(f"{key}.{name}", value) if (path := _file_named(word)))
    for target, source in (step.get("push") or {}).items():
        yield f"{key}.push.{target}", Path(source).absolute()
    for name, one in (step.get("steps") or {}).items():
        yield from _app_files(f"{key}.steps.{name}", one, kind)


def _words(key: str, command: Any) -> Iterator[tuple[str, str]]:
    """Yield each word of a command line with its key."""
    if isinstance(command, str):
        try:
            command = shlex.split(command)
        except ValueError:
            return
    for index, word in enumerate(command or []):
        yield f"{key}[{index}]", str(word)


def _file_named(word: str) -> Path | None:
    try:
        path = Path(word).absolute()
        return path if path.is_file() and word != sys.executable else None
    except (OSError, ValueError):  # too long for a path, or contains a zero byte
        return None


def _recipe_files(recipe: Path | None) -> Iterator[tuple[str, Path]]:
    if recipe:
        yield "recipe", recipe
        if (folder := recipe.with_suffix("")).is_dir():
            yield "recipe.files", folder


def _input(key: str, path: Path, remembered: Remembered, written: bool = False) -> Input:
    seen = mark(path)
    if seen is None:
        return Input(key, str(path), by="cannot be read")
    one = Input(key, str(path), seen.size_bytes, seen.mtime_ns, written=written)
    if written:
        return replace(one, by="not digested: the guest writes it")
    if stored := of_stored_image(path):
        return replace(one, sha256=stored, by="store")
    if known := remembered.find(path, seen):
        return replace(one, sha256=known, by="cache")
    return digested(one, remembered, "read at the start") if seen.size_bytes <= _AT_ONCE_BYTES else one


def digested(
    one: Input, remembered: Remembered, when: str = "read at the end", go_on: Callable[[], bool] = lambda: True
) -> Input:
    """Return the input with its digest.

    Args:
        one: The input. If the file has changed since it was made, it gets no digest.
        remembered: The cache of digests.
        when: The value of `by` for a file that is read now.
        go_on: Called while reading; False stops it.
    """
    assert one.path
    path = Path(one.path)
    try:
        seen = mark(path)
        if seen is None or (seen.size_bytes, seen.mtime_ns) != (one.size_bytes, one.mtime_ns):
            return replace(one, by="not digested: it changed while the job ran")
        digest = remembered.find(path, seen) or sha256(path, go_on)
        if mark(path) != seen:
            return replace(one, by="not digested: it changed while it was read")
    except OutOfTimeError:
        return replace(one, by="not digested: that took longer than logging.digest_timeout_s, or a signal came")
    except OSError as error:
        return replace(one, by=f"not digested: {error.strerror}")
    remembered.keep(path, seen, digest)
    return replace(one, sha256=digest, by=when)


def digest_all(inputs: Sequence[Input], cache: Path, limit_s: float, go_on: Callable[[], bool]) -> list[Input]:
    """Return the inputs with all digests that can be made within `limit_s` seconds in total."""
    deadline_s = time.monotonic() + limit_s
    remembered = Remembered(cache)
    return [digested(one, remembered, go_on=lambda: time.monotonic() < deadline_s and go_on()) for one in inputs]


# -- all ranks' together -----------------------------------------------------------------------------------------------


def shared_out(by_rank: Mapping[int, Sequence[Input]]) -> dict[int, list[Input]]:
    """Assign each file without a digest to the lowest rank that uses it.

    Files of the same path, size and time of change on several hosts are treated as the same file.
    """
    taken: set[tuple[str | None, int | None, int | None]] = set()
    shares: dict[int, list[Input]] = defaultdict(list)
    for rank, inputs in sorted(by_rank.items()):
        for one in inputs:
            if not one.is_known and (file := (one.path, one.size_bytes, one.mtime_ns)) not in taken:
                taken.add(file)
                shares[rank].append(one)
    return dict(shares)


def with_digests(by_rank: Mapping[int, Sequence[Input]], found: Iterable[Input]) -> dict[int, list[Input]]:
    """Return the inputs with the found digests filled in for all ranks that use the files."""
    known = {(one.path, one.size_bytes, one.mtime_ns): one for one in found}

    def filled(one: Input) -> Input:
        new = None if one.is_known else known.get((one.path, one.size_bytes, one.mtime_ns))
        return replace(one, sha256=new.sha256, by=new.by) if new else one

    return {rank: [filled(one) for one in inputs] for rank, inputs in by_rank.items()}


def as_plain(by_rank: Mapping[int, Sequence[Input]]) -> list[dict[str, Any]]:
    """Return the inputs for the manifest: one entry per input, with the ranks that share it."""
    users: dict[Input, list[tuple[int, Input]]] = defaultdict(list)
    for rank, inputs in sorted(by_rank.items()):
        for one in inputs:
            same = replace(one, by="") if one.sha256 else one  # `by` may differ: read or cached
            users[same].append((rank, one))
    return [{**asdict(found[0][1]), "ranks": ranks_text([rank for rank, _ in found])} for found in users.values()]


def error_free(make: Callable[[], list[Input]]) -> list[Input]:
    """Return what `make` returns; empty if it fails, because a missing record must not stop a job."""
    try:
        return make()
    except (MvpnetError, OSError):
        return []
