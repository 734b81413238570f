"""Build a Debian 12 cloud image from Debian's own packages, where no vendor's image can be fetched.

mmdebstrap creates the file system, without root where the kernel lets users create namespaces. mke2fs packs it. qemu
boots it by -kernel and -initrd, as it has no boot loader. Like a vendor's image it is configured by cloud-init: netplan
and systemd-networkd configure the network, openssh-server accepts logins. Its initrd is mvpnet's, as the machine is
known.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvpnet.errors import ImageError
from mvpnet.images import build_cache
from mvpnet.images.initrd import initrd
from mvpnet.images.tiny.errors import TinyBuildError
from mvpnet.qemu.img import QemuImg, QemuImgError
from mvpnet.util.text import Say

SUITE = "bookworm"
PACKAGES = [
    *("linux-image-cloud-amd64", "systemd-sysv", "systemd-resolved", "dbus", "udev", "kmod", "e2fsprogs"),
    "busybox-static",  # for the initrd
    *("cloud-init", "cloud-guest-utils", "netplan.io", "openssh-server", "openssh-client", "sudo", "ca-certificates"),
    *("iproute2", "iputils-ping", "iputils-arping", "iperf3", "procps", "less", "python3"),
]

#: The disk is one file system without partitions; ds=nocloud spares cloud-init a search for its seed.
KERNEL_COMMAND_LINE = "root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 ds=nocloud"

# An emulated CPU does not speculate, its special instructions are the slower ones, and the modules that udev would load
# for it cost more time than they save. modprobe(8) still loads them on request.
_NOT_LOADED = (
    *("kvm_amd", "kvm_intel", "aesni_intel", "ghash_clmulni_intel", "crct10dif_pclmul", "crc32_pclmul"),
    *("sha512_ssse3", "sha256_ssse3", "sha1_ssse3", "powernow_k8", "acpi_cpufreq"),
    *("psmouse", "floppy", "i2c_piix4", "pcspkr"),
)
EMULATED_KERNEL_ARGS = f"mitigations=off modprobe.blacklist={','.join(_NOT_LOADED)}"

_RECIPE_VERSION = 4  # increment it when anything else about the image changes
_UNWANTED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
_DISK_BYTES = 2 * 2**30  # sparse; image.size grows the overlay
_SLOW_AND_USELESS = (
    "apt-daily.timer apt-daily-upgrade.timer fstrim.timer e2scrub_all.timer e2scrub_reap.service dpkg-db-backup.timer "
    "getty@tty1.service modprobe@drm.service modprobe@efi_pstore.service systemd-pstore.service "
    "systemd-update-utmp-runlevel.service"
)
# The slowest parts of cloud-init where qemu emulates the CPU: an RSA and a DSA key, and probing for a boot loader that
# does not exist. A user's own cloud_init.user_data comes later, and takes precedence.
_CLOUD_CONFIG = [
    "ssh_genkeytypes: [ed25519, ecdsa]",
    "ssh: {emit_keys_to_console: false}",
    "grub_dpkg: {enabled: false}",
]
_TOOLS = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "qemu-img": "qemu-utils", "tar": "tar"}
_LAST_LINES = 8


@dataclass(frozen=True)
class DebianImage:
    """A built image: boot `disk` with `kernel` and `initrd`."""

    kernel: Path
    initrd: Path
    disk: Path
    digest: str


def image_digest(packages: Sequence[str]) -> str:
    """Return a digest of the image's recipe and package names. It does not cover the packages' versions."""
    made_of = [_RECIPE_VERSION, _DISK_BYTES, mmdebstrap_argv(Path("root.tar"), sorted(set(packages)), [])]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]


def image_in(folder: Path) -> DebianImage:
    return DebianImage(folder / "vmlinuz", folder / "initrd", folder / "disk.qcow2", folder.name)


def ensure(cache: Path, packages: Sequence[str], say: Say) -> DebianImage:
    """Return the image with these packages besides its own, built first if not cached: about two minutes.

    Raises:
        ImageError: It cannot be built. Names what is missing and an alternative.
    """
    try:
        return image_in(
            build_cache.ensure(cache, image_digest(packages), "debian", lambda new: _build(new, packages, say), say)
        )
    except OSError as error:
        raise ImageError(f"image=debian12-built: {error} (a build needs 2 GB in {cache})") from error


def mmdebstrap_argv(target: Path, packages: Sequence[str], sources: Sequence[Path]) -> list[str]:
    """Return the command that builds the file system as a tar archive.

    Without `sources` mmdebstrap uses Debian's own.
    """
    argv = ["mmdebstrap", "--variant=minbase"]
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in _UNWANTED]
    argv += [f"--include={','.join([*PACKAGES, *packages])}"]
    argv += [f'--customize-hook=chroot "$1" systemctl -q mask {_SLOW_AND_USELESS}']
    lines = " ".join(f'"{line}"' for line in _CLOUD_CONFIG)
    argv += [f"--customize-hook=printf '%s\\n' {lines} > \"$1\"/etc/cloud/cloud.cfg.d/90_mvpnet.cfg"]
    # Machine id and host keys belong to each guest, and the name comes from the seed. An empty file becomes an id at
    # boot, as "uninitialized" does, without systemd's look at the presets of all units (machine-id(5), "First Boot").
    argv += ['--customize-hook=rm -f "$1"/etc/ssh/ssh_host_*']
    argv += ['--customize-hook=: > "$1"/etc/machine-id']
    argv += ['--customize-hook=echo localhost > "$1"/etc/hostname']
    argv += ['--customize-hook=echo "LABEL=root / ext4 defaults,x-systemd.growfs 0 1" > "$1"/etc/fstab']
    return [*argv, SUITE, str(target), *map(str, sources)]


def _build(new: Path, packages: Sequence[str], say: Say) -> dict[str, Any]:
    check_tools()
    archive, tree = new.parent / "root.tar", new.parent / "root"
    say(f"debian: fetching and unpacking {len(PACKAGES) + len(packages)} packages and theirs; about two minutes")
    _run(mmdebstrap_argv(archive, packages, _host_sources()))
    say("debian: packing the disk")
    tree.mkdir()
    raw = new.parent / "disk.raw"
    # xattrs: file capabilities, such as those of ping
    script = (
        'tar --xattrs --xattrs-include="*" -xf "$1" -C "$2" && '
        'mke2fs -q -t ext4 -F -L root -d "$2" "$3" "$4" && chmod -R u+rwX "$2/boot"'
    )
    words = [str(archive), str(tree), str(raw), f"{_DISK_BYTES // 1024}k"]
    _run([*_as_root_inside(), "sh", "-c", script, "sh", *words])
    try:
        QemuImg().convert(raw, new / "disk.qcow2")
    except QemuImgError as error:
        raise ImageError(f"image=debian12-built: the disk could not be packed: {error.message}") from error
    kernel = next((tree / "boot").glob("vmlinuz-*"))
    shutil.copyfile(kernel, new / "vmlinuz")
    modules = tree / "lib/modules" / kernel.name.removeprefix("vmlinuz-")
    try:
        (new / "initrd").write_bytes(initrd(modules, tree / "bin/busybox"))
    except TinyBuildError as error:
        raise ImageError(f"image=debian12-built: {error.reason}") from error
    _run([*_as_root_inside(), "rm", "-rf", str(tree)])
    return {"suite": SUITE, "packages": sorted({*PACKAGES, *packages})}


def _as_root_inside() -> list[str]:
    """Return the prefix that makes a command see itself as root over mmdebstrap's files, for any other user."""
    return [] if os.geteuid() == 0 else ["mmdebstrap", "--unshare-helper"]


def _host_sources() -> list[Path]:
    """Return this host's own package sources if it is a Debian 12, as its network reaches them."""
    release = Path("/etc/os-release")
    if not release.is_file() or f"VERSION_CODENAME={SUITE}" not in release.read_text():
        return []
    found = [Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources")]
    return [path for path in found if path.is_file()]


def check_tools() -> None:
    """Refuse a host that lacks a program for the build, with an ImageError."""
    missing = sorted(package for tool, package in _TOOLS.items() if not shutil.which(tool, path=_path()))
    if missing:
        raise ImageError(
            f"image=debian12-built cannot be built here: {', '.join(missing)} are not installed",
            hint=f"apt-get install {' '.join(missing)}, or fetch a vendor's image: image=debian12",
        )


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PATH": _path(), "LC_ALL": "C.UTF-8"},
        check=False,
    )
    if done.returncode:
        said = "\n  ".join(done.stdout.strip().splitlines()[-_LAST_LINES:])
        raise ImageError(
            f"image=debian12-built: {argv[0]} failed with exit code {done.returncode}:\n  {said}",
            hint="can this host reach Debian's packages (apt-get update)? Or fetch a vendor's image: image=debian12",
        )
