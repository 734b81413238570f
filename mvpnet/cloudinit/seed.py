"""A rank's cloud-init seed: meta-data, network-config and user-data, as texts, from its spec. Pure.

Formats: cloud-init's documentation, "NoCloud" (the files), "Networking config Version 2", and "Module reference"
(user-data, which `userdata` makes).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mvpnet.cloudinit.user_data import HostFile, SeedFacts, cloud_config
from mvpnet.dataplane.address import host_name, ipv4_text, mac, mac_text, user_mac
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
        """By the names that NoCloud looks for."""
        return {"meta-data": self.meta_data, "user-data": self.user_data, "network-config": self.network_config}


def make_seed(spec: RankSpec, user: str, facts: SeedFacts, files: Mapping[str, HostFile] | None = None) -> Seed:
    """The seed of a rank on whose guest `user` logs in; `files` are those of cloud_init.files, by path in the guest.

    The instance id follows from the contents: cloud-init takes a seed that changed only under a new one, and does
    nothing anew when it finds the one that it knows. Raises ConfigError for a proxy that cannot be written down.
    """
    config = filled(spec.cloud_init, spec)
    heading = f"# Made by mvpnet for rank {spec.rank} of {spec.world_size}, job {spec.job_name}.\n"
    ours = cloud_config(spec, config, user, facts, filled(files or {}, spec))
    user_data = "#cloud-config\n" + heading + yaml_text(merged(ours, config.user_data))
    network_config = heading + yaml_text(merged(network(spec), config.network_config))
    digest = hashlib.sha256(f"{user_data}\0{network_config}".encode()).hexdigest()
    names = {"instance-id": f"mvpnet-{spec.job_name}-{spec.rank}-{digest[:16]}", "local-hostname": host_name(spec.rank)}
    return Seed(yaml_text(merged(names, config.meta_data)), user_data, network_config)


def network(spec: RankSpec) -> dict[str, Any]:
    """Both NICs, matched by MAC and keeping the names that the guest's kernel gives them.

    The default route and the name servers come by DHCP from qemu's user network. The boot does not wait for the
    mvpnet NIC, which needs nobody's answer.
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
    """The same with ${rank}, ${world_size}, ${host_name} and ${address} put into every text, also keys, as text."""
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
    """`theirs` over `ours`: mappings key by key, lists after ours, null removes, anything else replaces."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        both = {**ours, **{key: merged(ours.get(key), value) for key, value in theirs.items()}}
        return {key: value for key, value in both.items() if key not in theirs or theirs[key] is not None}
    if isinstance(ours, list) and isinstance(theirs, list):
        return [*ours, *theirs]
    return theirs
