"""inventory.yaml: what it says, and what Ansible makes of it where Ansible installs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mvpnet.job.inventory import inventory
from mvpnet.ssh import SshEndpoint
from support import StartMvpnet

DOORS = [SshEndpoint(0, "h0", 2200, "alice"), SshEndpoint(1, "h1", 2201, "bob")]


def test_guests_are_known_by_name_and_reached_by_ssh_config() -> None:
    assert inventory(DOORS, Path("/runs/a b/ssh_config")) == (
        "mvpnet:\n"
        "  vars:\n"
        "    ansible_ssh_common_args: -F '/runs/a b/ssh_config'\n"
        "  hosts:\n"
        "    n0000:\n"
        "      ansible_user: alice\n"
        "      mvpnet_rank: 0\n"
        "      mvpnet_address: 10.0.0.1\n"
        "      mvpnet_host: h0\n"
        "    n0001:\n"
        "      ansible_user: bob\n"
        "      mvpnet_rank: 1\n"
        "      mvpnet_address: 10.0.0.2\n"
        "      mvpnet_host: h1\n"
    )


def test_names_that_yaml_would_take_for_something_else_stay_texts() -> None:
    hosts = yaml.safe_load(inventory([SshEndpoint(0, "0755", 2200, "yes")], Path("/c")))["mvpnet"]["hosts"]
    assert (hosts["n0000"]["ansible_user"], hosts["n0000"]["mvpnet_host"]) == ("yes", "0755")


@pytest.fixture(scope="module")
def ansible(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of Ansible's programs, in an environment of its own."""
    folder = tmp_path_factory.mktemp("ansible")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [
        folder / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "ansible-core",
    ]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"Ansible does not install here: {done.stderr.strip().splitlines()[-1]}")
    return folder / "bin"


def run_ansible(program: Path, *arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    surroundings = {"HOME": str(home), "ANSIBLE_HOME": str(home / ".ansible"), "LC_ALL": "C.UTF-8", "NO_COLOR": "1"}
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, env={**os.environ, **surroundings}, cwd=home, timeout=240
    )


@pytest.mark.network
def test_ansible_reads_it(ansible: Path, tmp_path: Path) -> None:
    (tmp_path / "inventory.yaml").write_text(inventory(DOORS, tmp_path / "ssh_config"))
    done = run_ansible(ansible / "ansible-inventory", "-i", tmp_path / "inventory.yaml", "--list", home=tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    assert facts["mvpnet"]["hosts"] == ["n0000", "n0001"]
    assert facts["_meta"]["hostvars"]["n0001"]["ansible_ssh_common_args"] == f"-F {tmp_path}/ssh_config"


@pytest.mark.network
@pytest.mark.boot
def test_ansible_reaches_the_guests(ansible: Path, start_mvpnet: StartMvpnet, tmp_path: Path, short_dir: Path) -> None:
    """The raw module, as the tiny guest has no Python for others. Ansible has sockets below its home."""
    job = start_mvpnet("vm=small", "hydra.run.dir=run", "boot.timeout_s=240")
    job.wait_for("to log in", 280)
    asked = ("-i", tmp_path / "run" / "inventory.yaml", "-m", "raw", "-a", "hostname", "all")
    done = run_ansible(ansible / "ansible", *asked, home=short_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"{name} | CHANGED | rc=0 >>\n{name}" in done.stdout for name in ("n0000", "n0001")), done.stdout
    job.process.terminate()
    assert job.finish().code == 0
