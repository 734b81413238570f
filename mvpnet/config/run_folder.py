"""The folder of a launch: a job's run folder, or the folder of a sweep. No two launches share one.

A name that holds the time of the launch, as the default does, is not meant to be the name of another run's folder:
where there is one already, the next free name is taken. A name without the time is the user's own: the folder may be
there, and is locked while it is used, so that a second launch is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, flag_override

from mvpnet.config.launch_context import launch_context
from mvpnet.config.references import check_references_at
from mvpnet.errors import ConfigError, HostError, MvpnetError
from mvpnet.logs import say
from mvpnet.paths import claim_new_folder, host_path
from mvpnet.spec.escape import resolved_already
from mvpnet.spec.urls import masked
from mvpnet.util.files import create_folder

_SUBDIR = "hydra.sweep.subdir"
_NAME_BYTES = 240  # of the 255 that a file name may have; the rest is for a number


@dataclass(frozen=True)
class ClaimedFolder:
    """A folder that is this launch's alone until it is released."""

    path: Path
    made: bool  # by this launch
    lock_fd: int | None = None

    def release(self) -> None:
        """Let others have the folder, and remove it where it was made and nothing was put in."""
        if self.made:
            with suppress(OSError):
                self.path.rmdir()
        if self.lock_fd is not None:
            os.close(self.lock_fd)


def claim(config: DictConfig, key: str) -> ClaimedFolder:
    """Make the folder that hydra.run.dir or hydra.sweep.dir names this launch's own, and write its path into the key.

    Args:
        config: The whole config, with Hydra's part.
        key: The key.

    Raises:
        ConfigError: It is no path, or another launch uses the folder.
        HostError: The folder cannot be made.
    """
    section, _, name = key.rpartition(".")
    written = OmegaConf.to_container(OmegaConf.select(config, section), resolve=False)
    assert isinstance(written, dict)
    check_references_at(config, key)
    wanted = host_path(str(OmegaConf.select(config, key)), key)
    try:
        claimed = _next_free(wanted) if "${now:" in str(written[name]) else _named(wanted, key)
    except OSError as error:
        where = f"{error.filename}: " if error.filename not in (None, str(wanted)) else ""
        raise HostError(f"{key}: cannot make {wanted}: {where}{error.strerror}", hint="name another folder") from error
    _set(config, key, resolved_already(str(claimed.path)))
    if config.hydra.job.chdir:
        say("warning: hydra.job.chdir has no effect: a job stays in the folder of its launch; see $MVPNET_RUNDIR")
        _set(config, "hydra.job.chdir", False)
    return claimed


def _set(config: DictConfig, key: str, value: str | bool) -> None:
    """Set a key of Hydra's part of a config, which is read-only."""
    with flag_override(config, ["struct", "readonly"], False), flag_override(config.hydra, "readonly", False):
        OmegaConf.update(config, key, value)


def _next_free(wanted: Path) -> ClaimedFolder:
    return ClaimedFolder(claim_new_folder(wanted), made=True)


def _named(folder: Path, key: str) -> ClaimedFolder:
    """Make and lock the folder. Where the file system has no locks, the run's own records refuse a second run.

    Raises:
        ConfigError: Another launch has locked it.
        OSError: It cannot be made.
    """
    made = create_folder(folder)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise ConfigError(
            f"{key}: {folder} is being used by another launch of mvpnet", hint="name a new folder, or leave it out"
        ) from None
    except OSError:
        os.close(fd)
        return ClaimedFolder(folder, made)
    return ClaimedFolder(folder, made, fd)


def claim_job_folder(config: DictConfig, sweep_folder: Path) -> Path:
    """Make a folder for one job of a sweep, named by hydra.sweep.subdir, and write its path into the keys.

    A name that another job has, such as that of a combination's repeats, gets a number. A slash cannot be in a file
    name, and a sweep's jobs are looked for in its own folder: it becomes a low line.

    Raises:
        ConfigError: It is no file name.
        HostError: The folder cannot be made.
    """
    HydraConfig.instance().set_config(config)  # for ${hydra:…} in the name
    check_references_at(config, _SUBDIR)
    text = str(OmegaConf.select(config, _SUBDIR))
    name = masked(text).replace("/", "_")
    if name in ("", ".", "..") or "\0" in name:
        raise ConfigError(f"{_SUBDIR}: {text!r} is no name for a folder", hint=f"as in {_SUBDIR}='${{vm.memory}}'")
    if len(os.fsencode(name)) > _NAME_BYTES:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        name = os.fsdecode(os.fsencode(name)[: _NAME_BYTES - len(digest) - 1]) + f"-{digest}"
    try:
        folder = claim_new_folder(sweep_folder / name)
    except OSError as error:
        raise HostError(f"{_SUBDIR}: cannot make {error.filename}: {error.strerror}") from error
    _set(config, "hydra.sweep.dir", resolved_already(str(sweep_folder)))
    _set(config, _SUBDIR, resolved_already(folder.name))
    _set(config, "hydra.job.chdir", False)
    return folder


class RunFolderCallback(Callback):
    """Claims a job's run folder before Hydra makes it. conf/config.yaml tells Hydra of it."""

    def on_run_start(self, config: DictConfig, **others: object) -> None:
        """Claim the folder that hydra.run.dir names. Hydra turns errors of callbacks into warnings: they are kept."""
        launch = launch_context()
        if launch is None:
            return
        try:
            launch.claimed = claim(config, "hydra.run.dir")
            launch.run_dir = launch.claimed.path
        except MvpnetError as error:
            launch.refused = error
            _set(config, "hydra.run.dir", ".")  # so that Hydra makes nothing
