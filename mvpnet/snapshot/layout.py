"""Layout of a save on disk, and the folder of all saves.

NAME/                 0700; while it is made, .NAME.ID.part beside it
    save.json         what was saved, when, and the whole spec; written last, so a folder without it is not a save
    manifest.json     of the run at that time: which images the guests had
    id_ed25519, .pub  the job's keys, 0600
    rank-0000/        on the host of the rank; on a shared file system all ranks are together
        rank.json     the rank's files, and the qemu and machine that they fit
        memory        memory and state of the devices, in qemu's migration format
        drive0.disk   a disk that the guest writes: its overlay, or its copy
        seed.iso      the cloud-init seed, where mvpnet made one
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from mvpnet.errors import ConfigError, HostError
from mvpnet.paths import host_path, state_base

FORMAT: Final = 1  # increased when a reader of the old format would misread the new one
SAVES_KEY: Final = "MVPNET_SAVES"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_PART = re.compile(r"\.(.+)\.[0-9a-f]{12}\.part")


def saves_base() -> Path:
    """Return the folder of this user's saves: MVPNET_SAVES, else below the XDG state folder (XDG Base Directory)."""
    if given := os.environ.get(SAVES_KEY):
        return host_path(given, SAVES_KEY)
    return state_base() / "saves"


def save_folder(name: str) -> Path:
    """Return the folder of a save by the NAME given on a command line.

    Raises:
        ConfigError: The name is not usable.
    """
    if name.startswith("~"):
        name = str(host_path(name, "NAME of a save"))
    if Path(name).is_absolute() and Path(name).name:
        return Path(os.path.normpath(name))
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name of a save",
            hint="letters, digits, dot, dash and underscore, at most 63, a letter or digit first; or an absolute path",
        )
    return saves_base() / name


@dataclass(frozen=True)
class SaveFolder:
    """Paths of a save."""

    root: Path

    @property
    def save_json(self) -> Path:
        return self.root / "save.json"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def private_key(self) -> Path:
        return self.root / "id_ed25519"

    @property
    def public_key(self) -> Path:
        return self.root / "id_ed25519.pub"

    def rank(self, rank: int) -> RankFolder:
        return RankFolder(self.root / f"rank-{rank:04d}")


@dataclass(frozen=True)
class RankFolder:
    root: Path

    @property
    def rank_json(self) -> Path:
        return self.root / "rank.json"

    @property
    def memory(self) -> Path:
        return self.root / "memory"

    @property
    def seed(self) -> Path:
        return self.root / "seed.iso"

    def disk(self, index: int) -> Path:
        return self.root / f"drive{index}.disk"


@dataclass(frozen=True)
class RankPart:
    """Content of rank.json. Sizes in bytes."""

    save: str  # the save's id
    rank: int
    qemu_version: str
    accel: str
    cpu_flags: list[str]  # of the host, if the guest ran under KVM
    machine: list[str]  # qemu's options that define the machine that the guest sees
    disks: dict[str, str]  # number of the drive → format of its file
    sizes: dict[str, int] = field(default_factory=dict)  # file name → size


@dataclass(frozen=True)
class Save:
    """Content of save.json."""

    format: int
    id: str
    job: str
    saved_s: float  # since 1970
    mvpnet: str  # version
    hosts: list[str]  # by rank
    size_bytes: int  # of all ranks' parts
    image: str  # description of rank 0's image
    spec: dict[str, Any]
    stands_on: dict[str, str] = field(default_factory=dict)  # saves whose disks are backing files of these: folder → id

    @property
    def world_size(self) -> int:
        return len(self.hosts)


def as_text(content: Save | RankPart) -> str:
    return json.dumps(asdict(content), indent=1) + "\n"


def read_save(folder: SaveFolder) -> Save:
    """Return the content of a save's save.json.

    Raises:
        ConfigError: There is no save, or this version cannot read it.
    """
    if not folder.root.is_dir():
        raise ConfigError(f"there is no save {folder.root}", hint="mvpnet saves lists those that there are")
    found = _read(folder.save_json, "is no save of mvpnet, or one that was not finished")
    if isinstance(number := found.get("format"), int) and number > FORMAT:
        raise ConfigError(
            f"{folder.root}: has format {number}, and this mvpnet reads {FORMAT} at most",
            hint=f"it was saved by mvpnet {found.get('mvpnet')}",
        )
    try:
        return Save(**found)
    except TypeError as error:
        raise ConfigError(f"{folder.save_json}: is not what mvpnet writes there: {error}") from error


def is_save(folder: SaveFolder, save_id: str) -> bool:
    """Whether the folder holds the save of this id."""
    try:
        return read_save(folder).id == save_id
    except ConfigError:
        return False


def read_part(folder: RankFolder, save_id: str) -> RankPart:
    """Return a rank's part, after checking that it is complete and belongs to the save.

    Raises:
        HostError: The part is not on this host.
        ConfigError: The part is broken, incomplete, or of another save.
    """
    if not folder.root.is_dir():
        raise HostError(
            f"{folder.root}: is not on this host",
            hint="each rank resumes where its part of the save is: on the host where it was saved, or on any that "
            "shares the folder",
        )
    try:
        part = RankPart(**_read(folder.rank_json, "is no rank's part of a save"))
    except TypeError as error:
        raise ConfigError(f"{folder.rank_json}: is not what mvpnet writes there: {error}") from error
    if part.save != save_id:
        raise ConfigError(f"{folder.root}: is part of another save than the rest", hint="it was moved or copied there")
    for name, size in part.sizes.items():
        path = folder.root / name
        if not path.is_file() or path.stat().st_size != size:
            raise ConfigError(f"{path}: is not whole any more: {size} bytes were saved")
    return part


def _read(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path.parent}: {otherwise}: there is no {path.name}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: is no JSON object")
    return found


@dataclass(frozen=True)
class Kept:
    """One entry of the saves folder: a save, or what an interrupted save left."""

    name: str
    folder: SaveFolder
    save: Save | None
    trouble: str | None = None


def list_snapshots() -> list[Kept]:
    """Return all entries of the saves folder, by name."""
    found = []
    base = saves_base()
    for path in sorted(base.iterdir()) if base.is_dir() else []:
        part = _PART.fullmatch(path.name)
        if part:
            found.append(Kept(path.name, SaveFolder(path), None, f"of {part[1]}, being made or cut short"))
        elif path.is_dir() and not path.name.startswith("."):
            found.append(_kept(path))
    return found


def _kept(path: Path) -> Kept:
    try:
        return Kept(path.name, SaveFolder(path), read_save(SaveFolder(path)))
    except ConfigError as error:
        return Kept(path.name, SaveFolder(path), None, error.message)


def remove(name: str) -> Path:
    """Remove a save, or what an interrupted save left.

    Returns:
        The removed folder.

    Raises:
        ConfigError: There is no such save, or disks of other saves depend on it.
        HostError: It cannot be removed.
    """
    if _PART.fullmatch(name):
        folder = SaveFolder(saves_base() / name)
        if not folder.root.is_dir():
            raise ConfigError(f"there is no {folder.root}", hint="mvpnet saves lists what there is")
    else:
        folder = SaveFolder(save_folder(name))
        read_save(folder)
        if on_it := [one.name for one in list_snapshots() if one.save and str(folder.root) in one.save.stands_on]:
            raise ConfigError(
                f"{folder.root}: the disks of {', '.join(on_it)} stand on those of this save",
                hint=f"mvpnet saves rm {' '.join(on_it)}, first",
            )
    try:
        shutil.rmtree(folder.root)
    except OSError as error:
        raise HostError(f"{error.filename or folder.root}: cannot be removed: {error.strerror}") from error
    return folder.root
