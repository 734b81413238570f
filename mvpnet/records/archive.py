"""Archives of runs: one file with a run's records and small inputs, but no image and no key.

    NAME/manifest.json …            the content of the run folder, without KEPT_BACK and disk images
    NAME/inputs/<sha256>/<file>     the app's files, those for the guests, and the recipe

The ending of the name selects the compression: .tar.gz, .tgz or .tar.zst.
"""

from __future__ import annotations

import contextlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

from mvpnet.errors import ConfigError, HostError
from mvpnet.images.disk_image import image_format
from mvpnet.records import digests
from mvpnet.records.run import Run
from mvpnet.records.typed import InputFile, Manifest
from mvpnet.util.zstd import open_zstd, zstd_error

ENDINGS = (".tar.gz", ".tgz", ".tar.zst")
#: The keys and the files that refer to them are useless once the guests are gone; a report can be made again.
KEPT_BACK = ("id_ed25519", "id_ed25519.pub", "ssh_config", "inventory.yaml", "report", "inputs")
#: Inputs that an archive includes; the others are images, which are identified by their digest.
_TAKEN_ALONG = ("app", "cloud_init.files", "recipe")
_LARGEST_INPUT_BYTES = 64 * 2**20


def is_archive(path: Path) -> bool:
    return path.name.endswith(ENDINGS) and not path.is_dir()


def pack(run: Run, target: Path) -> list[str]:
    """Write a run into the archive `target`.

    Returns:
        A line for each input that had to be left out.

    Raises:
        ConfigError: The run is incomplete, or the name has another ending.
        HostError: The archive cannot be written.
    """
    if not target.name.endswith(ENDINGS):
        raise ConfigError(f"{target}: what kind of archive?", hint=f"its name has to end in {', '.join(ENDINGS)}")
    if not run.is_complete:
        raise ConfigError(
            f"{run.folder.root}: the run has no end: its status is {run.manifest.status!r}",
            hint="it still runs, or was killed; export it when it is over, or run it again",
        )
    root, left_out = run.folder.root.resolve(), []
    try:
        with _writing(target) as archive:
            for path in _records(root, target.resolve(), _kept_back(run.manifest)):
                archive.add(path, f"{root.name}/{path.relative_to(root)}", recursive=False, filter=_nobodys)
            for one in _own_inputs(run.manifest):
                path = Path(one.path or "")
                if trouble := _trouble(one, path):
                    left_out.append(f"{one.key}: {path}: {trouble}")
                else:
                    archive.add(path, f"{root.name}/inputs/{one.sha256}/{path.name}", filter=_nobodys)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise HostError(f"{target}: cannot be written: {error.strerror or error}") from error
    return left_out


def _kept_back(manifest: Manifest) -> tuple[str, ...]:
    """Return the files to exclude; if the manifest left out secrets, also the files that hold them."""
    return (*KEPT_BACK, ".hydra", "job.json") if manifest.left_out else KEPT_BACK


def _records(root: Path, target: Path, kept_back: tuple[str, ...]) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.relative_to(root).parts[0] in kept_back or not path.is_file() or path.is_symlink() or path == target:
            continue
        if image_format(path, "export") == "raw":  # not the format of a disk image
            yield path


def _own_inputs(manifest: Manifest) -> list[InputFile]:
    """Return the inputs that the archive includes, each content once."""
    own = [one for one in manifest.inputs if one.key.startswith(_TAKEN_ALONG) and one.path]
    return list({(one.sha256, Path(one.path or "").name): one for one in own}.values())


def _trouble(one: InputFile, path: Path) -> str | None:
    if one.sha256 is None:
        return str(one.by)
    if (one.size_bytes or 0) > _LARGEST_INPUT_BYTES:
        return f"has {one.size_bytes} bytes; up to {_LARGEST_INPUT_BYTES} go along"
    try:
        return None if digests.sha256(path) == one.sha256 else "is not any more what the run used"
    except OSError as error:
        return f"{error.strerror}"


def _nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Remove the packing user's names from a member; exclude files that no digest covers."""
    if Path(member.name).name == "__pycache__":
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[tarfile.TarFile]:
    if target.name.endswith(".zst"):
        with (
            open_zstd(target, "wb") as packed,
            tarfile.open(fileobj=packed, mode="w|", dereference=True) as archive,
        ):
            yield archive
    else:
        with tarfile.open(target, "w:gz", dereference=True) as archive:
            yield archive


def unpack(path: Path, folder: Path) -> Path:
    """Unpack an archive into `folder` and return the run folder in it.

    Raises:
        ConfigError: The file is not a complete archive of a run.
        HostError: The folder cannot be written.
    """
    try:
        with _reading(path) as archive:
            archive.extractall(folder, filter="data")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such archive") from None
    except (tarfile.TarError, EOFError, zstd_error()) as error:
        raise ConfigError(f"{path}: is no whole archive: {error}", hint="was it copied to its end?") from error
    except OSError as error:
        raise HostError(f"{path}: cannot be unpacked into {folder}: {error.strerror or error}") from error
    runs = [found.parent for found in folder.glob("*/manifest.json")]
    if len(runs) != 1:
        raise ConfigError(f"{path}: is no archive of a run: it holds {len(runs)} runs")
    return runs[0]


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[tarfile.TarFile]:
    if path.name.endswith(".zst"):
        with open_zstd(path, "rb") as packed, tarfile.open(fileobj=packed, mode="r|") as archive:
            yield archive
    else:
        with tarfile.open(path, "r:gz") as archive:
            yield archive
