"""qemu's command line, made from a rank's spec and the facts of its host. Pure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from mvpnet.dataplane.address import host_name, mac, mac_text, user_mac
from mvpnet.host.names import check_domains
from mvpnet.qemu.binary import SANDBOX
from mvpnet.qemu.machines import cpu_option, machine_option
from mvpnet.spec.model import RankSpec
from mvpnet.spec.option_string import escaped
from mvpnet.spec.schema import Accel, NetKind
from mvpnet.spec.sizes import parse_size
from mvpnet.spec.user_network import parse_user_network

GUEST_SSH_PORT = 22
STANDARD_MTU = 1500  # bytes; RFC 894


@dataclass(frozen=True)
class LinkFd:
    """One end of a connected socket pair that qemu inherits: SOCK_STREAM or SOCK_DGRAM as net.kind says."""

    fd: int


@dataclass(frozen=True)
class LinkPath:
    """Paths of unix sockets: qemu connects or sends to `ours`, and binds `qemus` (dgram only)."""

    ours: Path
    qemus: Path | None = None


@dataclass(frozen=True)
class Wiring:
    """Facts of the host that qemu's command line needs."""

    accel: Accel  # kvm or tcg, from host.kvm.resolve_accel
    ssh_port: int  # on 127.0.0.1
    link: LinkFd | LinkPath
    qmp_fd: int
    console_socket: Path  # on which qemu listens
    architecture: str = "x86_64"  # of the machine, from host.programs.architecture
    console_log: Path | None = None
    drives: tuple[str, ...] = ()  # values of -drive, the boot drive first
    kernel: Path | None = None
    initrd: Path | None = None
    kernel_args: str | None = None
    fw_cfg: tuple[str, ...] = ()  # values of -fw_cfg
    domains: tuple[str, ...] = ()  # DNS search domains
    sandbox: bool = False  # whether this qemu has one
    panic_device: str | None = None  # from qemu.binary.panic_device
    memory_fd: int | None = None  # saved memory, which qemu loads instead of booting; then it waits for `cont`
    saved_cpu_model: str | None = None  # CPU model of the save, which the memory requires


def qemu_argv(spec: RankSpec, wiring: Wiring) -> list[str]:
    """Return the whole command line, the program first.

    Raises:
        ConfigError: A search domain is invalid.
    """
    argv = [spec.qemu.binary]
    argv += ["-nodefaults", "-no-user-config"]
    argv += ["-sandbox", SANDBOX] if wiring.sandbox else []
    argv += ["-name", escaped(f"{spec.job_name}.{host_name(spec.rank)}")]
    argv += _machine(spec, wiring)
    argv += _kernel(wiring)
    argv += _console(wiring)
    argv += _qmp(wiring)
    for drive in wiring.drives:
        argv += ["-drive", drive]
    argv += _user_network(spec, wiring)
    argv += _mvpnet_network(spec, wiring)
    argv += ["-device", "virtio-rng-pci"]
    argv += _panic_device(spec, wiring)
    for entry in wiring.fw_cfg:
        argv += ["-fw_cfg", entry]
    if wiring.memory_fd is not None:
        argv += ["-S", "-incoming", f"fd:{wiring.memory_fd}"]
    return argv + spec.qemu.extra_args


def shell_text(argv: list[str]) -> str:
    """Return the command line in a shell's syntax, one option with its value per line."""
    lines = [shlex.quote(argv[0])]
    for argument in argv[1:]:
        if argument.startswith("-"):
            lines.append(f"    {shlex.quote(argument)}")
        else:
            lines[-1] += f" {shlex.quote(argument)}"
    return " \\\n".join(lines)


def _machine(spec: RankSpec, wiring: Wiring) -> list[str]:
    vm = spec.vm
    argv = []
    if machine := machine_option(vm.machine, wiring.architecture, spec.qemu.extra_args):
        argv += ["-machine", machine]
    argv += ["-accel", wiring.accel.name]
    if cpu := wiring.saved_cpu_model or cpu_option(vm.cpu_model, wiring.architecture, wiring.accel):
        argv += ["-cpu", cpu]
    argv += ["-m", f"{parse_size(vm.memory, 'vm.memory', bare='M') // 2**20}M"]
    argv += ["-smp", vm.smp if vm.smp is not None else str(vm.cpus)]
    argv += ["-display", "none", "-vga", "none"]
    return argv


def _kernel(wiring: Wiring) -> list[str]:
    argv = []
    if wiring.kernel is not None:
        argv += ["-kernel", str(wiring.kernel)]
    if wiring.initrd is not None:
        argv += ["-initrd", str(wiring.initrd)]
    if wiring.kernel_args is not None:
        argv += ["-append", wiring.kernel_args]
    return argv


def _console(wiring: Wiring) -> list[str]:
    chardev = f"socket,id=console,path={escaped(wiring.console_socket)},server=on,wait=off"
    if wiring.console_log is not None:
        chardev += f",logfile={escaped(wiring.console_log)},logappend=on"
    return ["-chardev", chardev, "-serial", "chardev:console"]


def _qmp(wiring: Wiring) -> list[str]:
    return ["-chardev", f"socket,id=qmp,fd={wiring.qmp_fd}", "-mon", "chardev=qmp,mode=control"]


def _user_network(spec: RankSpec, wiring: Wiring) -> list[str]:
    check_domains(wiring.domains)
    network = parse_user_network(spec.net.user_network)
    netdev = f"user,id=usernet,{network.netdev_properties},hostname={host_name(spec.rank)}"
    netdev += "".join(f",dnssearch={domain}" for domain in wiring.domains)
    if spec.net.tftp_dir is not None:
        netdev += f",tftp={escaped(spec.net.tftp_dir)}"
    netdev += f",hostfwd=tcp:127.0.0.1:{wiring.ssh_port}-:{GUEST_SSH_PORT}"
    mac_address = mac_text(user_mac(spec.world_size))
    return ["-netdev", netdev, "-device", f"virtio-net-pci,netdev=usernet,mac={mac_address}"]


def _mvpnet_network(spec: RankSpec, wiring: Wiring) -> list[str]:
    device = f"virtio-net-pci,netdev=mvpnet,mac={mac_text(mac(spec.rank))}"
    if spec.net.mtu != STANDARD_MTU:
        device += f",host_mtu={spec.net.mtu}"
    return ["-netdev", _link(spec.net.kind, wiring.link), "-device", device]


def _panic_device(spec: RankSpec, wiring: Wiring) -> list[str]:
    """Return the options for the panic device; none if the user added one, because qemu takes one of a kind."""
    if wiring.panic_device is None or any("pvpanic" in argument for argument in spec.qemu.extra_args):
        return []
    return ["-device", wiring.panic_device]


def _link(kind: NetKind, link: LinkFd | LinkPath) -> str:
    match kind, link:
        case NetKind.stream, LinkFd(fd):
            return f"stream,id=mvpnet,addr.type=fd,addr.str={fd}"
        case NetKind.stream, LinkPath(ours, _):
            return f"stream,id=mvpnet,addr.type=unix,addr.path={escaped(ours)}"
        case NetKind.dgram, LinkFd(fd):
            return f"dgram,id=mvpnet,local.type=fd,local.str={fd}"
        case NetKind.dgram, LinkPath(ours, Path() as qemus):
            local = f"local.type=unix,local.path={escaped(qemus)}"
            return f"dgram,id=mvpnet,{local},remote.type=unix,remote.path={escaped(ours)}"
    raise ValueError(f"a {kind.name} link needs another description than {link}")
