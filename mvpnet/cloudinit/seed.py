"""A rank's cloud-init seed: the texts of meta-data, network-config and user-data, made from its spec. Pure.

Formats: cloud-init's documentation, "NoCloud" (the files), "Networking config Version 2", and "Module reference"
(user-data, which `user_data` makes).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mvpnet.cloudinit.user_data import HostFile, SeedFacts, cloud_config
from mvpnet.dataplane.address import host_name, ipv4_text, mac, mac_text, user_mac
from mvpnet.spec.cloud_init_checks import network_settings
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import CloudInit
from mvpnet.util.yaml_text import Quoted, yaml_text

_RANK_VALUE = re.compile(r"\$\{(rank|world_size|host_name|address)\}")


@dataclass(frozen=True)
class Seed:
    """The texts of one rank's seed."""

    meta_data: str
    user_data: str = field(repr=False)
    network_config: str

    def files(self) -> dict[str, str]:
        """The texts by the file names that NoCloud expects."""
        return {"meta-data": self.meta_data, "user-data": self.user_data, "network-config": self.network_config}


def make_seed(
    spec: RankSpec,
    user: str,
    facts: SeedFacts,
    files: Mapping[str, HostFile] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Seed:
    """Make the seed of a rank.

    The instance id is derived from the contents: cloud-init applies a changed seed only under a new id, and repeats
    nothing under a known one.

    Args:
        spec: The rank's spec.
        user: The user who logs in to the guest.
        facts: Facts from the host.
        files: The files of cloud_init.files, by path in the guest.
        more: The settings of cloud_init.user_data_file.

    Raises:
        ConfigError: A proxy cannot be written into the guest's files, or the user cannot be made.
    """
    config = filled(spec.cloud_init, spec)
    heading = f"# Made by mvpnet for rank {spec.rank} of {spec.world_size}, job {spec.job_name}.\n"
    theirs = filled(more or {}, spec)
    seen = replace(config, user_data=merged(theirs, config.user_data))
    ours = cloud_config(spec, seen, user, facts, filled(files or {}, spec))
    user_data = "#cloud-config\n" + heading + yaml_text(merged(merged(ours, theirs), config.user_data))
    network_config = heading + yaml_text(merged(network(spec), network_settings(config.network_config)))
    digest = hashlib.sha256(f"{user_data}\0{network_config}".encode()).hexdigest()
    names = {"instance-id": f"mvpnet-{spec.job_name}-{spec.rank}-{digest[:16]}", "local-hostname": host_name(spec.rank)}
    return Seed(yaml_text(merged(names, config.meta_data)), user_data, network_config)


def network(spec: RankSpec) -> dict[str, Any]:
    """Return the network config of both NICs, which are matched by MAC and keep their kernel names.

    The default route and the name servers come by DHCP from qemu's user network. The boot does not wait for the
    mvpnet NIC, because its address is static.
    """
    return {
        "version": 2,
        "ethernets": {
            "user": {"match": {"macaddress": Quoted(mac_text(user_mac(spec.world_size)))}, "dhcp4": True},
            "mvpnet": {
                "match": {"macaddress": Quoted(mac_text(mac(spec.rank)))},
                "addresses": [f"{ipv4_text(spec.rank)}/8"],
                "mtu": spec.net.mtu,
                "optional": True,
            },
        },
    }


def filled(value: Any, spec: RankSpec) -> Any:
    """Replace ${rank}, ${world_size}, ${host_name} and ${address} in every text of a tree, including keys."""
    values = {
        "rank": str(spec.rank),
        "world_size": str(spec.world_size),
        "host_name": host_name(spec.rank),
        "address": ipv4_text(spec.rank),
    }

    def fill(part: Any) -> Any:
        if isinstance(part, str):
            return _RANK_VALUE.sub(lambda match: values[match[1]], part)
        if isinstance(part, CloudInit):
            return CloudInit(**{name: fill(item) for name, item in vars(part).items()})
        if isinstance(part, Mapping):
            return {fill(key): fill(item) for key, item in part.items()}
        return [fill(item) for item in part] if isinstance(part, list) else part

    return fill(value)


def merged(ours: Any, theirs: Any) -> Any:
    """Merge `theirs` into `ours`: mappings by key, lists are appended, null removes, any other value replaces."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        both = {**ours, **{key: merged(ours.get(key), value) for key, value in theirs.items()}}
        return {key: value for key, value in both.items() if key not in theirs or theirs[key] is not None}
    if isinstance(ours, list) and isinstance(theirs, list):
        return [*ours, *theirs]
    return theirs
