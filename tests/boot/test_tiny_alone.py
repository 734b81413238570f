"""The tiny guest under qemu, without MPI: what it makes of its MAC addresses, keys and MTU, and how it ends.

Two guests of a world of 258 ranks, 0 and 257, joined directly by a socket pair. And one whose network is us, to see
what it sends.
"""

from __future__ import annotations

import asyncio
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from qemu.qmp import QMPClient

from mvpnet.images import tiny
from mvpnet.paths import cache_base
from support import poll_until

WORLD_SIZE = 258
LAST = WORLD_SIZE - 1
BOOT_TIMEOUT_S = 90.0
HOST_MTU = 9000


@dataclass(frozen=True)
class Guest:
    """A running guest, and how to talk to it."""

    rank: int
    process: subprocess.Popen[bytes]
    ssh_port: int
    folder: Path
    private_key: Path

    def ssh(self, command: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        argv = ["ssh", "-F", "/dev/null", "-i", str(self.private_key), "-p", str(self.ssh_port)]
        for option in (
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "BatchMode=yes",
            "LogLevel=ERROR",
            f"ConnectTimeout={int(BOOT_TIMEOUT_S)}",
        ):
            argv += ["-o", option]
        argv += ["root@127.0.0.1", command]
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)

    def output(self, command: str) -> str:
        """What the command prints in the guest; it must succeed."""
        done = self.ssh(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def console(self) -> str:
        return (self.folder / "console.log").read_text(errors="replace")

    def wait_for_banner(self) -> None:
        try:
            poll_until(self._answers, BOOT_TIMEOUT_S, "the ssh banner")
        except AssertionError as error:
            raise AssertionError(f"{error}; the console says:\n{self.console()}") from None

    def _answers(self) -> bool:
        """Does the ssh server answer now? qemu takes the connection before the guest can."""
        assert self.process.poll() is None, f"qemu ended with {self.process.returncode}"
        try:
            with socket.create_connection(("127.0.0.1", self.ssh_port), timeout=0.5) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def power_button(self) -> None:
        asyncio.run(self._execute("system_powerdown"))

    async def _execute(self, command: str) -> None:
        client = QMPClient("test")
        await client.connect(str(self.folder / "qmp"))
        await client.execute(command)
        await client.disconnect()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def start(image: tiny.TinyImage, keys: Path, folder: Path, rank: int, link: socket.socket, *more: str) -> Guest:
    """Start a guest of WORLD_SIZE ranks whose mvpnet network card is at the other end of the link."""
    folder.mkdir()
    port = free_port()
    tail = ":".join(f"{byte:02x}" for byte in rank.to_bytes(4, "big"))
    world = ":".join(f"{byte:02x}" for byte in WORLD_SIZE.to_bytes(4, "big"))
    argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    argv += ["-accel", "tcg", "-cpu", "max", "-m", "192M"]
    argv += ["-serial", f"file:{folder}/console.log", "-qmp", f"unix:{folder}/qmp,server=on,wait=off"]
    argv += ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", tiny.KERNEL_COMMAND_LINE]
    for value in tiny.fw_cfg(keys / "id.pub", keys / "id"):
        argv += ["-fw_cfg", value]
    argv += ["-netdev", f"user,id=user,net=192.168.1.0/24,hostfwd=tcp:127.0.0.1:{port}-:22,dnssearch=example.org"]
    argv += ["-device", f"virtio-net-pci,netdev=user,mac=52:56:{world}"]
    argv += ["-netdev", f"dgram,id=mvpnet,local.type=fd,local.str={link.fileno()}"]
    argv += ["-device", f"virtio-net-pci,netdev=mvpnet,mac=52:55:{tail},host_mtu={HOST_MTU}"]
    process = subprocess.Popen([*argv, *more], pass_fds=[link.fileno()], stdin=subprocess.DEVNULL)
    return Guest(rank, process, port, folder, keys / "id")


def stop(guest: Guest) -> None:
    guest.process.kill()
    guest.process.wait()


@pytest.fixture(scope="module")
def image() -> tiny.TinyImage:
    """From the cache that mvpnet itself uses, so that it is built at most once on a machine."""
    return tiny.ensure(cache_base(None) / "tiny", print)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "job", "-f", str(folder / "id")]
    subprocess.run(argv, check=True)
    return folder


@pytest.fixture(scope="module")
def two(image: tiny.TinyImage, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Guest, Guest]]:
    """Ranks 0 and 257, up."""
    folder = tmp_path_factory.mktemp("two")
    with ExitStack() as stack:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        guests = []
        for rank, end in zip((0, LAST), ends, strict=True):
            guests.append(start(image, keys, folder / f"rank-{rank}", rank, end))
            stack.callback(stop, guests[-1])
            end.close()
        for guest in guests:
            guest.wait_for_banner()
        yield guests[0], guests[1]


@pytest.fixture
def alone(image: tiny.TinyImage, keys: Path, tmp_path: Path) -> Iterator[tuple[Guest, socket.socket]]:
    """Rank 0, up, and the other end of its link."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, ExitStack() as stack:
        guest = start(image, keys, tmp_path / "guest", 0, its)
        stack.callback(stop, guest)
        its.close()
        guest.wait_for_banner()
        yield guest, ours


def test_its_name_tells_its_rank(two):
    assert [guest.output("hostname").strip() for guest in two] == ["n0000", "n0257"]


def test_its_address_and_mtu_are_those_of_its_rank(two):
    for guest, address in zip(two, ("10.0.0.1", "10.0.1.2"), strict=True):
        card = guest.output("ip address show $(grep -l ^52:55: /sys/class/net/*/address | cut -d/ -f5)")
        assert f"inet {address}/8 brd 10.255.255.255" in card
        assert f"mtu {HOST_MTU}" in card


def test_the_user_network_is_configured_by_dhcp(two):
    guest = two[0]
    assert "192.168.1." in guest.output("ip -4 address show $(grep -l ^52:56: /sys/class/net/*/address | cut -d/ -f5)")
    assert "default via 192.168.1.2" in guest.output("ip route")
    assert guest.output("cat /etc/resolv.conf") == "search example.org\nnameserver 192.168.1.3\n"


def test_hosts_has_every_rank(two):
    lines = two[1].output("cat /etc/hosts").splitlines()
    assert lines[:3] == ["127.0.0.1 localhost", "10.0.0.1 n0000", "10.0.0.2 n0001"]
    assert lines[-1] == "10.0.1.2 n0257"
    assert len(lines) == 1 + WORLD_SIZE
    assert two[1].output("cat /etc/hosts.mpi").split() == [f"n{rank:04}" for rank in range(WORLD_SIZE)]


def test_guests_reach_each_other_by_name(two):
    assert "0% packet loss" in two[0].output("ping -c 3 -s 8000 n0257")


@pytest.mark.parametrize(
    "options", ["", "-q -T -n", "-o ConnectTimeout=30 -o BatchMode=yes", "-l root -p 22 -x", "-i /root/.ssh/id_ed25519"]
)
def test_guests_log_in_to_each_other_without_a_question(two, options):
    assert two[0].output(f"ssh {options} n0257 hostname") == "n0257\n"


def test_guests_log_in_back_and_forth(two):
    assert two[0].output("ssh n0257 ssh n0000 hostname") == "n0000\n"


def test_files_travel_between_guests_unharmed(two):
    command = """
        cd /tmp && dd if=/dev/urandom of=sent bs=64k count=16 2>/dev/null &&
        scp -q sent n0257:/tmp/there && scp -q n0257:/tmp/there back && sha256sum sent back | cut -d" " -f1
    """
    sent, back = two[0].output(command).split()
    assert sent == back


def test_files_travel_to_a_guest_from_here(two, tmp_path):
    (tmp_path / "file").write_bytes(b"content\n" * 1000)
    argv = ["scp", "-q", "-F", "/dev/null", "-i", str(two[0].private_key), "-P", str(two[0].ssh_port)]
    argv += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]
    subprocess.run([*argv, str(tmp_path / "file"), "root@127.0.0.1:/tmp/file"], check=True, timeout=60)
    assert two[0].output("wc -c < /tmp/file").strip() == "8000"


def test_iperf3_measures_between_guests(two):
    two[1].output("iperf3 -s -1 -D")
    assert '"bits_per_second"' in two[0].output("iperf3 -J -t 1 -c n0257")


def test_the_usual_commands_are_there(two):
    for command in ("ping", "nc", "sha256sum", "taskset", "ssh", "scp", "iperf3", "poweroff", "mvpnet-shutdown"):
        two[0].output(f"command -v {command}")
    assert "ID=mvpnet-tiny" in two[0].output("cat /etc/os-release")


def test_only_ssh_listens(two):
    listening = [line.split() for line in two[0].output("netstat -ltun 2>/dev/null").splitlines() if ":" in line]
    assert [words[3] for words in listening] == ["0.0.0.0:22"]


def test_secrets_are_for_root_alone(two):
    modes = two[0].output(
        "stat -c %a /root/.ssh /root/.ssh/id_ed25519 /root/.ssh/authorized_keys /etc/dropbear/host_key"
    )
    assert modes.split() == ["700", "600", "600", "600"]


def test_another_key_and_a_password_are_refused(two, tmp_path):
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")]
    subprocess.run(argv, check=True)
    stranger = Guest(0, two[0].process, two[0].ssh_port, two[0].folder, tmp_path / "other")
    done = stranger.ssh("true")
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_boot_is_silent_but_for_the_shell(two):
    console = two[0].console()
    assert "root@n0000" in console
    for trouble in ("not found", "can't", "No such", "error"):
        assert trouble not in console


def test_looking_for_the_shutdown_address_reaches_the_network_and_the_power_button_ends_it_in_order(alone):
    guest, link = alone
    guest.output("mvpnet-shutdown")
    deadline = time.monotonic() + 30
    frame = b""
    while frame[12:14] != b"\x08\x06" or frame[38:42] != bytes([10, 255, 255, 254]):
        assert select.select([link], [], [], max(0, deadline - time.monotonic()))[0], "no ARP for 10.255.255.254"
        frame = link.recv(65536)
    assert frame[:12] == b"\xff" * 6 + bytes.fromhex("525500000000")
    guest.power_button()
    assert guest.process.wait(60) == 0


@pytest.mark.parametrize("command", ["poweroff", "reboot"])
def test_root_ends_it(alone, command):
    guest, _ = alone
    guest.ssh(command)
    assert guest.process.wait(60) == 0
