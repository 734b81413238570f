"""Refuse what cloud-init would not take from a seed, or would ignore, and what are no keys of users.

What cloud-init reads from where: its documentation, "NoCloud", "Networking config Version 2" and "Base configuration".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mvpnet.errors import ConfigError
from mvpnet.spec.near import near
from mvpnet.spec.public_keys import fault_of_key
from mvpnet.spec.schema import CloudInit, Config
from mvpnet.spec.script_text import HEAD_BYTES, first_line_fault

NETWORK_VERSION = 2  # the form of the network-config that mvpnet makes
_SECTIONS = (
    *("ethernets", "bonds", "bridges", "vlans", "wifis", "modems", "tunnels", "vrfs", "nm-devices"),
    *("dummy-devices", "virtual-ethernets"),
)
_KEY_LISTS = ("ssh_authorized_keys", "ssh-authorized-keys")
_DSMODES = ("local", "net")

_NETWORK = "cloud-init takes the network from network-config alone: write cloud_init.network_config={}"
_USER_DATA = "what is to go into user-data stands in cloud_init.user_data itself"
_META_DATA = "write cloud_init.meta_data"
_FROM_THE_IMAGE = "cloud-init takes it from /etc/cloud in the image, before there is user-data"
# Keys that cloud-init does not read there, and what to do.
_NOT_IN_USER_DATA = {
    **dict.fromkeys(("network", "network-config", "network_config", "ethernets"), _NETWORK),
    **dict.fromkeys(("user-data", "user_data", "cloud-config", "cloud_config", "cloud_init"), _USER_DATA),
    **dict.fromkeys(("meta-data", "meta_data", "instance-id", "local-hostname"), _META_DATA),
    **dict.fromkeys(("datasource", "datasource_list"), _FROM_THE_IMAGE),
}
_NOT_IN_META_DATA = {
    **dict.fromkeys(("network", "network-config", "network_config", "network-interfaces", "ethernets"), _NETWORK),
    **dict.fromkeys(("user-data", "user_data", "cloud-config", "cloud_config"), "write cloud_init.user_data"),
    **dict.fromkeys(("hostname", "fqdn", "local_hostname"), "its name there is local-hostname"),
    "instance_id": "its name there is instance-id",
    "seedfrom": "the seed there would take the place of mvpnet's; a ready seed is given by cloud_init.path",
}


def check_cloud_init(prefix: str, config: Config) -> None:
    """Refuse cloud-init settings that cannot work; `prefix` goes before the key in messages.

    Raises:
        ConfigError: Names the key.
    """
    asked = config.cloud_init
    _check_keys(f"{prefix}cloud_init.ssh_authorized_keys", asked.ssh_authorized_keys)
    _check_written(f"{prefix}cloud_init.write_files", asked.write_files)
    check_user_data(f"{prefix}cloud_init.user_data", asked.user_data)
    check_user_data(f"{prefix}image.prepare.user_data", config.image.prepare.user_data)
    _check_meta_data(f"{prefix}cloud_init.meta_data", asked)
    _check_network(f"{prefix}cloud_init.network_config", asked)


def check_user_data(key: str, user_data: Mapping[str, Any]) -> None:
    """Refuse user-data with keys that cloud-init reads elsewhere only, or with ssh keys that are none.

    Raises:
        ConfigError: Names the key below `key`.
    """
    for name in user_data:
        if str(name).startswith("#"):
            raise ConfigError(f"{key}: {name!r} is no key; mvpnet itself writes #cloud-config on the first line")
    _refuse_misplaced(key, user_data, _NOT_IN_USER_DATA)
    for place, keys in _key_lists(key, user_data):
        _check_keys(place, keys)
    _check_written(f"{key}.write_files", user_data.get("write_files"))


def network_settings(network_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a network-config without the key `network` around them, which cloud-init takes too."""
    inner = network_config.get("network")
    if not isinstance(inner, Mapping):
        return dict(network_config)
    return {**inner, **{key: value for key, value in network_config.items() if key != "network"}}


def _empty(key: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys that would take away what mvpnet's own network-config says: null removes a key."""
    ethernets = settings.get("ethernets", {})
    if ethernets is None:
        yield f"{key}.ethernets"
    for device in ("user", "mvpnet"):
        if isinstance(ethernets, Mapping) and device in ethernets:
            own = ethernets[device]
            if own is None:
                yield f"{key}.ethernets.{device}"
            for name in ("match", "addresses", "dhcp4"):
                if isinstance(own, Mapping) and name in own and own[name] is None:
                    yield f"{key}.ethernets.{device}.{name}"


def _check_network(key: str, asked: CloudInit) -> None:
    settings = network_settings(asked.network_config)
    if "config" in settings:
        disabled = settings["config"] == "disabled"
        what = "would leave the guest without a network" if disabled else "is of version 1"
        raise ConfigError(f"{key}: `config` {what}; mvpnet's own, into which it goes, is of version 2", hint=_V2_HINT)
    version = settings.get("version", NETWORK_VERSION)
    if version is True or version != NETWORK_VERSION:
        raise ConfigError(f"{key}.version: {version!r} does not fit mvpnet's own, which is of 2", hint=_V2_HINT)
    if empty := next(_empty(key, settings), None):
        raise ConfigError(f"{empty}: null would leave the guest without a network", hint="leave it out")
    for name, devices in settings.items():
        if name in ("version", "renderer"):
            continue
        if name not in _SECTIONS:
            raise ConfigError(
                f"{key}.{name}: there is no such key in version 2{near(str(name), _SECTIONS)}",
                hint=f"keys are renderer, {', '.join(_SECTIONS)}",
            )
        if devices is not None and not isinstance(devices, Mapping):
            raise ConfigError(f"{key}.{name}: {devices!r} is no group of devices", hint=_V2_HINT)


_V2_HINT = (
    "as in cloud_init.network_config.ethernets.mvpnet.addresses=[192.0.2.1/24]; "
    "a seed with a network-config of another form is given by cloud_init.path"
)


def _check_meta_data(key: str, asked: CloudInit) -> None:
    _refuse_misplaced(key, asked.meta_data, _NOT_IN_META_DATA)
    mode = asked.meta_data.get("dsmode")
    if mode is not None and mode not in _DSMODES:
        raise ConfigError(f"{key}.dsmode: with {mode!r} cloud-init would ignore the seed", hint="local, or net")
    for name in ("public-keys", "public_keys"):
        if name in asked.meta_data:
            _check_keys(f"{key}.{name}", asked.meta_data[name])


def _check_written(place: str, entries: Any) -> None:
    """Refuse scripts among write_files that cannot run."""
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        content = entry.get("content") if isinstance(entry, Mapping) else None
        if isinstance(content, str) and (fault := first_line_fault(content[:HEAD_BYTES].encode(errors="replace"))):
            raise ConfigError(f"{place}[{index}].content: {fault}", hint="write it with Unix's line ends")


def _refuse_misplaced(key: str, mapping: Mapping[str, Any], misplaced: Mapping[str, str]) -> None:
    for name in mapping:
        if what := misplaced.get(str(name)):
            raise ConfigError(f"{key}.{name}: has no effect there, or harms", hint=what)


def _key_lists(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the lists of public keys anywhere in user-data, each with its place."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name in _KEY_LISTS:
                yield f"{place}.{name}", item
            else:
                yield from _key_lists(f"{place}.{name}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _key_lists(f"{place}[{index}]", item)


def _check_keys(place: str, keys: Any) -> None:
    """Refuse what is no public key, without repeating it."""
    if keys is None:
        return
    if isinstance(keys, Mapping):
        keys = list(keys.values())
    if not isinstance(keys, (str, list, tuple)):
        raise ConfigError(f"{place}: is no list of public keys", hint='as in ["ssh-ed25519 AAAA… me"]')
    for index, key in enumerate([keys] if isinstance(keys, str) else keys):
        if fault := fault_of_key(key) if isinstance(key, str) else "is no text":
            raise ConfigError(
                f"{place}[{index}]: {fault}; it is not repeated here",
                hint="a key's text is wanted, as a line of a file such as ~/.ssh/id_ed25519.pub has it",
            )
