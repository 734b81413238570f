"""What the doctor makes of facts: each line that it can tell, from facts that are made up."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doctor.made_up import GIB, MPI, QEMU, facts, spec, told, view
from mvpnet.cli.doctor import summary, text
from mvpnet.doctor import checks
from mvpnet.doctor.checks import RankView, Skew
from mvpnet.doctor.facts import Demand, ImageFacts, ImageState, Port, QemuFacts, Refusal
from mvpnet.guest.drives import DrivePlan
from mvpnet.host.finding import Finding, Level, merged
from mvpnet.host.kvm import KvmDevice
from mvpnet.spec.plain import plain
from mvpnet.spec.schema import Accel, WaitFor


def test_a_host_on_which_all_is_well() -> None:
    lines = checks.findings([view(rank) for rank in range(3)])
    assert {line.level for line in lines} == {Level.ok}
    assert {line.ranks for line in lines} == {(0, 1, 2)}, "a line for all ranks that find the same"
    names = [line.check for line in lines]
    first = ["mvpnet", "mpi", "qemu", "netdev", "kvm", "memory", "cpus", "scratch"]
    assert names == [*first, "sockets", "ssh ports", "image", "tools"]


def test_ranks_of_several_hosts() -> None:
    skew = Skew(0.002, 0.0001)
    views = [view(0, "a"), replace(view(1, "b"), skew=skew), view(2, "a"), view(3, "b", qemu=replace(QEMU, path="/x"))]
    lines = checks.findings(views)
    assert [line.host for line in lines] == sorted(line.host for line in lines)
    assert [(line.host, line.ranks) for line in lines if line.check == "clock"] == [("a", (0,)), ("b", (1,))]
    assert [line.ranks for line in lines if line.check == "qemu"] == [(0, 2), (1,), (3,)]
    assert [line.ranks for line in lines if line.check == "memory"] == [(0, 2), (1, 3)]


def test_what_several_ranks_say_is_merged_a_host() -> None:
    one = Finding("a", (3,), "kvm", Level.ok, "KVM")
    found = merged([one, replace(one, ranks=(0,)), replace(one, host="b"), replace(one, seen="TCG"), one])
    assert found == [replace(one, ranks=(0, 3)), replace(one, host="b"), replace(one, seen="TCG")]


# -- the launch --------------------------------------------------------------------------------------------------------


def test_versions() -> None:
    assert checks.version("a", 1, "1.0", "1.0").level is Level.ok
    level, seen, todo = told(checks.version("a", 1, "0.9", "1.0"))
    assert (level, seen) == ("failure", "0.9, and rank 0 has 1.0") and "the same version" in todo


@pytest.mark.parametrize(
    ("changes", "level", "seen", "todo"),
    [
        ({}, "ok", "thread level single; started by Open MPI's mpirun", ""),
        (
            {"launcher": None, "launched_size": None, "world_size": 1},
            "ok",
            "without mpirun",
            "",
        ),
        ({"world_size": 2}, "failure", "the launcher started 4 ranks", "MPI4PY_LIBMPI"),
        ({"library": "Open MPI v5.0.1"}, "failure", "rank 0 has Open MPI v4.1.4", "same MPI module"),
        ({"refused": ("no usable MPI library", "load it")}, "failure", "no usable MPI library", "load it"),
    ],
)
def test_mpi(changes: dict[str, Any], level: str, seen: str, todo: str) -> None:
    found = told(checks.mpi(view(1, mpi=replace(MPI, **changes)), view(0)))
    assert found[0] == level and seen in found[1] and todo in found[2]


@pytest.mark.parametrize(
    ("skew", "level", "seen"),
    [
        (None, "ok", "compared with"),
        (Skew(0.0123, 0.0004), "ok", "12.3 ms ahead of a (± 0.4 ms)"),
        (Skew(-0.5, 0.6), "ok", "500.0 ms behind a (± 600.0 ms)"),
        (Skew(-1.5, 0.6), "ok", "1500.0 ms behind"),  # it may be less than a second
        (Skew(-90, 0.01), "warning", "90000.0 ms behind a"),
        (Skew(2, 0.01), "warning", "2000.0 ms ahead of a"),
    ],
)
def test_clocks(skew: Skew | None, level: str, seen: str) -> None:
    found = told(checks.clock(replace(view(1, "b"), skew=skew), view(0, "a")))
    assert found[0] == level and seen in found[1]
    assert ("NTP" in found[2]) is (level == "warning")


# -- the machine -------------------------------------------------------------------------------------------------------

NO_PROGRAM = Refusal("qemu.binary: there is no program 'qemu-x' on PATH", "there is qemu-y")
NO_NETDEV = Refusal("net.kind: /bin/q (qemu 6.2.0) has no -netdev stream", "qemu 7.2 and later have it")


@pytest.mark.parametrize(
    ("qemu", "of_qemu", "of_netdev"),
    [
        (QEMU, ("ok", "7.2.22"), ("ok", "stream")),
        (replace(QEMU, version=(10, 0)), ("ok", "10.0"), ("ok", "stream")),  # later than 7.2, as no number is
        (QemuFacts(None, None, frozenset(), NO_PROGRAM), ("failure", "no program 'qemu-x'"), ("failure", "no qemu")),
        (
            QemuFacts("/bin/q", (6, 2, 0), frozenset(["user"]), NO_NETDEV),
            ("failure", "6.2.0, is old"),
            ("failure", "has no -netdev stream"),
        ),
        (QemuFacts("/bin/q", (7, 1, 50), QEMU.netdevs), ("warning", "7.1.50, is old"), ("ok", "stream")),
        (QemuFacts("/bin/q", None, frozenset()), ("warning", "tells no version"), ("warning", "no list")),
        (
            QemuFacts("/bin/q", None, frozenset(), Refusal("qemu.binary: /bin/q does not start")),
            ("failure", "does not start"),
            ("failure", "no qemu to ask"),
        ),
    ],
)
def test_qemu(qemu: QemuFacts, of_qemu: tuple[str, str], of_netdev: tuple[str, str]) -> None:
    for check, (level, seen) in ((checks.qemu, of_qemu), (checks.netdev, of_netdev)):
        found = told(check(view(qemu=qemu)))
        assert found[0] == level and seen in found[1], found


def kvm(asked: Accel, accel: Any, device: KvmDevice, **more: Any) -> tuple[str, str, str]:
    return told(checks.kvm(view(asked={"vm": {"accel": asked}}, accel=accel, kvm=device, **more)))


ABSENT = KvmDevice(errno.ENOENT)
CLOSED = KvmDevice(errno.EACCES, "crw-rw----", "root", "kvm", in_group=False)
MEMBER = replace(CLOSED, in_group=True, mode="crw-------")
CAGED = KvmDevice(errno.EPERM, "crw-rw-rw-", "root", "kvm")
EMPTY = KvmDevice(errno.ENODEV, "crw-rw-rw-", "root", "kvm")


@pytest.mark.parametrize(
    ("device", "seen", "todo"),
    [
        (ABSENT, "slow: there is no /dev/kvm", "load kvm_intel"),
        (CLOSED, "it is crw-rw---- root kvm, and this user is not in the group kvm", "put you into the group kvm"),
        (MEMBER, "this user is in the group kvm", "let its group open /dev/kvm (it is crw-------)"),
        (CAGED, "a control group forbids it", "--device /dev/kvm"),
        (EMPTY, "No such device", "load kvm_intel"),
    ],
)
def test_what_keeps_kvm(device: KvmDevice, seen: str, todo: str) -> None:
    found = kvm(Accel.auto, (Accel.tcg, device.trouble), device)
    assert found[0] == "warning" and seen in found[1] and todo in found[2], found
    assert found[2].endswith("; or vm.accel=tcg")
    failed = kvm(Accel.kvm, Refusal(f"vm.accel: kvm cannot be used: {device.trouble}"), device)
    assert failed[0] == "failure" and seen.removeprefix("slow: ") in failed[1] and todo in failed[2], failed


@pytest.mark.parametrize(
    ("asked", "accel", "lacks", "level", "seen", "todo"),
    [
        (Accel.auto, (Accel.kvm, "/dev/kvm opens"), False, "ok", "KVM: /dev/kvm opens", ""),
        (Accel.tcg, (Accel.tcg, "vm.accel asks"), True, "ok", "TCG: vm.accel asks", ""),
        (Accel.auto, (Accel.tcg, "the CPU shows neither"), True, "warning", "neither", "nested virtualization"),
        (Accel.auto, (Accel.tcg, "this host is x86_64 and …"), False, "warning", "this host is", "architecture"),
    ],
)
def test_kvm(asked: Accel, accel: Any, lacks: bool, level: str, seen: str, todo: str) -> None:
    found = kvm(asked, accel, KvmDevice(), lacks_virtualization=lacks)
    assert found[0] == level and seen in found[1] and todo in found[2], found


def test_kvm_that_is_forced_on_a_cpu_without() -> None:
    forced = (Accel.kvm, "vm.accel asks, though the CPU shows neither vmx nor svm")
    level, seen, todo = kvm(Accel.kvm, forced, KvmDevice(), lacks_virtualization=True)
    assert level == "warning" and "neither" in seen and "hang" in todo


def flash(*keys: str) -> tuple[DrivePlan, ...]:
    return tuple(DrivePlan(key, "", source=Path(f"/share/{key}.fd")) for key in keys)


def test_firmware() -> None:
    assert list(checks.firmware(view())) == []
    [line] = checks.firmware(view(firmware=flash("vm.firmware", "vm.firmware.variables")))
    assert told(line) == ("ok", "UEFI: /share/vm.firmware.fd, variables from /share/vm.firmware.variables.fd", "")
    warning, line = checks.firmware(view(firmware=flash("vm.firmware")))
    assert warning.level is Level.warning and "no template of variables" in warning.seen
    assert line.level is Level.ok
    refused = Refusal("vm.firmware: there is no UEFI firmware for x86_64 on this host", "install ovmf")
    [line] = checks.firmware(view(firmware=refused))
    assert told(line) == ("failure", refused.message, "install ovmf")


@pytest.mark.parametrize(
    ("asked", "overlap", "seen", "todo"),
    [
        ("192.168.1.0/24", "192.168.1.0/24", "take it for their user network, 192.168.1.0/24", "net.user_network"),
        ("172.30.0.0/24", "172.16.0.0/12", "take it for their user network, 172.30.0.0/24", "net.user_network"),
        (
            "192.168.1.0/24",
            "10.1.2.0/24",
            "take it for the network between them, 10.0.0.0/8",
            "ip route add 10.1.2.0/24 via 192.168.1.2",
        ),
        ("172.30.0.0/24", "10.0.0.0/8", "the network between them", "the host itself is 172.30.0.2 in a guest"),
    ],
)
def test_networks_that_guests_do_not_reach(asked: str, overlap: str, seen: str, todo: str) -> None:
    assert list(checks.networks(view())) == []
    [line] = checks.networks(view(asked={"net": {"user_network": asked}}, overlaps=(overlap,)))
    found = told(line)
    assert found[0] == "warning" and seen in found[1] and todo in found[2], found
    assert line in checks.findings([view(asked={"net": {"user_network": asked}}, overlaps=(overlap,))])


# -- the host ----------------------------------------------------------------------------------------------------------


def test_a_scratch_folder_that_cannot_be_made_and_leftovers() -> None:
    refused = Refusal("job.scratch_dir: cannot make a folder in /x: Read-only file system", "set it")
    [line] = checks.scratch([view(scratch_refused=refused)])
    assert told(line) == ("failure", refused.message, "set it")
    [line] = checks.scratch([view(removed=("removing /tmp/x, left by a job that was killed",))])
    assert line.level is Level.ok and "/tmp/x" in line.seen


@pytest.mark.parametrize(
    ("sure", "most", "level", "seen"),
    [
        (0, 4 * GIB, "ok", "may write 8 GiB in /tmp, and 10 GiB are free"),
        (0, 6 * GIB, "warning", "may write 12 GiB in /tmp, and 10 GiB are free"),
        (6 * GIB, 6 * GIB, "failure", "copies of images take 12 GiB in /tmp, and 10 GiB are free"),
    ],
)
def test_disk_space_of_all_ranks_together(sure: int, most: int, level: str, seen: str) -> None:
    views = [view(rank, demands=(Demand("/tmp", 1, 10 * GIB, sure, most),)) for rank in range(2)]
    [line] = checks.space(views)
    assert line.ranks == (0, 1) and told(line)[:2] == (level, told(line)[1]) and seen in line.seen
    apart = [view(rank, demands=(Demand(f"/d{rank}", rank, 10 * GIB, sure, most),)) for rank in range(2)]
    assert [line.level for line in checks.space(apart)] == [Level.ok, Level.ok], "each disk has room for one"


def test_the_longest_socket_path_counts() -> None:
    paths = ["/tmp/s", "/tmp/" + "x" * 103, "/tmp/t"]
    views = [view(rank, sockets=(("net.socket_dir", path),)) for rank, path in enumerate(paths)]
    line = checks.sockets(views)
    assert line.level is Level.failure and line.ranks == (1,)
    assert "net.socket_dir" in line.seen and "108 bytes and may have 107" in line.seen
    assert told(checks.sockets(views[::2])) == ("ok", "the longest path has 6 bytes", "")


def test_ssh_ports() -> None:
    refused = Refusal("rank 3: no port for ssh is free", "another range")
    views = [view(0), view(1), view(2, port=Port(2202, 2302)), view(3, port=Port(2203, None, refused))]
    free, taken, none = checks.ssh_ports(views)
    assert told(free)[:2] == ("ok", "2200 to 2201 free") and free.ranks == (0, 1)
    assert told(taken)[:2] == ("warning", "2202 is taken; the job would take 2302") and taken.ranks == (2,)
    assert told(none) == ("failure", refused.message, "another range")
    assert [line.seen for line in checks.ssh_ports([view(0)])] == ["2200 free"]


# -- what the job names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "level", "seen", "todo"),
    [
        (ImageFacts(ImageState.here, "disk.qcow2"), "ok", "disk.qcow2", ""),
        (ImageFacts(ImageState.to_build, "image=tiny"), "warning", "not built", "mvpnet image fetch image=tiny"),
        (ImageFacts(ImageState.to_fetch, "https://x/y"), "warning", "https://x/y is not in the store", "fetches it"),
        (
            ImageFacts(ImageState.refused, "", Refusal("image.path: there is no x", "y")),
            "failure",
            "there is no x",
            "y",
        ),
    ],
)
def test_images(image: ImageFacts, level: str, seen: str, todo: str) -> None:
    found = told(checks.image(view(image=image)))
    assert found[0] == level and seen in found[1] and todo in found[2]


@pytest.mark.parametrize(
    ("missing", "rank", "asked", "runs_ssh", "level", "seen"),
    [
        ("", 0, {}, False, "ok", "qemu-img, ssh, ssh-keygen"),
        ("ssh-keygen", 0, {}, False, "failure", "no ssh-keygen"),
        ("ssh-keygen", 1, {}, False, "ok", "qemu-img, ssh"),  # rank 0 alone makes the job's key
        ("qemu-img", 1, {}, False, "failure", "no qemu-img"),
        ("ssh", 0, {}, False, "warning", "log in"),
        ("ssh", 1, {}, False, "ok", "qemu-img, ssh-keygen"),
        ("ssh", 1, {"boot": {"wait_for": WaitFor.cloud_init}}, False, "failure", "boot.wait_for=cloud_init"),
        ("ssh", 0, {}, True, "failure", "app=guest"),
    ],
)
def test_tools(missing: str, rank: int, asked: dict[str, Any], runs_ssh: bool, level: str, seen: str) -> None:
    programs = tuple((name, None if name == missing else "/bin") for name in ("ssh", "ssh-keygen", "qemu-img"))
    found = told(checks.tools(RankView(spec(rank, **asked), facts(rank, programs=programs), "1.0", runs_ssh=runs_ssh)))
    assert found[0] == level and seen in found[1]


def test_whatever_else_a_job_would_refuse() -> None:
    [line] = checks.settings(view(refused=(Refusal("net.tftp_dir: x is not there"),)))
    assert told(line) == ("failure", "net.tftp_dir: x is not there", "change net.tftp_dir, or the host")
    assert list(checks.settings(view())) == []


# -- how it is shown ---------------------------------------------------------------------------------------------------

LINES = [
    Finding("a", (0, 1, 2, 5), "qemu", Level.ok, "7.2"),
    Finding("a", (0,), "kvm", Level.warning, "slow [red]", "take another"),
    Finding("b", (3,), "kvm", Level.failure, "none"),
]


def test_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    rows = [line.split() for line in text(LINES).splitlines()]
    assert rows[0] == ["host", "ranks", "check", "seen", "what", "to", "do"]
    assert rows[2] == ["a", "0-2,5", "qemu", "ok", "7.2"]
    assert rows[3] == ["0", "kvm", "warning", "slow", "[red]", "take", "another"]
    assert rows[4] == ["b", "3", "kvm", "failure", "none"]
    assert rows[-1] == ["1", "failure,", "1", "warning"]


def test_sums() -> None:
    assert summary(LINES[:1]) == "nothing is in the way\n"
    assert summary([LINES[1], LINES[1]]) == "2 warnings\n"


def test_a_line_as_json() -> None:
    shown = json.loads(json.dumps(plain(LINES[1])))
    assert shown == {
        "host": "a",
        "ranks": [0],
        "check": "kvm",
        "level": "warning",
        "seen": "slow [red]",
        "todo": "take another",
    }
