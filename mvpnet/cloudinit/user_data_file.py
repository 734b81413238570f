"""Read a user's own file of user-data, cloud_init.user_data_file, which goes over what mvpnet writes.

Only #cloud-config can be merged. The other kinds (cloud-init's documentation, "User-data formats") are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mvpnet.errors import ConfigError, ImageError
from mvpnet.spec.cloud_init_checks import check_user_data
from mvpnet.spec.kinds import CLOUD_CONFIG

_HEADING = "#cloud-config"
_LARGEST_FILE_BYTES = 2**20
_AS_FILES = "cloud_init.files={/root/NAME: FILE} brings a script into the guest, cloud_init.runcmd=[/root/NAME] runs it"
_PATH_HINT = "a seed of any kind is given by cloud_init.path, a folder with user-data and meta-data"
# How other kinds begin, what they are, and what to do.
_OTHER_KINDS = (
    (b"#!", "a script", _AS_FILES),
    (b"#cloud-boothook", "a boothook", "cloud_init.user_data.bootcmd=[…] is run at each boot"),
    (b"#cloud-config-archive", "an archive of several parts", _PATH_HINT),
    (b"#cloud-config-jsonp", "a JSON patch", _PATH_HINT),
    (b"#include", "a list of URLs", _PATH_HINT),
    (b"#part-handler", "a part handler", _PATH_HINT),
    (b"## template:", "a template", "${rank}, ${host_name} and so on are filled in without one"),
    (b"Content-Type:", "a multipart message", _PATH_HINT),
    (b"MIME-Version:", "a multipart message", _PATH_HINT),
    (b"\x1f\x8b", "packed", "unpack it: gzip -d"),
)


def read_user_data(path: Path, key: str) -> dict[str, Any]:
    """Return the settings in a file of cloud-config.

    Raises:
        ImageError: It cannot be read.
        ConfigError: It is none, or cloud-init would not take its settings from there. Names `key` and the file.
    """
    try:
        if path.exists() and not path.is_file():
            raise ImageError(f"{key}: {path} is no ordinary file")
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{key}: cannot read {path}: {error.strerror}") from error
    if len(content) > _LARGEST_FILE_BYTES:
        raise ImageError(f"{key}: {path} has {len(content)} bytes; in a seed it may have {_LARGEST_FILE_BYTES}")
    _check_kind(content, f"{key}: {path}")
    settings = _mapping(content, f"{key}: {path}")
    check_user_data(f"{key}: {path}", settings)
    return settings


def _check_kind(content: bytes, place: str) -> None:
    content = content.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
    first = content.split(b"\n", 1)[0].strip()
    if first.split() and first.split()[0] == _HEADING.encode():
        return
    for start, kind, hint in _OTHER_KINDS:
        if content.startswith(start):
            raise ConfigError(f"{place}: is {kind}, which cannot be merged with mvpnet's own user-data", hint=hint)
    raise ConfigError(f"{place}: is no cloud-config", hint=f"its first line has to be {_HEADING}")


def _mapping(content: bytes, place: str) -> dict[str, Any]:
    from mvpnet.cloudinit.yaml_file import parse_yaml  # imported late: most ranks read no YAML

    try:
        settings = parse_yaml(content.decode("utf-8-sig"), CLOUD_CONFIG, place)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place}: is no text in UTF-8") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{place}: holds no mapping of settings", hint="as in\n    #cloud-config\n    timezone: UTC")
    return settings
