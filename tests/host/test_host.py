"""What the host has: decided from text and facts given here, and asked of this host for real."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvpnet.errors import ConfigError, HostError
from mvpnet.host.kvm import choose_accel, resolve_accel
from mvpnet.host.names import check_domains, default_user, search_domains
from mvpnet.host.ports import reserve_ssh_port
from mvpnet.host.programs import architecture, check_folder, find_program
from mvpnet.qemu.binary import (
    check_netdev,
    panic_device,
    qemu_version,
    supports_netdev,
    supports_sandbox,
)
from mvpnet.qemu.img import find_qemu_img
from mvpnet.spec.schema import Accel, NetKind

QEMU = "qemu-system-x86_64"
needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")

INTEL = "processor\t: 0\nflags\t\t: fpu vme de vmx smx\n"
AMD = "processor\t: 0\nflags\t\t: fpu svm\n"
NEITHER = "model name\t: vmx svm\nflags\t\t: fpu vmxish hypervisor\nvmx flags\t: vnmi\n"


def program(path: Path, script: str = "exit 0") -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


# KVM or TCG


@pytest.mark.parametrize(
    ("wanted", "cpuinfo", "trouble", "machines", "chosen", "why"),
    [
        (Accel.auto, INTEL, None, ("x86_64", "x86_64"), Accel.kvm, "/dev/kvm opens"),
        (Accel.auto, AMD, None, ("x86_64", "i386"), Accel.kvm, "/dev/kvm opens"),
        (Accel.auto, NEITHER, None, ("x86_64", "x86_64"), Accel.tcg, "neither vmx nor svm"),
        (Accel.auto, "", None, ("aarch64", "aarch64"), Accel.kvm, "/dev/kvm opens"),
        (Accel.auto, INTEL, "there is no /dev/kvm", ("x86_64", "x86_64"), Accel.tcg, "there is no /dev/kvm"),
        (Accel.auto, INTEL, None, ("x86_64", "aarch64"), Accel.tcg, "this host is x86_64 and the machine aarch64"),
        (Accel.kvm, INTEL, None, ("x86_64", "x86_64"), Accel.kvm, "vm.accel asks"),
        (Accel.kvm, NEITHER, None, ("x86_64", "x86_64"), Accel.kvm, "though the CPU shows neither"),
        (Accel.tcg, INTEL, None, ("x86_64", "x86_64"), Accel.tcg, "vm.accel asks"),
    ],
)
def test_choose_accel(
    wanted: Accel, cpuinfo: str, trouble: str | None, machines: tuple[str, str], chosen: Accel, why: str
) -> None:
    accel, reason = choose_accel(wanted, cpuinfo, trouble, *machines)
    assert accel is chosen
    assert why in reason


def test_kvm_that_is_asked_for_and_impossible() -> None:
    with pytest.raises(HostError, match=r"^vm\.accel: kvm cannot be used: there is no /dev/kvm"):
        choose_accel(Accel.kvm, INTEL, "there is no /dev/kvm", "x86_64", "x86_64")
    with pytest.raises(HostError, match="the machine riscv64"):
        choose_accel(Accel.kvm, INTEL, None, "x86_64", "riscv64")


def test_the_architecture_is_in_the_programs_name() -> None:
    assert architecture("/opt/bin/qemu-system-aarch64") == "aarch64"
    assert architecture("/usr/libexec/qemu-kvm") == platform.machine()


def test_resolve_accel_on_this_host() -> None:
    assert resolve_accel(Accel.tcg)[0] is Accel.tcg
    accel, why = resolve_accel(Accel.auto)
    assert accel in (Accel.kvm, Accel.tcg)
    assert why
    assert resolve_accel(Accel.auto, "/opt/bin/qemu-system-s390x")[0] is Accel.tcg


# Programs


def test_find_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wrapper = program(tmp_path / "monwrap")
    assert find_program("monwrap", "qemu.monwrap") == wrapper
    assert find_program(str(wrapper), "qemu.monwrap") == wrapper
    monkeypatch.chdir(tmp_path)
    assert find_program("./monwrap", "qemu.monwrap") == wrapper


def test_find_program_names_key_and_near_misses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/no/such/folder")
    wrapper = program(tmp_path / "monwrap")
    near = r"\n  hint: there is monwrap"
    with pytest.raises(HostError, match=r"^qemu\.monwrap: there is no program 'monwarp' on PATH" + near):
        find_program("monwarp", "qemu.monwrap")
    with pytest.raises(HostError, match=rf"^qemu\.monwrap: there is no {tmp_path}/monwarp" + near):
        find_program(f"{tmp_path}/monwarp", "qemu.monwrap")
    with pytest.raises(HostError, match=rf"^key: {tmp_path} is a folder"):
        find_program(str(tmp_path), "key")
    wrapper.chmod(0o644)
    with pytest.raises(HostError, match=rf"^key: {wrapper} may not be executed"):
        find_program(str(wrapper), "key")
    with pytest.raises(HostError, match=r"^key: there is no program 'zzz' on PATH$"):
        find_program("zzz", "key")


def test_qemu_img_beside_qemu_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix, others = tmp_path / "prefix", tmp_path / "others"
    prefix.mkdir()
    others.mkdir()
    program(prefix / "qemu")
    program(others / "qemu-img")
    (others / "qemu-link").symlink_to(prefix / "qemu")
    monkeypatch.setenv("PATH", str(others))
    assert find_qemu_img(str(prefix / "qemu")) == others / "qemu-img"
    program(prefix / "qemu-img")
    assert find_qemu_img(str(prefix / "qemu")) == prefix / "qemu-img"
    assert find_qemu_img("qemu-link") == prefix / "qemu-img"
    assert find_qemu_img("no-such-qemu") == others / "qemu-img"


# Ports


def run_of_free_ports(step: int, count: int) -> int:
    """A base from which `count` ports in steps are free on this host."""
    for base in range(30000, 60000, 7):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for i in range(count):
                stack.enter_context(socket.create_server(("127.0.0.1", base + i * step)))
            return base
    pytest.skip("no run of free ports")


def free_ssh_port(rank: int, base: int, most_ranks_on_one_host: int) -> int:
    port, holder = reserve_ssh_port(rank, base, most_ranks_on_one_host)
    holder.close()
    return port


def test_a_free_ssh_port() -> None:
    base = run_of_free_ports(100, 3)
    assert free_ssh_port(0, base, 1) == base
    assert free_ssh_port(5, base - 5, 1) == base
    with socket.create_server(("127.0.0.1", base)):
        assert free_ssh_port(0, base, 1) == free_ssh_port(0, base, 100) == base + 100
        with socket.create_server(("127.0.0.1", base + 100)):
            assert free_ssh_port(0, base, 64) == base + 200


def test_an_ssh_port_is_one_jobs_alone_before_qemu_binds_it() -> None:
    base = run_of_free_ports(100, 3)
    port, holder = reserve_ssh_port(0, base, 1)
    with holder:
        assert port == base
        assert free_ssh_port(0, base, 1) == base + 100
    assert free_ssh_port(0, base, 1) == base


def test_a_larger_host_has_a_larger_stride() -> None:
    base = run_of_free_ports(200, 2)
    with socket.create_server(("127.0.0.1", base)):
        assert free_ssh_port(0, base, 101) == base + 200


def test_no_port_is_left() -> None:
    with pytest.raises(HostError, match=r"^rank 63336: no port for ssh is free .* 0 tried from 65536 up"):
        free_ssh_port(63336, 2200, 1)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # taken already is as good
            stack.enter_context(socket.create_server(("127.0.0.1", 65535)))
        with pytest.raises(HostError, match="1 tried from 65535 up"):
            free_ssh_port(0, 65535, 1)


# Names


@pytest.mark.parametrize(
    ("text", "domains"),
    [
        ("", []),
        ("nameserver 10.0.0.1\n", []),
        ("search a.example b.example\n", ["a.example", "b.example"]),
        ("search a.example\ndomain\tb.example\n", ["b.example"]),
        ("domain b.example\n  search  a.example  . \n", ["a.example"]),
        ("search .\n", []),
        ("search a.example\nsearch\n", []),
        ("#search a.example\n; domain b\nsearchx c\n", []),
        ("search good.example bad,restrict=on\n", ["good.example"]),
    ],
)
def test_search_domains(text: str, domains: list[str]) -> None:
    assert search_domains(text) == domains


@given(st.text())
def test_search_domains_are_safe_on_the_command_line(text: str) -> None:
    check_domains(search_domains(f"search {text}"))


def test_check_domains() -> None:
    check_domains(["a", "a.example", "a.example.", "_tcp.x-1.example"])
    for bad in ("", ".", "a b", "a,b", "a=b", "-a", "a..b", "a" * 64, "a." * 127 + "ab", "a\n"):
        with pytest.raises(ConfigError, match=r"^net\.domains: "):
            check_domains(["good", bad])


def test_default_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody")
    assert default_user() == "somebody"
    monkeypatch.setenv("LOGNAME", "some body@site")
    with pytest.raises(ConfigError, match=r"^image\.user is not given, and your name on this host: 'some body@site'"):
        default_user()


def test_check_folder(tmp_path: Path) -> None:
    check_folder(tmp_path, "net.tftp_dir", write=True)
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match=r"^net\.tftp_dir: .* is no folder"):
        check_folder(tmp_path / "file", "net.tftp_dir")
    with pytest.raises(HostError, match=r"^net\.tftp_dir: .* is not there"):
        check_folder(tmp_path / "nothing", "net.tftp_dir")
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(HostError, match=r"may not be written"):
            check_folder(tmp_path, "net.tftp_dir", write=True)


# qemu


@needs_qemu
def test_this_qemu() -> None:
    version = qemu_version(QEMU)
    assert version is not None
    assert version >= (7, 2)
    assert all(supports_netdev(QEMU, kind) for kind in NetKind)
    check_netdev(QEMU, NetKind.dgram)
    assert panic_device(QEMU) == "pvpanic"
    assert supports_sandbox(QEMU)


def test_an_old_qemu(tmp_path: Path) -> None:
    """As qemu 6.2 answers."""
    old = program(
        tmp_path / "qemu-old",
        'case $1 in --version) echo "QEMU emulator version 6.2.0 (Debian 1:6.2)";; '
        "*) printf 'Available netdev backend types:\\nsocket\\nhubport\\nuser\\n';; esac",
    )
    assert qemu_version(str(old)) == (6, 2, 0)
    assert not supports_netdev(str(old), NetKind.stream)
    with pytest.raises(HostError, match=r"^net\.kind: .*qemu-old \(qemu 6\.2\.0\) has no -netdev dgram"):
        check_netdev(str(old), NetKind.dgram)


def test_a_program_that_is_no_qemu(tmp_path: Path) -> None:
    stand_in = program(tmp_path / "stand-in", "echo usage >&2; exit 2")
    assert qemu_version(str(stand_in)) is None
    check_netdev(str(stand_in), NetKind.stream)
    assert panic_device(str(stand_in)) is None
    assert not supports_sandbox(str(stand_in))
    with pytest.raises(HostError, match=r"^qemu\.binary: .* does not start: No such file"):
        qemu_version(str(tmp_path / "nothing"))
