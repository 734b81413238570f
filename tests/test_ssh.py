"""The job's keys and ssh_config."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mvpnet.errors import HostError
from mvpnet.ssh import SshEndpoint, make_key_pair, ssh_config


def test_the_key_pair_is_private(tmp_path: Path) -> None:
    make_key_pair(tmp_path / "id", "a job")
    assert (tmp_path / "id").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "id.pub").read_text().startswith("ssh-ed25519 ")
    assert (tmp_path / "id.pub").read_text().endswith(" a job\n")


def test_without_ssh_keygen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="openssh-client"):
        make_key_pair(tmp_path / "id", "a job")


def test_ssh_itself_reads_the_config(tmp_path: Path) -> None:
    endpoints = [SshEndpoint(0, "here", 2200, "root"), SshEndpoint(1, "there", 2201, "alice")]
    key = tmp_path / "a folder with spaces" / "id"
    (tmp_path / "ssh_config").write_text(ssh_config(endpoints, key, "here"))

    def seen(name: str) -> dict[str, str]:
        command = ["ssh", "-G", "-F", str(tmp_path / "ssh_config"), name]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        return dict(line.split(" ", 1) for line in lines if " " in line)

    first, second = seen("n0000"), seen("n0001")
    assert (first["hostname"], first["port"], first["user"]) == ("127.0.0.1", "2200", "root")
    assert first["identityfile"].strip('"') == str(key)
    assert "proxyjump" not in first
    assert (second["port"], second["user"], second["proxyjump"]) == ("2201", "alice", "there")
    own, usual = (
        seen("there"),
        subprocess.run(["ssh", "-G", "there"], capture_output=True, text=True, check=True).stdout,
    )
    assert own["identityfile"] in usual
    assert "a folder with spaces" not in own["identityfile"]


def test_a_host_on_the_way_is_reached_as_without_the_file(tmp_path: Path) -> None:
    text = ssh_config(
        [SshEndpoint(0, "here", 2200, "root"), SshEndpoint(1, "there", 2201, "root")], tmp_path / "id", "here"
    )
    (tmp_path / "usual").write_text("Host there\n    Port 2222\nHost *\n    HostbasedAuthentication yes\n")
    (tmp_path / "ssh_config").write_text(text.replace("/etc/ssh/ssh_config", str(tmp_path / "usual")))

    def seen(name: str) -> str:
        command = ["ssh", "-G", "-F", str(tmp_path / "ssh_config"), name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "port 2222\n" in seen("there")
    assert "hostbasedauthentication yes\n" in seen("there")
    assert "hostbasedauthentication no\n" in seen("n0001")
    assert "port 2201\n" in seen("n0001")
