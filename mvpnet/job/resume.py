"""Resuming of a saved job, `mpirun -n N mvpnet resume=NAME`, on rank 0.

All that makes the machines comes from the save. The words beside `resume=` may say what else the job does (`app`), what
it writes down, how it ends, and where on the host it lives.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mvpnet.errors import ConfigError, HostError
from mvpnet.logs import say
from mvpnet.paths import RunFolder
from mvpnet.records.replay import changes, describe_changes, new_run_folder
from mvpnet.records.run import Run, read_json
from mvpnet.snapshot.layout import Save, SaveFolder, read_save, save_folder
from mvpnet.snapshot.restore import Resume
from mvpnet.spec.aliases import new_key
from mvpnet.spec.codec import job_spec
from mvpnet.spec.model import JobSpec
from mvpnet.spec.schema import App, Config
from mvpnet.ssh import KeyPair

_WORD = "resume="
_RUN_DIR = "hydra.run.dir"
FREE_SECTIONS = ("app", "logging", "shutdown")
FREE_KEYS = ("job.name", "job.scratch_dir", "boot.timeout_s", "net.ssh_port")
_OF_IMAGES = ("image.", "vm.firmware")  # of a manifest's inputs, what disks and memory stand on


@dataclass(frozen=True)
class ResumeRequest:
    """The request on the command line."""

    name: str
    words: tuple[str, ...]  # the others
    keys: tuple[str, ...]  # that those set

    @property
    def run_dir_given(self) -> bool:
        return _RUN_DIR in self.keys


@dataclass(frozen=True)
class SavedJob:
    """The spec to run, and its provenance."""

    spec: JobSpec
    resume: Resume
    keys: KeyPair
    record: Mapping[str, Any]  # for the manifest


def is_resume(argv: Sequence[str]) -> bool:
    return any(word.startswith(_WORD) for word in argv)


def parse_resume(argv: Sequence[str]) -> ResumeRequest:
    """Return the request on a command line.

    Raises:
        ConfigError: A word cannot be combined with `resume=`.
    """
    names = [word.removeprefix(_WORD) for word in argv if word.startswith(_WORD)]
    words = tuple(word for word in argv if not word.startswith(_WORD))
    if len(names) > 1:
        raise ConfigError(f"resume: is given {len(names)} times")
    keys = tuple(new_key(word.lstrip("+~").partition("=")[0]) for word in words)
    for word, key in zip(words, keys, strict=True):
        if not (key == _RUN_DIR or key in FREE_KEYS or key.partition(".")[0] in FREE_SECTIONS):
            raise ConfigError(
                f"{word}: cannot be given with resume={names[0]}: the machines are as they were saved",
                hint=f"what can be: {', '.join((*FREE_SECTIONS, *FREE_KEYS, _RUN_DIR))}",
            )
    return ResumeRequest(names[0], words, keys)


def saved_job(argv: Sequence[str], world_size: int) -> SavedJob:
    """Return the job to resume.

    Raises:
        ConfigError, HostError, ImageError: The save cannot be resumed.
    """
    want = parse_resume(argv)
    folder = SaveFolder(save_folder(want.name))
    save = read_save(folder)
    spec = _spec(want, save, folder, world_size)
    if found := _changes(save, folder, spec):
        raise ConfigError(
            f"resume={want.name}: what the saved disks stand on is not what it was:\n{found}",
            hint="put it back as it was; memory and disks of the save fit nothing else",
        )
    try:
        keys = KeyPair(folder.public_key.read_text(), folder.private_key.read_text())
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}") from error
    record = {"save": str(folder.root), "id": save.id, "saved_s": save.saved_s, "job": save.job}
    saved_at = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(save.saved_s))
    say(f"going on from {folder.root}, saved on {saved_at} from job {save.job}")
    return SavedJob(spec, Resume(folder.root, save.id, tuple(save.stands_on.items())), keys, record)


def _spec(want: ResumeRequest, save: Save, folder: SaveFolder, world_size: int) -> JobSpec:
    from mvpnet.config import compose

    spec = job_spec(save.spec, str(folder.save_json))
    if spec.world_size != world_size and not (spec.config.job.ranks and spec.world_size < world_size):
        raise ConfigError(
            f"resume={want.name}: has {spec.world_size} ranks, and this world has {world_size}",
            hint=f"mpirun -n {spec.world_size} mvpnet resume={want.name}",
        )
    given = compose.compose(list(want.words), world_size)
    config = with_given(spec.config, given.config, want.keys)
    spec = dataclasses.replace(spec, config=config, typed=(f"{_WORD}{want.name}", *want.words), recipe=None, repeat=1)
    run_dir = given.run_dir if want.run_dir_given else new_run_folder(spec, None)
    return dataclasses.replace(spec, run_dir=run_dir)


def with_given(saved: Config, given: Config, keys: Sequence[str]) -> Config:
    """Return the saved config with the given values of `keys`. The saved app is dropped: it was interrupted."""
    config = dataclasses.replace(saved, app=App())
    for key in keys:
        section, _, rest = key.partition(".")
        if section == "hydra":
            continue
        if section == "app" or not rest:
            config = dataclasses.replace(config, **{section: getattr(given, section)})
        else:
            name = rest.partition(".")[0]
            new = dataclasses.replace(getattr(config, section), **{name: getattr(getattr(given, section), name)})
            config = dataclasses.replace(config, **{section: new})
    return config


def _changes(save: Save, folder: SaveFolder, spec: JobSpec) -> str:
    """Return a line for each image, kernel and initrd that changed."""
    manifest = read_json(folder.manifest)
    if manifest is None:
        raise ConfigError(f"{folder.manifest}: is not there", hint="the save is not whole")
    inputs = [one for one in manifest["inputs"] if one["key"].startswith(_OF_IMAGES)]
    run = Run(RunFolder(folder.root), {**manifest, "inputs": inputs})
    found = changes(run, spec, say)
    return describe_changes(found) if found else ""
