"""Collection of the facts for a guest's qemu command line, for a run or for a plan."""

from __future__ import annotations

from pathlib import Path

from mvpnet.guest.command_line import LinkFd, LinkPath, Wiring
from mvpnet.guest.drives import DrivePlan
from mvpnet.guest.requirements import console_socket
from mvpnet.host import names, programs
from mvpnet.images.boot import BootFiles
from mvpnet.paths import RankLogs
from mvpnet.qemu import binary
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import Accel

_RESOLV_CONF = Path("/etc/resolv.conf")


def qemu_wiring(
    spec: RankSpec,
    *,
    accel: Accel,
    ssh_port: int,
    link: LinkFd | LinkPath,
    qmp_fd: int,
    folder: Path,
    logs: RankLogs,
    boot: BootFiles,
    drives: tuple[DrivePlan, ...],
    memory_fd: int | None = None,
    saved_cpu_model: str | None = None,
) -> Wiring:
    """Return the facts for qemu's command line, from what is prepared or, for a plan, from what would be prepared."""
    return Wiring(
        accel=accel,
        architecture=programs.architecture(spec.qemu.binary),
        ssh_port=ssh_port,
        link=link,
        qmp_fd=qmp_fd,
        console_socket=console_socket(folder),
        console_log=logs.console if spec.logging.console else None,
        drives=tuple(plan.option for plan in drives),
        kernel=boot.kernel,
        initrd=boot.initrd,
        kernel_args=kernel_arguments(boot, accel),
        fw_cfg=boot.fw_cfg,
        domains=tuple(search_domains(spec)),
        sandbox=spec.qemu.sandbox and binary.supports_sandbox(spec.qemu.binary),
        panic_device=binary.panic_device(spec.qemu.binary),
        memory_fd=memory_fd,
        saved_cpu_model=saved_cpu_model,
    )


def kernel_arguments(boot: BootFiles, accel: Accel) -> str | None:
    """Return the kernel's arguments; the user's own come last, so that they take precedence."""
    emulated = boot.emulated_kernel_args if accel is Accel.tcg else None
    return " ".join(filter(None, [emulated, boot.kernel_args])) or None


def search_domains(spec: RankSpec) -> list[str]:
    """Return net.domains, else this host's search domains from /etc/resolv.conf."""
    if spec.net.domains is not None:
        return spec.net.domains
    return names.search_domains(_RESOLV_CONF.read_text(errors="replace")) if _RESOLV_CONF.is_file() else []
