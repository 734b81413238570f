"""Replay of a run: the same resolved spec in a new run folder, with a check that its inputs are unchanged."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mvpnet.errors import ConfigError, HostError, ImageError, MvpnetError
from mvpnet.guest.drives import plan_drives
from mvpnet.images import store
from mvpnet.images.boot import boot_files, with_built_disk
from mvpnet.images.store.fetch import find
from mvpnet.images.store.request import parse_request
from mvpnet.images.store.store import Store
from mvpnet.paths import RunFolder, cache_base, claim_new_folder, host_path, launch_folder
from mvpnet.records import digests
from mvpnet.records.digests import Remembered, mark
from mvpnet.records.inputs import Input, as_plain, digested, error_free, job_inputs, rank_inputs
from mvpnet.records.run import Run
from mvpnet.records.typed import InputFile, read_as
from mvpnet.spec.codec import job_spec
from mvpnet.spec.drive_text import drive_of_file
from mvpnet.spec.model import JobSpec, RankSpec
from mvpnet.spec.plain import digest_of, plain
from mvpnet.spec.rank_set import RankSet, ranks_text
from mvpnet.spec.urls import address
from mvpnet.util.text import Say, and_more

_SHOWN_AT_MOST = 8
_IMAGE_HINT = (
    "a disk of the digest that the manifest gives is taken from the image store too: "
    "mvpnet image fetch image=file image.source=FILE puts one there, of a file or a whole URL"
)
_REPEATABLE_WITHOUT = re.compile(r"(typed\[\d+\]|.*\bimage\.(source|checksums))")  # only fetching an image needs these
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")  # of a dotted key


@dataclass(frozen=True)
class Change:
    """An input that changed since the run."""

    key: str
    ranks: str
    path: str | None
    what: str

    def __str__(self) -> str:
        return f"{self.key} (ranks {self.ranks}): {self.path + ': ' if self.path else ''}{self.what}"


def recorded_spec(run: Run, world_size: int) -> JobSpec:
    """Return the spec in the run's manifest.

    Raises:
        ConfigError: The world has another size, the spec does not match its digest, or parts of it were left out.
    """
    manifest, where = run.manifest, str(run.folder.manifest)
    if resumed := manifest.resumes:
        raise ConfigError(
            f"{run.folder.root}: went on from the save {resumed.save}, and did not boot its guests",
            hint=f"mpirun -n {run.world_size} mvpnet resume={resumed.save}",
        )
    spec = job_spec(run.content["spec"], where)
    if spec.world_size != world_size and not (spec.config.job.ranks and spec.world_size < world_size):
        raise ConfigError(
            f"{run.folder.root}: ran with {spec.world_size} ranks, and this world has {world_size}",
            hint=f"mpiexec -n {spec.world_size} mvpnet replay {run.folder.root}",
        )
    left_out = [key for key in manifest.left_out if not _REPEATABLE_WITHOUT.fullmatch(key)]
    if left_out:
        raise ConfigError(
            f"{where}: the user names, passwords or signatures in {', '.join(left_out)} were not recorded",
            hint="such a job is repeated from its own command line",
        )
    if not manifest.left_out and digest_of(run.content["spec"]) != manifest.digest:
        raise ConfigError(f"{where}: its spec is not the one that ran: the digest is another", hint="it was edited")
    return spec


def new_run_folder(spec: JobSpec, given: str | None) -> Path:
    """Return the new run folder: `given`, or a new one in runs/, named like a job's (hydra.run.dir in config.yaml).

    Raises:
        ConfigError: The folder holds a run already.
        HostError: The new one cannot be made.
    """
    if given is None:
        wanted = launch_folder() / time.strftime(f"runs/%Y-%m-%d/%H-%M-%S-{spec.name}")
        try:
            return claim_new_folder(wanted)
        except OSError as error:
            raise HostError(f"cannot make {error.filename or wanted}: {error.strerror}") from error
    folder = host_path(given, "--run-dir")
    RunFolder(folder).refuse_another_run("--run-dir", hint="name a new folder")
    return folder


def at_hand(run: Run, spec: JobSpec) -> JobSpec:
    """Return the spec with the paths of its inputs on this machine.

    Small files from an archive are copied into the new run folder. A disk that is not at its path is taken from the
    image store if the store has one of the same digest.

    Raises:
        ConfigError: A file in the archive is not what its digest says.
        HostError: A file cannot be copied.
    """
    images = Store(cache_base(spec.config.image.cache_dir) / "images").images()
    stored = {image.disk_sha256: drive_of_file(image.disk) for image in images}
    launched_in = run.manifest.launch_folder or ""
    moved = _from_archive(run, RunFolder(spec.run_dir))
    for one in run.manifest.inputs:
        path, digest = one.path, one.sha256
        if not path or not digest or path in moved:
            continue
        if digest in stored and one.key.startswith(("image.path", "image.drives")) and not Path(path).exists():
            moved[drive_of_file(Path(path))] = stored[digest]
        elif one.key.startswith("app") and launched_in != str(launch_folder()):
            moved[path] = path  # the app's words are relative to the folder of the launch
    python = run.manifest.software.executable
    if python and not Path(python).exists():
        moved[python] = sys.executable
    return job_spec(Moved(moved, launched_in).within(plain(spec)), str(run.folder.manifest)) if moved else spec


def _from_archive(run: Run, new: RunFolder) -> dict[str, str]:
    """Copy files from an archive that are missing here or differ, and return their new paths below `new`.

    A recipe and its folder stay together: if one of them is missing or differs, both are copied.
    """
    came = []
    for one in run.manifest.inputs:
        if one.path and one.sha256:
            along = run.folder.inputs / one.sha256 / Path(one.path).name
            came += [(one, Path(one.path), one.sha256, along)] if along.exists() else []
    recipe = [(path, one) for one, path, _, _ in came if one.key in ("recipe", "recipe.files")]
    recipe_is_here = all(_is_same(path, one) for path, one in recipe)
    moved = {}
    for one, path, digest, along in came:
        is_of_recipe = (path, one) in recipe
        if not (recipe_is_here if is_of_recipe else _is_same(path, one)):
            beside = recipe[0][1].sha256 if is_of_recipe else digest
            assert one.path and beside
            moved[one.path] = str(_brought(along, digest, new.inputs / beside))
    return moved


def _is_same(path: Path, one: InputFile) -> bool:
    seen = mark(path)
    if seen is None or seen.size_bytes != one.size_bytes:
        return False
    return bool(seen.mtime_ns == one.mtime_ns or digests.sha256(path) == one.sha256)


def _brought(along: Path, digest: str, folder: Path) -> Path:
    """Copy an archived input into `folder` and return the copy's path.

    Raises:
        ConfigError: It does not have the digest.
        HostError: It cannot be copied.
    """
    target = folder / along.name
    try:
        if digests.sha256(along) != digest:
            raise ConfigError(f"{along}: is not what its digest says; the archive was changed")
        target.parent.mkdir(parents=True, exist_ok=True)
        if along.is_dir():
            shutil.copytree(along, target, dirs_exist_ok=True)
        else:
            shutil.copy2(along, target)
    except OSError as error:
        raise HostError(f"{target}: cannot be written: {error.strerror or error}") from error
    return target


@dataclass(frozen=True)
class Moved:
    """New paths of moved files; texts name them by absolute path, or relative to `launch_folder`."""

    paths: Mapping[str, str]
    launch_folder: str

    def within(self, value: Any) -> Any:
        """Return a tree with the new paths in all texts that are paths of moved files or command lines with them."""
        if isinstance(value, Mapping):
            return {key: self.within(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.within(item) for item in value]
        if not isinstance(value, str) or (whole := self._path(value)) is not None:
            return value if not isinstance(value, str) else whole
        try:
            words = shlex.split(value)
        except ValueError:
            return value
        new = [self._path(word) or word for word in words]
        return value if new == words else shlex.join(new)

    def _path(self, word: str) -> str | None:
        """Return a moved file's new path, also for a file in a moved folder; None for any other word."""
        old = os.path.normpath(Path(self.launch_folder, word)) if word and "\0" not in word else ""
        folder = next((path for path in self.paths if old.startswith(f"{path}/")), None)
        return self.paths[folder] + old.removeprefix(folder) if folder else self.paths.get(old)


# -- is it still the same? ---------------------------------------------------------------------------------------------


def changes(run: Run, spec: JobSpec, say: Say) -> list[Change]:
    """Return the inputs that differ from the run's, or that this host cannot verify.

    Inputs that the guests wrote count as changed. Images that mvpnet builds are built if they are missing.

    Raises:
        MvpnetError: The spec cannot run here at all.
    """
    hosts = {rank: one.host for rank, one in run.manifest.ranks.items()}
    elsewhere = {rank for rank, host in hosts.items() if host != hosts.get(0)}
    with ExitStack() as stack:
        plain_now = _inputs_now(spec, elsewhere, stack, say)
    now = {(one.key, rank): one for one in plain_now for rank in _ranks(one.ranks)}
    found: dict[tuple[str, str | None, str], list[int]] = defaultdict(list)
    for old in run.manifest.inputs:
        for rank in _ranks(old.ranks):
            new = now.get((old.key, rank))
            if what := _changed(old, new, rank in elsewhere):
                found[old.key, old.path, what].append(rank)
    return [Change(key, ranks_text(ranks), path, what) for (key, path, what), ranks in found.items()]


def _changed(old: InputFile, new: InputFile | None, elsewhere: bool) -> str | None:
    """Describe the change of an input; None for no change, and for another host's input that this host lacks."""
    if old.written:
        return "the guest wrote it, so it is not what the run began with"
    if new is None:
        return None if elsewhere else "is not used any more"
    if new.size_bytes is None and new.sha256 is None:
        return None if elsewhere else str(new.by)
    if old.sha256 and new.sha256:
        return None if old.sha256 == new.sha256 else f"sha256 {new.sha256[:16]}…, was {old.sha256[:16]}…"
    if (old.size_bytes, old.mtime_ns) == (new.size_bytes, new.mtime_ns):
        return None
    return f"its digest was not recorded ({old.by}), and size or time of change differ"


def _inputs_now(spec: JobSpec, elsewhere: set[int], stack: ExitStack, say: Say) -> list[InputFile]:
    """Return the inputs as in a manifest, with every digest; for ranks on other hosts, only inputs found here."""
    by_rank = {}
    for rank in range(spec.world_size):
        of_rank = partial(_of_rank, spec.for_rank(rank), stack, say)
        by_rank[rank] = error_free(of_rank) if rank in elsewhere else of_rank()
    by_rank[0] = [*by_rank[0], *job_inputs(spec)]
    remembered = Remembered(cache_base(spec.config.image.cache_dir))
    done: dict[tuple[str | None, int | None, int | None], Input] = {}

    def known(one: Input) -> Input:
        if one.is_known:
            return one
        file = (one.path, one.size_bytes, one.mtime_ns)
        if file not in done:
            say(f"reading {one.path} for its digest")
            done[file] = digested(one, remembered)
        return replace(one, sha256=done[file].sha256, by=done[file].by)

    plain_now = as_plain({rank: [known(one) for one in inputs] for rank, inputs in by_rank.items()})
    return [read_as(InputFile, one, "inputs") for one in plain_now]


def _of_rank(spec: RankSpec, stack: ExitStack, say: Say) -> list[Input]:
    keys = (Path("authorized_keys"), Path("id_ed25519"))  # any paths do: qemu's options are not used
    boot = boot_files(spec, keys, say)
    drives = plan_drives(store.provide_image(with_built_disk(spec), stack, say), Path("scratch"))
    return rank_inputs(spec, drives, boot.kernel, boot.initrd)


def _ranks(text: str) -> list[int]:
    """Return the ranks that `ranks_text` wrote."""
    return [rank for first, last in RankSet.parse(text).ranges for rank in range(first, last + 1)]


def describe_changes(found: list[Change]) -> str:
    """Return one line per change, for the first changes."""
    lines = "\n".join(f"  {one}" for one in found[:_SHOWN_AT_MOST])
    return lines + and_more(len(found) - _SHOWN_AT_MOST, before="\n  ")


def replay_spec(
    run: Run, source: str, world_size: int, run_dir: str | None, *, refuse: bool, say: Say
) -> tuple[JobSpec, dict[str, Any]]:
    """Return the spec to run, and the manifest's entry about the run that it repeats.

    Args:
        run: The run to repeat.
        source: The path that the user gave for it.
        world_size: Number of ranks.
        run_dir: The new run folder; None for a name in runs/.
        refuse: Whether to refuse changed inputs.
        say: Called with lines for the user.

    Raises:
        ConfigError: Inputs changed and `refuse` is set.
        MvpnetError: What `recorded_spec`, `at_hand` and `changes` raise.
    """
    spec = recorded_spec(run, world_size)
    spec = at_hand(run, replace(spec, run_dir=new_run_folder(spec, run_dir)))
    try:
        _check_fetchable(run, spec)
        found = changes(run, spec, say)
    except MvpnetError as error:
        raise _impossible(source, error) from error
    if found and refuse:
        raise ConfigError(
            f"{source}: is made from files that are not what they were:\n{describe_changes(found)}",
            hint="--changed=warn runs it all the same",
        )
    if found:
        say(f"warning: not all is as it was:\n{describe_changes(found)}")
    link = {
        "run": source,
        "digest": run.manifest.digest,
        "begun": run.manifest.times.begun,
        "changed": [str(one) for one in found],
    }
    return spec, link


def _check_fetchable(run: Run, spec: JobSpec) -> None:
    """Refuse an image that is not here, and that only a URL gives of which the secrets were not recorded.

    Raises:
        ImageError: Names the URL, and the digest of what is missing.
    """
    keys = [key for key in run.manifest.left_out if key.endswith("image.source")]
    secret = {address(str(_value_at(run.content["spec"], key))) for key in keys}
    for rank in range(spec.world_size) if secret else ():
        want = parse_request(spec.for_rank(rank).image)
        if want and want.address in secret and find(want) is None:
            raise ImageError(
                f"image.source: the secrets of {want.address} were not recorded, and the image that it gave is not in "
                f"{want.root}: sha256 {want.sha256}"
            )


def _value_at(tree: Any, key: str) -> Any:
    for name, index in _STEP.findall(key):
        tree = tree[int(index)] if index else tree[name]
    return tree


def _impossible(source: str, error: MvpnetError) -> MvpnetError:
    """Return the error with its meaning for a replay added."""
    hint = _IMAGE_HINT if isinstance(error, ImageError) else error.hint
    return MvpnetError(f"{source}: cannot be run again here: {error.message}", hint=hint, exit_code=error.exit_code)
