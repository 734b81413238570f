"""Files in the run folder by which users and programs reach the guests: ssh_config and inventory.yaml."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

from mvpnet.job.inventory import inventory
from mvpnet.paths import RunFolder
from mvpnet.ssh import SshEndpoint, nameable, ssh_config


def write_access_files(
    run: RunFolder, scratch: Path, endpoints: Sequence[SshEndpoint], here: str, opened: Container[int]
) -> None:
    """Write ssh_config and inventory.yaml.

    Where the run folder's path cannot be named in them, they name files in `scratch`, which holds the job's key too.

    Args:
        run: The run folder.
        scratch: Rank 0's scratch folder.
        endpoints: The guests.
        here: Rank 0's host.
        opened: The ranks whose guests let the job's key in.

    Raises:
        OSError: A file cannot be written.
    """
    named = run if nameable(run.root) else RunFolder(scratch)
    config = ssh_config(endpoints, named.ssh_key, here, opened)
    for path in {run.ssh_config, named.ssh_config}:
        path.write_text(config, encoding="utf-8")
    run.inventory.write_text(inventory(endpoints, named.ssh_config), encoding="utf-8")
