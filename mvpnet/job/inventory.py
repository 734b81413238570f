"""Ansible inventory of a job's guests."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from mvpnet.dataplane.address import host_name, ipv4_text
from mvpnet.ssh import SshEndpoint
from mvpnet.util.yaml_text import yaml_text


def inventory(endpoints: Sequence[SshEndpoint], ssh_config_file: Path) -> str:
    """Return an Ansible inventory with all guests, by name, in the group mvpnet.

    Only `ssh_config_file` says how to reach them; Ansible passes its name to ssh, scp and sftp.
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
