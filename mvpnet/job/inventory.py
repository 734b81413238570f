"""How people and programs get into the guests: the job's key pair, `ssh_config`, and an inventory for Ansible."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from mvpnet.dataplane.address import host_name, ipv4_text
from mvpnet.ssh import SshEndpoint
from mvpnet.util.yaml_text import yaml_text


def inventory(endpoints: Sequence[SshEndpoint], ssh_config_file: Path) -> str:
    """An Ansible inventory with all guests in the group mvpnet, by name.

    How they are reached stands in `ssh_config_file` alone; Ansible gives its name to ssh, scp and sftp.
    """
    hosts = {
        host_name(endpoint.rank): {
            "ansible_user": endpoint.user,
            "mvpnet_rank": endpoint.rank,
            "mvpnet_address": ipv4_text(endpoint.rank),
            "mvpnet_host": endpoint.host,
        }
        for endpoint in endpoints
    }
    reached = {"ansible_ssh_common_args": shlex.join(["-F", str(ssh_config_file)])}
    return yaml_text({"mvpnet": {"vars": reached, "hosts": hosts}})
