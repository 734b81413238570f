"""Looks up what is found at one rank, on its host; `checks` judges it. Nothing of it is kept or left behind."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from platform import machine
from typing import Any

from mvpnet.doctor.mpi import MpiFacts
from mvpnet.errors import MvpnetError
from mvpnet.guest import requirements
from mvpnet.guest.drives import DrivePlan, plan_disks, plan_flash
from mvpnet.host import kvm, ports
from mvpnet.host.kvm import KvmDevice
from mvpnet.host.networks import hidden_networks, host_networks
from mvpnet.host.resources import Resources, resources
from mvpnet.images import boot, build_cache, debian, store, tiny
from mvpnet.images.disk_image import check_readable
from mvpnet.images.store.fetch import find, not_prepared
from mvpnet.images.store.prepared import is_asked
from mvpnet.images.store.request import ImageRequest, parse_request
from mvpnet.images.tiny import packages
from mvpnet.paths import cache_base, scratch_base
from mvpnet.qemu import binary
from mvpnet.qemu.img import QemuImg
from mvpnet.runtime.scratch import scratch_folder
from mvpnet.spec.drive_text import growth
from mvpnet.spec.model import RankSpec
from mvpnet.spec.schema import Accel, ImageKind, ImageUse
from mvpnet.spec.user_network import parse_user_network
from mvpnet.util.files import size_on_disk

_QCOW2_SIZE = slice(24, 32)  # of the disk, big-endian: qemu's docs/interop/qcow2.txt, "Header"


@dataclass(frozen=True)
class Refusal:
    """An error as a job would tell it: errors themselves need not survive pickling."""

    message: str
    hint: str | None = None


@dataclass(frozen=True)
class QemuFacts:
    path: str | None
    version: tuple[int, ...] | None
    netdevs: frozenset[str]
    refused: Refusal | None = None


class ImageState(Enum):
    here = "here"
    to_build = "to build"
    to_fetch = "to fetch"
    refused = "refused"


@dataclass(frozen=True)
class ImageFacts:
    state: ImageState
    what: str  # the image, in words
    refused: Refusal | None = None


@dataclass(frozen=True)
class Demand:
    """Disk space that a rank takes for an overlay, a copy or a temporary overlay."""

    folder: str
    device: int  # st_dev: demands of one device add up
    free_bytes: int
    sure_bytes: int
    most_bytes: int  # when the guest has written everything once


@dataclass(frozen=True)
class Port:
    wanted: int
    got: int | None
    refused: Refusal | None = None


@dataclass(frozen=True)
class Facts:
    """What was found at one rank."""

    host: str
    resources: Resources
    qemu: QemuFacts
    kvm: KvmDevice
    accel: tuple[Accel, str] | Refusal
    lacks_virtualization: bool  # by the CPU's flags
    scratch_refused: Refusal | None
    removed: tuple[str, ...]  # what was said of leftovers of killed jobs
    sockets: tuple[tuple[str, str], ...]  # key and path
    port: Port
    image: ImageFacts
    demands: tuple[Demand, ...]
    programs: tuple[tuple[str, str | None], ...]  # name and where it is; qemu-img only where a drive needs it
    refused: tuple[Refusal, ...]  # what else a job would refuse
    firmware: tuple[DrivePlan, ...] | Refusal  # code and variables; none without UEFI
    overlaps: tuple[str, ...]  # networks of the host that guests do not reach through the user network
    mpi: MpiFacts


def look(spec: RankSpec, host_name: str, most_ranks_on_one_host: int, mpi: MpiFacts) -> Facts:
    """Look up what the rank would find here, on this host."""
    plans, image = _image(spec)
    firmware = _firmware(spec)
    removed: list[str] = []
    return Facts(
        host=host_name,
        resources=resources(spec, host_name),
        qemu=_qemu(spec),
        kvm=kvm.look_at_kvm(),
        accel=_accel(spec),
        lacks_virtualization=kvm.lacks_virtualization(Path("/proc/cpuinfo").read_text(errors="replace"), machine()),
        scratch_refused=refusal(lambda: _try_scratch(spec, removed.append)),
        removed=tuple(removed),
        sockets=tuple((key, str(path)) for key, path in requirements.unix_socket_paths(spec)),
        port=_port(spec, most_ranks_on_one_host),
        image=image,
        demands=tuple(_demands(spec, [*plans, *([] if isinstance(firmware, Refusal) else firmware)])),
        programs=(("ssh", shutil.which("ssh")), ("ssh-keygen", shutil.which("ssh-keygen")), *_qemu_img(spec, plans)),
        refused=tuple(filter(None, [refusal(lambda: requirements.check_settings(spec))])),
        mpi=mpi,
        firmware=firmware,
        overlaps=tuple(hidden_networks(host_networks(), parse_user_network(spec.net.user_network))),
    )


def refusal(check: Callable[[], Any]) -> Refusal | None:
    """Run a check: the error that it raises for people, None when it passes."""
    try:
        check()
    except MvpnetError as error:
        return Refusal(error.message, error.hint)
    return None


def _qemu(spec: RankSpec) -> QemuFacts:
    program = spec.qemu.binary
    refused = refusal(lambda: requirements.check_qemu(spec))
    if refusal(lambda: binary.qemu_version(program)):
        return QemuFacts(shutil.which(program), None, frozenset(), refused)
    return QemuFacts(shutil.which(program), binary.qemu_version(program), binary.netdevs(program), refused)


def _accel(spec: RankSpec) -> tuple[Accel, str] | Refusal:
    try:
        return kvm.resolve_accel(spec.vm.accel, spec.qemu.binary)
    except MvpnetError as error:
        return Refusal(error.message, error.hint)


def _try_scratch(spec: RankSpec, say: Callable[[str], None]) -> None:
    """Make the rank's scratch folder as a job would, with its lock, and remove it again. Raises HostError.

    As with a job, what killed jobs left there goes; `say` is told.
    """
    with scratch_folder(scratch_base(spec.scratch_dir), f"doctor.{spec.rank}.{os.getpid()}", say):
        pass


def _port(spec: RankSpec, most_ranks_on_one_host: int) -> Port:
    wanted_port = spec.net.ssh_port + spec.rank
    try:
        got, holder = ports.reserve_ssh_port(spec.rank, spec.net.ssh_port, most_ranks_on_one_host)
    except MvpnetError as error:
        return Port(wanted_port, None, Refusal(error.message, error.hint))
    holder.close()
    return Port(wanted_port, got)


def _firmware(spec: RankSpec) -> tuple[DrivePlan, ...] | Refusal:
    try:
        return plan_flash(spec, scratch_base(spec.scratch_dir))
    except MvpnetError as error:
        return Refusal(error.message, error.hint)


# -- the image ---------------------------------------------------------------------------------------------------------


def _image(spec: RankSpec) -> tuple[tuple[DrivePlan, ...], ImageFacts]:
    """The rank's drives, none where its image is not here yet, and what is known of the image."""
    try:
        facts = _image_facts(spec)
        if facts.state is not ImageState.here:
            return (), facts
        boot.check_kernel(boot.disk_boot(spec))
        plans = plan_disks(store.planned(boot.with_built_disk(spec)), scratch_base(spec.scratch_dir))
        for plan in plans:
            if plan.source is not None and not plan.source.is_dir():
                check_readable(plan.source, plan.key)
    except MvpnetError as error:
        refused = Refusal(error.message, error.hint)
        return (), ImageFacts(ImageState.refused, f"image.kind={spec.image.kind.name}", refused)
    return plans, facts


def _image_facts(spec: RankSpec) -> ImageFacts:
    """Raises ImageError, HostError or ConfigError for an image that a job would refuse."""
    image = spec.image
    cache = cache_base(image.cache_dir)
    store.planned(spec)  # refuses another architecture
    if want := parse_request(image):
        return _stored(want)
    if image.kind is ImageKind.tiny:
        built = tiny.newest(cache / "tiny", tiny.recipe_digest())
        return _built("image=tiny", built.kernel.parent if built else None, packages.check_host)
    if image.kind is ImageKind.debian and not is_asked(image):
        found = build_cache.find(cache / "debian", debian.image_digest(image.packages))
        return _built("image=debian12-built", found, debian.check_tools)
    disk = image.path or next(iter(image.drives), None) or image.kernel
    return ImageFacts(ImageState.here, str(disk))


def _built(name: str, folder: Path | None, check_tools: Callable[[], None]) -> ImageFacts:
    if folder:
        return ImageFacts(ImageState.here, f"{name} in {folder}")
    check_tools()
    return ImageFacts(ImageState.to_build, name)


def _stored(want: ImageRequest) -> ImageFacts:
    if found := find(want):
        return ImageFacts(ImageState.here, f"{want.name} in {found.folder}")
    if want.is_prepared:
        raise not_prepared(want)
    if want.local_path:
        check_readable(want.local_path, "image.source")
    return ImageFacts(ImageState.to_fetch, want.address)


# -- disk space --------------------------------------------------------------------------------------------------------


def _demands(spec: RankSpec, plans: Sequence[DrivePlan]) -> Iterator[Demand]:
    for plan in plans:
        if plan.source is None or plan.target is None or plan.source.is_dir():
            continue
        if plan.use is ImageUse.overlay:
            yield _demand(plan.target.parent, 0, _grown(plan, virtual_bytes(plan.source, plan.source_format)))
        elif plan.use is ImageUse.snapshot:
            yield _demand(scratch_base(spec.scratch_dir), 0, virtual_bytes(plan.source, plan.source_format))
        elif plan.use is ImageUse.copy and not plan.target.exists():
            taken = size_on_disk(plan.source)
            yield _demand(plan.target.parent, taken, _grown(plan, virtual_bytes(plan.source, plan.source_format)))


def _grown(plan: DrivePlan, size_bytes: int) -> int:
    if plan.size is None:
        return size_bytes
    by_bytes, is_added = growth(plan.size)
    return size_bytes + by_bytes if is_added else by_bytes


def _demand(folder: Path, sure_bytes: int, most_bytes: int) -> Demand:
    there = next(parent for parent in (folder, *folder.parents) if os.access(parent, os.F_OK))
    free = os.statvfs(there)
    device = there.stat().st_dev
    return Demand(str(folder), device, free.f_bavail * free.f_frsize, sure_bytes, max(sure_bytes, most_bytes))


def virtual_bytes(image: Path, format_name: str | None) -> int:
    """The size of the disk in an image as the guest sees it, as far as it tells without qemu-img."""
    if format_name == "qcow2":
        with image.open("rb") as file:
            return int.from_bytes(file.read(_QCOW2_SIZE.stop)[_QCOW2_SIZE], "big")
    found = image.stat()
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _qemu_img(spec: RankSpec, plans: Sequence[DrivePlan]) -> Iterator[tuple[str, str | None]]:
    if any(plan.use is ImageUse.overlay or plan.size for plan in plans):
        qemu_img = QemuImg(spec.qemu.binary)
        yield "qemu-img", str(qemu_img.program) if qemu_img.is_installed else None
