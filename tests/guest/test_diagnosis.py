"""Last words, and what is made of them: words collected from guests, and words that the real qemu is made to say."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from mvpnet.guest.diagnosis import TAIL_BYTES, from_panic, last_lines, likely_cause, panic_words
from mvpnet.guest.states import GuestState

BOOTING, STARTING = GuestState.booting, GuestState.starting


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("Boot failed: not a bootable disk", "not bootable"),
        ("No bootable device.", "not bootable"),
        ("[ 1.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", "root disk"),
        ("ALERT!  UUID=1234 does not exist.  Dropping to a shell!", "root disk"),
        ("dracut-initqueue[300]: Warning: dracut-initqueue timeout - starting timeout scripts", "root disk"),
        ("[ 9.9] Out of memory: Killed process 312 (sshd)", "vm.memory"),
        ("Kernel panic - not syncing: Attempted to kill init!", "panicked"),
        ("You are in emergency mode. After logging in, type", "emergency"),
        ("cloud-init[512]: 2025-01-01 - util.py[WARNING]: failed stage init", "cloud-init"),
        ("ci-info: DataSourceNone", "cloud-init"),
        ("n0002 login:", "ssh server"),
    ],
)
def test_what_a_console_tells(line, part):
    assert part in likely_cause(BOOTING, [], ["before", line, "after"])


def test_the_first_cause_counts_not_the_last_line():
    assert "root disk" in likely_cause(BOOTING, [], ["VFS: Unable to mount root fs", "Kernel panic - not syncing"])
    assert "ssh port" in likely_cause(STARTING, ["Could not set up host forwarding rule 'tcp:…'"], ["Kernel panic"])


def test_a_login_prompt_explains_no_crash_of_a_guest_that_was_up():
    assert likely_cause(GuestState.up, [], ["n0002 login:"]) is None


def test_silence():
    assert "serial console" in likely_cause(BOOTING, [], [])
    assert likely_cause(BOOTING, [], None) is None
    assert likely_cause(STARTING, [], []) is None


@pytest.mark.parametrize(
    "line", ["all is well", "Last login: Mon Nov 24", "cloud-init[9]: Cloud-init v. 22.4 finished"]
)
def test_words_that_tell_nothing(line):
    assert likely_cause(BOOTING, ["qemu: warning: host doesn't support something"], [line]) is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[   12.3] Kernel panic - not syncing: sysrq triggered crash", "sysrq triggered crash"),
        ("[   12.4] ---[ end Kernel panic - not syncing: Attempted to kill init! ]---", "Attempted to kill init!"),
        ("Kernel panic - not syncing: Fatal exception: panic_on_oops", "Fatal exception: panic_on_oops"),
        ("Kernel panic - not syncing", ""),
        ("all is well", ""),
    ],
)
def test_what_a_panic_says(line, words):
    assert panic_words(["before", line, "after"]) == words


def test_a_panics_lines_begin_with_its_words():
    words, registers = "[1.2] Kernel panic - not syncing: sysrq triggered crash", "[1.3] RIP: 0033:0x47b7a0"
    assert from_panic(["before", words, registers]) == (words, registers)
    assert from_panic(["all", "is well"]) == ("all", "is well")


def test_last_lines(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one\r\n\r\n\x1b[2Jtwo\x1b[0m \n\x00three\xff\rfour\n\n")
    assert last_lines(log) == ("one", "two", "three�", "four")
    assert last_lines(log, 2) == ("three�", "four")
    assert last_lines(log, start=5) == ("two", "three�", "four")


def test_only_the_tail_of_a_long_log_is_read(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"x" * (3 * TAIL_BYTES) + b"\nend\n")
    assert last_lines(log, 1) == ("end",)
    assert sum(map(len, last_lines(log))) < TAIL_BYTES


def test_no_log(tmp_path):
    assert last_lines(None) == last_lines(tmp_path / "none") == last_lines(tmp_path) == ()


# -- what the real qemu says -------------------------------------------------------------------------------------------


@pytest.fixture
def qemu_says():
    """Run qemu with options that it cannot take, and give the lines that it ends with."""
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("needs qemu")

    def run(*argv: str) -> list[str]:
        done = subprocess.run(
            ["qemu-system-x86_64", "-accel", "tcg", "-display", "none", "-nodefaults", *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        return done.stderr.splitlines()

    return run


@pytest.mark.boot
@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["-bogus"], "qemu.extra_args"),
        (["-device", "no-such-device"], "qemu.extra_args"),
        (["-cpu", "no-such-cpu"], "vm.cpu_model"),
        (["-M", "no-such-machine"], "vm.machine"),
        (["-m", "512T"], "vm.memory"),
        (["-drive", "file=/nowhere/disk.qcow2,if=virtio"], "not there"),
        (["-kernel", "/nowhere/vmlinuz"], "image.kernel"),
        (["-kernel", __file__], "image.kernel"),
    ],
)
def test_what_qemu_says_of(qemu_says, argv, part):
    lines = qemu_says(*argv)
    assert part in (likely_cause(STARTING, lines, []) or ""), lines


@pytest.mark.boot
def test_what_qemu_says_of_a_port_that_is_taken(qemu_says):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        lines = qemu_says("-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{port}-:22")
    assert "net.ssh_port" in (likely_cause(STARTING, lines, []) or ""), lines


@pytest.mark.boot
def test_what_qemu_says_of_an_image_in_use(qemu_says, tmp_path: Path):
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    drive = f"file={disk},format=raw,if=virtio"
    paused = ["-accel", "tcg", "-display", "none", "-nodefaults", "-S", "-qmp", "stdio"]
    with subprocess.Popen(
        ["qemu-system-x86_64", *paused, "-drive", drive],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdin and other.stdout
        assert b"QMP" in other.stdout.readline()
        other.stdin.write(b'{"execute": "qmp_capabilities"}\n')
        other.stdin.flush()
        assert b"return" in other.stdout.readline()  # its machine, and so its lock on the disk, is there
        lines = qemu_says("-drive", drive)
        other.kill()
    assert "another qemu" in (likely_cause(STARTING, lines, []) or ""), lines
