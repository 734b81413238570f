"""Input and output of seeds: files of the host are read, seeds are written as folders and ISO images.

The image is an ISO 9660 volume named cidata, by which NoCloud finds it (cloud-init's documentation, "NoCloud"), with
Rock Ridge and Joliet names: those of plain ISO 9660 have no hyphen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from loguru import logger

from mvpnet.cloudinit.schema_check import check_user_data
from mvpnet.cloudinit.seed import Seed, make_seed
from mvpnet.cloudinit.user_data import HostFile, SeedFacts
from mvpnet.cloudinit.user_data_file import read_user_data
from mvpnet.errors import ImageError
from mvpnet.logs import say
from mvpnet.spec.drive_text import expand
from mvpnet.spec.model import RankSpec
from mvpnet.spec.public_keys import fault_of_key
from mvpnet.spec.script_text import HEAD_BYTES, UNIX_LINES_HINT, first_line_fault

_USER_DATA_KEY = "cloud_init.user_data_file"
SEED_KEY = "cloud_init.seed"  # key of the drive, and in records, of a seed made by mvpnet

_LARGEST_FILE_BYTES = 2**20  # cloud-init holds user-data in memory, several times, and reads YAML slowly
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


def seed_facts(
    public_key: str, private_key: str, specs: Iterable[RankSpec], home: Path | None, environment: Mapping[str, str]
) -> SeedFacts:
    """Return rank 0's facts for all ranks: the job's keys, the keys in `home`, and the environment's proxies.

    The keys in `home` are looked for if there is one and any of `specs` takes them.
    """
    proxies = {name: environment.get(name) or environment.get(name.upper()) or "" for name in _PROXIES}
    keys = user_keys(home) if home and any(spec.takes_user_keys for spec in specs) else ()
    return SeedFacts(public_key, private_key, tuple(keys), proxies)


def user_keys(home: Path) -> list[str]:
    """Return the public keys in ~/.ssh/*.pub and ~/.ssh/authorized_keys; ignore files that cannot be read.

    What is no key is left out with a warning, which does not repeat it. Certificates in files of their own, which
    authorized_keys would take for keys, are left out without one.
    """
    files = []
    with suppress(OSError):  # of another user
        files = sorted(path for path in (home / ".ssh").glob("*.pub") if not path.name.endswith("-cert.pub"))
    found: dict[str, None] = {}
    for path in [*files, home / ".ssh" / "authorized_keys"]:
        for number, line in enumerate(_lines(path), start=1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            if fault := fault_of_key(text):
                say(f"warning: {path}: line {number} {fault}; guests do not get it")
            else:
                found[text] = None
    return list(found)


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from path.read_text(errors="replace").splitlines()
    except OSError:
        return


def rank_seed(spec: RankSpec, user: str, facts: SeedFacts) -> Seed:
    """Make the seed of one rank, with the files of cloud_init.files from this host.

    Raises:
        ImageError: A file cannot be used.
        ConfigError: A value cannot be written into the seed.
    """
    files = {}
    for path, source in spec.cloud_init.files.items():
        key = f"cloud_init.files.{path}"
        files[path] = _host_file(Path(expand(source, spec, key)), key)
    more = {}
    if named := spec.cloud_init.user_data_file:
        more = read_user_data(Path(expand(named, spec, _USER_DATA_KEY)), _USER_DATA_KEY)
    return make_seed(spec, user, facts, files, more)


def _host_file(path: Path, key: str) -> HostFile:
    try:
        facts = path.stat()
        if not path.is_file():
            raise ImageError(f"{key}: {path} is no ordinary file")
        if facts.st_size > _LARGEST_FILE_BYTES:
            raise ImageError(
                f"{key}: {path} has {facts.st_size} bytes; in a seed it may have {_LARGEST_FILE_BYTES}",
                hint="bring it on a drive of its own (image.drives), or copy it in by scp",
            )
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{key}: cannot read {path}: {error.strerror}") from error
    if fault := first_line_fault(content[:HEAD_BYTES]):
        raise ImageError(f"{key}: {path} {fault}", hint=UNIX_LINES_HINT)
    return HostFile(content, facts.st_mode & 0o777)


def seed_image(scratch: Path) -> Path:
    """Return the path of a rank's seed in its scratch folder."""
    return scratch / "seed.iso"


def provide_seed(spec: RankSpec, user: str, facts: SeedFacts, scratch: Path) -> Path | None:
    """Make the rank's cloud-init seed and validate it.

    Returns:
        The seed's image; None if mvpnet makes no seed.

    Raises:
        ConfigError, ImageError, HostError: The seed cannot be made, or cloud-init refuses it.
    """
    if not spec.makes_seed:
        return None
    check_seed(spec, user, facts)
    write_image(rank_seed(spec, user, facts), seed_image(scratch))
    return seed_image(scratch)


def check_seed(spec: RankSpec, user: str, facts: SeedFacts) -> None:
    """Validate the rank's user-data, if the host can.

    Raises:
        ConfigError, ImageError, HostError: The user-data cannot be made, or cloud-init refuses it.
    """
    shown = rank_seed(spec, user, facts.without_secrets())
    if trouble := check_user_data(shown.user_data, spec.cloud_init.validate):
        logger.debug("user-data was not checked: {}", trouble)


def write_folder(seed: Seed, folder: Path) -> None:
    """Write the seed's files, 0600, into a new folder, 0700. Raises OSError."""
    folder.mkdir(mode=0o700)
    for name, text in seed.files().items():
        with _new_file(folder / name) as file:
            file.write(text.encode())


def write_image(seed: Seed, path: Path) -> None:
    """Write the seed as a new ISO 9660 image, 0600. Raises OSError."""
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for name, text in seed.files().items():
        content = text.encode()
        plain_name = name.replace("-", "").upper()
        iso.add_fp(BytesIO(content), len(content), f"/{plain_name}.;1", name, f"/{name}", file_mode=0o100400)
    with _new_file(path) as file:
        iso.write_fp(file)
    iso.close()


def _new_file(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600), "w+b")
