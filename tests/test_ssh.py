"""The job's keys and ssh_config."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from mvpnet.app.guest_shell import ssh_argv
from mvpnet.cloudinit.status import ask_argv
from mvpnet.errors import HostError
from mvpnet.job.access import write_access_files
from mvpnet.paths import RunFolder
from mvpnet.ssh import SshEndpoint, identity_line, make_key_pair, nameable, ssh_config
from support import poll_until


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
    assert "proxycommand" not in first
    assert (second["port"], second["user"], second["proxycommand"]) == ("2201", "alice", "ssh -W %h:%p there")
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


@pytest.mark.parametrize(("user", "only"), [("alice", "yes"), ("root", "yes"), ("bob", "no")])
def test_an_agent_is_asked_for_users_whom_the_job_s_key_does_not_let_in(tmp_path: Path, user: str, only: str) -> None:
    text = ssh_config([SshEndpoint(rank, "here", 2200, "alice") for rank in (0, 1)], tmp_path / "id", "here", {1})
    (tmp_path / "config").write_text(text)

    def seen(name: str) -> str:
        command = ["ssh", "-G", "-F", str(tmp_path / "config"), "-l", user, name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert f"identitiesonly {only}\n" in seen("n0001")
    assert "identitiesonly no\n" in seen("n0000")


# -- logins to a real server --------------------------------------------------------------------------------------

SSHD = "/usr/sbin/sshd"
AGENT_KEYS = 6  # MaxAuthTries of OpenSSH's server: it hangs up on whoever offers as many that it does not know


@dataclass(frozen=True)
class Server:
    """An sshd on loopback: the job's guest."""

    port: int
    authorized: Path

    def endpoint(self) -> SshEndpoint:
        return SshEndpoint(0, "here", self.port, getpass.getuser())


@pytest.fixture
def server(short_dir: Path) -> Iterator[Server]:
    if not Path(SSHD).exists() or os.getuid() != 0:
        pytest.skip("needs openssh-server, and root to run it for itself")
    Path("/run/sshd").mkdir(exist_ok=True)  # where it confines what it does before a login
    make_key_pair(short_dir / "host_key", "")
    authorized = short_dir / "authorized"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    config = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": short_dir / "host_key",
        "AuthorizedKeysFile": authorized,
        "StrictModes": "no",
        "PidFile": "none",
        "UsePAM": "no",
        "PermitRootLogin": "yes",
        "PasswordAuthentication": "no",
        "MaxAuthTries": AGENT_KEYS,
    }
    (short_dir / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in config.items()))
    with subprocess.Popen([SSHD, "-D", "-f", short_dir / "sshd_config", "-E", short_dir / "sshd.log"]) as process:
        poll_until(lambda: _listens(port), 60, "sshd")
        yield Server(port, authorized)
        process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def answers() -> bool:
    """Tell whether there is an agent: 2 is ssh-add's exit code where it cannot be asked."""
    return subprocess.run(["ssh-add", "-l"], capture_output=True).returncode != 2


@pytest.fixture
def agent(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """An ssh-agent with as many keys as a server bears; their public keys."""
    path = short_dir / "agent"
    with ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL))
        stack.callback(process.terminate)
        poll_until(path.exists, 60, "ssh-agent")
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        keys = [short_dir / f"agent-{number}" for number in range(AGENT_KEYS)]
        for key in keys:
            make_key_pair(key, key.name)
            subprocess.run(["ssh-add", "-q", key], check=True)
            key.unlink()
        yield [key.with_suffix(".pub").read_text() for key in keys]


def run_folder(folder: Path, scratch: Path, endpoint: SshEndpoint, *, opened: bool) -> RunFolder:
    """The run folder of a job with one guest; its key is in the scratch folder too, as on rank 0."""
    folder.mkdir()
    scratch.mkdir()
    run = RunFolder(folder)
    make_key_pair(run.ssh_key, "job")
    shutil.copy2(run.ssh_key, scratch / run.ssh_key.name)
    write_access_files(run, scratch, [endpoint], "here", {0} if opened else set())
    return run


def log_in(argv: list[str]) -> tuple[int, str]:
    done = subprocess.run([*argv, "echo in"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


FOLDERS = [
    "plain",
    "two words",
    "100%",
    "%h%d",
    'quo"te',
    "it's",
    "${HOME}",
    "#1",
    "back\\slash",
    "line\nbreak",
    "{{x}}",
    os.fsdecode(b"not-\xff-utf8"),
]


@pytest.mark.parametrize("name", FOLDERS)
def test_any_run_folder_lets_log_in_beside_an_agent_of_many_keys(
    tmp_path: Path, server: Server, agent: list[str], name: str
) -> None:
    run = run_folder(tmp_path / name, tmp_path / "scratch", server.endpoint(), opened=True)
    server.authorized.write_text(run.ssh_key.with_suffix(".pub").read_text())
    assert log_in(ssh_argv(run.ssh_config, 0, None)) == (0, "in\n")
    assert log_in(ssh_argv(run.ssh_config, 0, server.endpoint().user)) == (0, "in\n")
    given = yaml.safe_load(run.inventory.read_text())["mvpnet"]["vars"]["ansible_ssh_common_args"]
    assert "{{" not in given
    assert log_in(["ssh", *shlex.split(given), "n0000"]) == (0, "in\n")


def test_a_hand_made_image_is_entered_by_a_key_of_the_agent(tmp_path: Path, server: Server, agent: list[str]) -> None:
    server.authorized.write_text(agent[2])
    for opened, code in ((False, 0), (True, 255)):
        run = run_folder(tmp_path / str(opened), tmp_path / f"scratch{opened}", server.endpoint(), opened=opened)
        assert log_in(ssh_argv(run.ssh_config, 0, None))[0] == code


@pytest.mark.parametrize("name", ["plain", "two words", "100%h", "#1", "it's", "$HOME"])
def test_cloud_init_is_asked_by_the_job_s_key(tmp_path: Path, server: Server, agent: list[str], name: str) -> None:
    (tmp_path / name).mkdir()
    make_key_pair(tmp_path / name / "id", "job")
    server.authorized.write_text((tmp_path / name / "id.pub").read_text())
    *argv, _ = ask_argv(server.port, getpass.getuser(), tmp_path / name / "id")
    assert log_in(argv) == (0, "in\n")


def test_a_guest_of_another_host_is_reached_from_any_run_folder(tmp_path: Path) -> None:
    """The way through the other host has no part of the folder's name, which a shell would read."""
    run = run_folder(tmp_path / "a; $(b) 'c", tmp_path / "scratch", SshEndpoint(0, "there", 2200, "root"), opened=True)
    seen = subprocess.run(["ssh", "-G", "-F", run.ssh_config, "n0000"], capture_output=True, text=True, check=True)
    assert "proxycommand ssh -W %h:%p there\n" in seen.stdout


@pytest.mark.parametrize("name", FOLDERS)
def test_what_can_be_named_is_named(name: str) -> None:
    line = identity_line(Path("/runs") / name)
    assert (line is None) == any(sign in name for sign in ('"', "\\", "\n", "${"))
    assert not nameable(Path("/runs") / name) or line is not None
