"""qemu's command line: goldens for every option of the C program, and the real qemu's own opinion of it."""

from __future__ import annotations

import contextlib
import json
import select
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mvpnet.errors import ConfigError
from mvpnet.guest.command_line import LinkFd, LinkPath, Wiring, qemu_argv, shell_text
from mvpnet.guest.drives import plan_drives
from mvpnet.host.ports import reserve_ssh_port
from mvpnet.qemu.binary import panic_device, supports_sandbox
from mvpnet.spec.model import JobSpec, RankSpec
from mvpnet.spec.option_string import escaped
from mvpnet.spec.schema import Accel, CloudInit, Config, Image, ImageUse, Job, Net, NetKind, Qemu, Vm
from mvpnet.spec.user_network import parse_user_network
from support import poll_until

QEMU = "qemu-system-x86_64"
needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")


def make_spec(*, rank: int = 3, world_size: int = 300, job_name: str = "job7", **sections: Any) -> RankSpec:
    config = Config(job=Job(name=job_name), **sections)
    return JobSpec(world_size=world_size, run_dir=Path("/run"), config=config).for_rank(rank)


def make_wiring(**facts: Any) -> Wiring:
    given = {
        "accel": Accel.tcg,
        "ssh_port": 2203,
        "link": LinkFd(7),
        "qmp_fd": 8,
        "console_socket": Path("/s/console"),
    } | facts
    return Wiring(**given)


AUTO_UNDER_TCG = "max,-erms,-fsrm"

# The whole command line with nothing asked for. The tests below say what each option makes of it.
PLAIN = [
    "qemu-system-x86_64",
    "-nodefaults",
    "-no-user-config",
    "-name",
    "job7.n0003",
    "-accel",
    "tcg",
    "-cpu",
    AUTO_UNDER_TCG,
    "-m",
    "1024M",
    "-smp",
    "1",
    "-display",
    "none",
    "-vga",
    "none",
    "-chardev",
    "socket,id=console,path=/s/console,server=on,wait=off",
    "-serial",
    "chardev:console",
    "-chardev",
    "socket,id=qmp,fd=8",
    "-mon",
    "chardev=qmp,mode=control",
    "-netdev",
    "user,id=usernet,net=192.168.1.0/24,hostname=n0003,hostfwd=tcp:127.0.0.1:2203-:22",
    "-device",
    "virtio-net-pci,netdev=usernet,mac=52:56:00:00:01:2c",
    "-netdev",
    "stream,id=mvpnet,addr.type=fd,addr.str=7",
    "-device",
    "virtio-net-pci,netdev=mvpnet,mac=52:55:00:00:00:03",
    "-device",
    "virtio-rng-pci",
]


def with_changes(*changes: tuple[str, str]) -> list[str]:
    """PLAIN with some of its arguments replaced by others; each must be there."""
    argv = list(PLAIN)
    for old, new in changes:
        argv[argv.index(old)] = new
    return argv


def with_added(before: str, *added: str) -> list[str]:
    at = PLAIN.index(before)
    return PLAIN[:at] + list(added) + PLAIN[at:]


def test_plain() -> None:
    assert qemu_argv(make_spec(), make_wiring()) == PLAIN


def test_numbers_of_another_rank() -> None:
    argv = qemu_argv(make_spec(rank=70000, world_size=70001), make_wiring())
    assert "job7.n70000" in argv
    assert "virtio-net-pci,netdev=mvpnet,mac=52:55:00:01:11:70" in argv
    assert "virtio-net-pci,netdev=usernet,mac=52:56:00:01:11:71" in argv


def test_j_job_name() -> None:
    assert qemu_argv(make_spec(job_name="big.run"), make_wiring()) == with_changes(("job7.n0003", "big.run.n0003"))


def test_i_images(tmp_path: Path) -> None:
    boot, data = tmp_path / "boot.img", tmp_path / "data,2.img"
    boot.write_bytes(b"boot")
    data.write_bytes(b"data")
    drives = [f"{str(data).replace(',', ',,')},cache=none,mvpctl=s", "file=nbd://h/x,format=raw"]
    spec = make_spec(image=Image(path=str(boot), use=ImageUse.direct, drives=drives))
    options = tuple(plan.option for plan in plan_drives(spec, tmp_path))
    assert qemu_argv(spec, make_wiring(drives=options)) == with_added(
        "-netdev",
        "-drive",
        f"file={boot},format=raw,media=disk,if=virtio",
        "-drive",
        f"file={tmp_path}/data,,2.img,format=raw,media=disk,if=virtio,snapshot=on,cache=none",
        "-drive",
        "file=nbd://h/x,format=raw",
    )


def test_c_cloud_init_is_the_second_drive(tmp_path: Path) -> None:
    (tmp_path / "boot.img").write_bytes(b"boot")
    (tmp_path / "user-data").touch()
    (tmp_path / "meta-data").touch()
    image = Image(path=str(tmp_path / "boot.img"), use=ImageUse.readonly, drives=["file=/x"])
    spec = make_spec(image=image, cloud_init=CloudInit(path=str(tmp_path)))
    argv = qemu_argv(spec, make_wiring(drives=tuple(plan.option for plan in plan_drives(spec, tmp_path))))
    seed = "format=raw,media=disk,if=virtio,snapshot=on"
    assert [argv[i + 1] for i, option in enumerate(argv) if option == "-drive"] == [
        f"file={tmp_path}/boot.img,format=raw,media=disk,if=virtio,read-only=on",
        f"file.driver=vvfat,file.dir={tmp_path},file.label=cidata,{seed}",
        "file=/x",
    ]


def test_n_dgram() -> None:
    spec = make_spec(net=Net(kind=NetKind.dgram))
    assert qemu_argv(spec, make_wiring()) == with_changes(
        ("stream,id=mvpnet,addr.type=fd,addr.str=7", "dgram,id=mvpnet,local.type=fd,local.str=7")
    )


def test_s_stream_by_path() -> None:
    wiring = make_wiring(link=LinkPath(Path("/s/mvp.job7.3.sock")))
    assert qemu_argv(make_spec(), wiring) == with_changes(
        ("stream,id=mvpnet,addr.type=fd,addr.str=7", "stream,id=mvpnet,addr.type=unix,addr.path=/s/mvp.job7.3.sock")
    )


def test_s_dgram_by_path() -> None:
    wiring = make_wiring(link=LinkPath(Path("/s/a,b.qo-rsock"), Path("/s/a,b.qi-lsock")))
    assert qemu_argv(make_spec(net=Net(kind=NetKind.dgram)), wiring) == with_changes(
        (
            "stream,id=mvpnet,addr.type=fd,addr.str=7",
            "dgram,id=mvpnet,local.type=unix,local.path=/s/a,,b.qi-lsock,remote.type=unix,remote.path=/s/a,,b.qo-rsock",
        )
    )


def test_dgram_by_path_needs_both_sockets() -> None:
    with pytest.raises(ValueError, match="dgram"):
        qemu_argv(make_spec(net=Net(kind=NetKind.dgram)), make_wiring(link=LinkPath(Path("/s/x"))))


def test_k_kvm() -> None:
    assert qemu_argv(make_spec(), make_wiring(accel=Accel.kvm)) == with_changes(
        ("tcg", "kvm"), (AUTO_UNDER_TCG, "host")
    )


@pytest.mark.parametrize("architecture", ["x86_64", "i386"])
def test_the_cpu_under_tcg_has_no_string_copies_on_x86(architecture: str) -> None:
    assert qemu_argv(make_spec(), make_wiring(architecture=architecture)) == PLAIN
    asked = qemu_argv(make_spec(vm=Vm(cpu_model="max")), make_wiring(architecture=architecture))
    assert asked == with_changes((AUTO_UNDER_TCG, "max")), "what is asked for is taken as it is"


@pytest.mark.parametrize(
    ("architecture", "machine", "under_tcg"),
    [
        ("aarch64", "virt,gic-version=max", "max"),
        ("arm", "virt", "max"),
        ("riscv64", "virt", "rv64"),
        ("riscv32", "virt", "rv32"),
        ("s390x", None, "max"),
        ("ppc64", None, None),
    ],
)
@pytest.mark.parametrize("accel", [Accel.tcg, Accel.kvm])
def test_another_architecture_has_a_machine_and_a_cpu(
    architecture: str, machine: str | None, under_tcg: str | None, accel: Accel
) -> None:
    argv = qemu_argv(make_spec(), make_wiring(architecture=architecture, accel=accel))
    given = dict(pairwise(argv))
    assert given.get("-machine") == machine
    assert given.get("-cpu") == ("host" if accel is Accel.kvm else under_tcg)
    own = make_spec(qemu=Qemu(extra_args=["-M", "raspi3b"]))
    assert "-machine" not in qemu_argv(own, make_wiring(architecture=architecture)), "both would be added up"
    asked = qemu_argv(make_spec(vm=Vm(machine="other", cpu_model="own")), make_wiring(architecture=architecture))
    assert dict(pairwise(asked))["-machine"] == "other"
    assert dict(pairwise(asked))["-cpu"] == "own"


@pytest.mark.parametrize("asked", ["auto", "Nehalem"])
def test_a_save_keeps_the_cpu_that_it_was_made_with(asked: str) -> None:
    argv = qemu_argv(make_spec(vm=Vm(cpu_model=asked)), make_wiring(saved_cpu_model="max"))
    assert argv == with_changes((AUTO_UNDER_TCG, "max"))


@pytest.mark.parametrize(("memory", "value"), [("4G", "4096M"), ("512", "512M"), ("1.5G", "1536M"), ("1024K", "1M")])
def test_m_memory(memory: str, value: str) -> None:
    assert qemu_argv(make_spec(vm=Vm(memory=memory)), make_wiring()) == with_changes(("1024M", value))


def test_v_smp() -> None:
    assert qemu_argv(make_spec(vm=Vm(cpus=4)), make_wiring()) == with_changes(("1", "4"))
    topology = Vm(cpus=9, smp="4,sockets=2,cores=2")
    assert qemu_argv(make_spec(vm=topology), make_wiring()) == with_changes(("1", "4,sockets=2,cores=2"))


def test_p_cpu_type() -> None:
    argv = qemu_argv(make_spec(vm=Vm(cpu_model="Nehalem,+aes")), make_wiring(accel=Accel.kvm))
    assert argv == with_changes(("tcg", "kvm"), (AUTO_UNDER_TCG, "Nehalem,+aes"))


def test_machine() -> None:
    assert qemu_argv(make_spec(vm=Vm(machine="q35")), make_wiring()) == with_added("-accel", "-machine", "q35")


def test_q_qemu_and_its_extra_arguments() -> None:
    qemu = Qemu(binary="/opt/qemu", extra_args=["-boot", "menu=on", "-m", "2G"])
    argv = qemu_argv(make_spec(qemu=qemu), make_wiring())
    assert argv == [*with_changes(("qemu-system-x86_64", "/opt/qemu")), "-boot", "menu=on", "-m", "2G"]


def test_t_tftp() -> None:
    old = PLAIN[PLAIN.index("-netdev") + 1]
    argv = qemu_argv(make_spec(net=Net(tftp_dir="/tf,tp")), make_wiring())
    assert argv == with_changes((old, old.replace(",hostfwd", ",tftp=/tf,,tp,hostfwd")))


@pytest.mark.parametrize(
    ("network", "properties"),
    [
        ("192.168.1.0/24", "net=192.168.1.0/24"),
        ("172.30.0.0/24", "net=172.30.0.0/24,host=172.30.0.2,dns=172.30.0.3,dhcpstart=172.30.0.15"),
        ("172.30.0.0/16", "net=172.30.0.0/16,host=172.30.0.2,dns=172.30.0.3,dhcpstart=172.30.0.15"),
        ("192.0.2.8/29", "net=192.0.2.8/29,host=192.0.2.10,dns=192.0.2.11,dhcpstart=192.0.2.12"),
        ("192.0.2.16/28", "net=192.0.2.16/28,host=192.0.2.18,dns=192.0.2.19,dhcpstart=192.0.2.20"),
        ("172.31.0.0/255.255.0.0", "net=172.31.0.0/16,host=172.31.0.2,dns=172.31.0.3,dhcpstart=172.31.0.15"),
    ],
)
def test_user_network(network: str, properties: str) -> None:
    old = PLAIN[PLAIN.index("-netdev") + 1]
    argv = qemu_argv(make_spec(net=Net(user_network=network)), make_wiring())
    assert argv == with_changes((old, old.replace("net=192.168.1.0/24", properties)))


@needs_qemu
@pytest.mark.parametrize(
    "network", ["192.168.1.0/24", "172.16.0.0/12", "192.0.2.128/27", "192.0.2.16/28", "192.0.2.8/29"]
)
def test_qemu_itself_accepts_the_user_network(network: str) -> None:
    netdev = f"user,id=u,{parse_user_network(network).netdev_properties}"
    argv = [QEMU, "-machine", "none", "-nodefaults", "-display", "none", "-monitor", "stdio", "-netdev", netdev]
    done = subprocess.run(argv, input="quit\n", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_d_dns_search_domains() -> None:
    old = PLAIN[PLAIN.index("-netdev") + 1]
    argv = qemu_argv(make_spec(), make_wiring(domains=("a.example", "b.example")))
    new = old.replace(",hostfwd", ",dnssearch=a.example,dnssearch=b.example,hostfwd")
    assert argv == with_changes((old, new))


def test_d_refuses_what_is_no_domain() -> None:
    with pytest.raises(ConfigError, match=r"net\.domains: 'a,restrict=on' is no domain name"):
        qemu_argv(make_spec(), make_wiring(domains=("a,restrict=on",)))


def test_capital_c_console_log() -> None:
    old = "socket,id=console,path=/s/console,server=on,wait=off"
    argv = qemu_argv(make_spec(), make_wiring(console_log=Path("/l/a,b.log")))
    assert argv == with_changes((old, old + ",logfile=/l/a,,b.log,logappend=on"))


@pytest.mark.parametrize("mtu", [1400, 9000, 65521])
def test_mtu_is_for_the_mvpnet_nic_alone(mtu: int) -> None:
    old = "virtio-net-pci,netdev=mvpnet,mac=52:55:00:00:00:03"
    assert qemu_argv(make_spec(net=Net(mtu=mtu)), make_wiring()) == with_changes((old, f"{old},host_mtu={mtu}"))


def test_saved_memory_is_loaded_and_waits() -> None:
    argv = qemu_argv(make_spec(qemu=Qemu(extra_args=["-nodefaults"])), make_wiring(memory_fd=9))
    assert argv[-4:] == ["-S", "-incoming", "fd:9", "-nodefaults"]


def test_kernel_and_fw_cfg() -> None:
    wiring = make_wiring(
        kernel=Path("/k"), initrd=Path("/i"), kernel_args="console=ttyS0 quiet", fw_cfg=("name=opt/a,file=/f",)
    )
    argv = qemu_argv(make_spec(), wiring)
    added = ["-kernel", "/k", "-initrd", "/i", "-append", "console=ttyS0 quiet"]
    assert argv == [*with_added("-chardev", *added), "-fw_cfg", "name=opt/a,file=/f"]


def test_sandbox() -> None:
    options = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    assert qemu_argv(make_spec(), make_wiring(sandbox=True)) == with_added("-name", "-sandbox", options)


def test_panic_device() -> None:
    argv = qemu_argv(make_spec(), make_wiring(panic_device="pvpanic"))
    assert argv == [*PLAIN, "-device", "pvpanic"]


def test_no_panic_device_beside_the_users_own() -> None:
    own = ["-device", "pvpanic,ioport=0x606"]
    argv = qemu_argv(make_spec(qemu=Qemu(extra_args=own)), make_wiring(panic_device="pvpanic"))
    assert argv == [*PLAIN, *own]


def test_shell_text() -> None:
    argv = ["qemu", "-nodefaults", "-append", "a b", "-m", "1M", "-smp", "2"]
    text = shell_text(argv)
    assert text == "qemu \\\n    -nodefaults \\\n    -append 'a b' \\\n    -m 1M \\\n    -smp 2"
    assert shlex.split(text.replace("\\\n", "")) == argv


@contextlib.contextmanager
def paused_qemu(argv: list[str], fds: list[int], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen([*argv, "-S"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=fds)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


class Qmp:
    """The few words of QMP that these tests need (docs/interop/qmp-spec.txt): a JSON object a line."""

    def __init__(self, link: socket.socket) -> None:
        self._lines = link.makefile("rwb")

    def reply(self) -> dict[str, Any]:
        line = self._lines.readline()
        assert line, "qemu is gone"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, command: str) -> Any:
        self._lines.write(json.dumps({"execute": command}).encode() + b"\n")
        self._lines.flush()
        while "return" not in (answer := self.reply()):
            assert "error" not in answer, answer
        return answer["return"]


@needs_qemu
@pytest.mark.parametrize("mtu", [1500, 9000, 65521])
@pytest.mark.parametrize("by", ["fd", "path"])
@pytest.mark.parametrize("kind", list(NetKind))
def test_qemu_itself_accepts_it(kind: NetKind, by: str, mtu: int, tmp_path: Path) -> None:
    image, seed = tmp_path / "a,b.img", tmp_path / "se:ed,"
    image.write_bytes(bytes(2**20))
    seed.mkdir()
    (seed / "user-data").touch()
    (seed / "meta-data").touch()
    spec = make_spec(
        image=Image(path=str(image).replace(",", ",,"), use=ImageUse.snapshot, properties={"cache": "unsafe"}),
        cloud_init=CloudInit(path=str(seed)),
        net=Net(kind=kind, mtu=mtu, tftp_dir=str(tmp_path)),
        vm=Vm(memory="32M", cpus=2, machine="q35"),
    )
    socket_type = socket.SOCK_STREAM if kind is NetKind.stream else socket.SOCK_DGRAM
    with contextlib.ExitStack() as stack:
        qmp, qmp_of_qemu = map(stack.enter_context, socket.socketpair())
        link: LinkFd | LinkPath
        if by == "fd":
            ours, qemus = map(stack.enter_context, socket.socketpair(socket.AF_UNIX, socket_type))
            link = LinkFd(qemus.fileno())
        else:
            ours = qemus = stack.enter_context(socket.socket(socket.AF_UNIX, socket_type))
            ours.bind(str(tmp_path / "ours"))
            link = LinkPath(tmp_path / "ours", tmp_path / "qemus")
            if kind is NetKind.stream:
                ours.listen(1)
        port, reserved = reserve_ssh_port(3, 23200, 1)
        stack.enter_context(reserved)  # until qemu has it: other tests look for one at the same time
        wiring = make_wiring(
            ssh_port=port,
            link=link,
            qmp_fd=qmp_of_qemu.fileno(),
            console_socket=tmp_path / "console,",
            console_log=tmp_path / "console.log",
            drives=tuple(plan.option for plan in plan_drives(spec, tmp_path)),
            domains=("a.example", "b.example"),
            panic_device=panic_device(QEMU),
            sandbox=supports_sandbox(QEMU),
            fw_cfg=(f"name=opt/mvpnet/test,file={escaped(seed / 'user-data')}",),
        )
        fds = [qmp_of_qemu.fileno()] + ([qemus.fileno()] if by == "fd" else [])
        log = tmp_path / "qemu.log"
        process = stack.enter_context(paused_qemu(qemu_argv(spec, wiring), fds, log))
        qmp_of_qemu.close()
        qmp.settimeout(60)
        try:
            conversation = Qmp(qmp)
            assert "QMP" in conversation.reply()
        except (AssertionError, OSError):
            process.wait(timeout=60)
            pytest.fail(log.read_text())
        conversation.ask("qmp_capabilities")
        assert conversation.ask("query-status")["status"] in ("prelaunch", "paused")
        files = [
            device["inserted"]["image"]["filename"]
            for device in conversation.ask("query-block")
            if device.get("inserted")
        ]
        assert len(files) == 2
        with socket.socket(socket.AF_UNIX) as console:
            console.connect(str(tmp_path / "console,"))
        if by == "path" and kind is NetKind.stream:
            assert select.select([ours], [], [], 30)[0], "qemu did not connect to the link's socket"
        if by == "path" and kind is NetKind.dgram:
            poll_until((tmp_path / "qemus").is_socket, 30, "qemu's own socket")
        with socket.create_connection(("127.0.0.1", wiring.ssh_port), timeout=30):
            pass  # qemu's user network accepts before the guest does
        conversation.ask("quit")
        assert process.wait(timeout=60) == 0
        assert "warning" not in log.read_text()
