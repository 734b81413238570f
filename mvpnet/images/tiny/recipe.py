"""Define the inputs of the tiny guest: packages, programs and kernel modules, and the digest of this recipe.

The files under ``root/`` are the guest's own (its init script and the like); all others come from distribution
packages. After a change to anything in this folder the next ``ensure`` builds a new image.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT_FILES = FOLDER / "root"

#: Metapackages of a kernel, in order of preference: Debian's, which is made for virtual machines, then Ubuntu's.
#: Ubuntu has such ones too (virtual, kvm), but they do not come with the module qemu_fw_cfg.
KERNEL_METAPACKAGES = ("linux-image-cloud-amd64", "linux-image-generic")

#: The ssh server is dropbear, for its quick start. The ssh client is OpenSSH's, because MPI launchers, Ansible and
#: people pass it options that dbclient does not know; OpenSSH's scp needs an sftp server on the other side.
PACKAGES = ("busybox-static", "dropbear-bin", "iperf3", "openssh-client", "openssh-sftp-server")

#: Dependencies that are followed: shared libraries, and the packages a kernel metapackage stands for. What else a
#: package depends on (debconf, adduser, initramfs-tools) serves its installation, which does not happen here.
FOLLOWED_DEPENDENCY = re.compile(r"(lib|zlib|linux-image-\d|linux-modules-(extra-)?\d).*")

#: Path in the packages (with or without /usr, as the release has it) -> path in the guest.
PROGRAMS = {
    "bin/busybox": "bin/busybox",
    "sbin/dropbear": "usr/sbin/dropbear",
    "bin/dropbearkey": "usr/bin/dropbearkey",
    "bin/iperf3": "usr/bin/iperf3",
    "bin/ssh": "usr/bin/ssh",
    "bin/scp": "usr/bin/scp",
    "bin/ssh-keygen": "usr/bin/ssh-keygen",
    "lib/openssh/sftp-server": "usr/lib/sftp-server",
    "lib64/ld-linux-x86-64.so.2": "lib64/ld-linux-x86-64.so.2",
}

#: Loaded at boot in this order, each after the modules it depends on.
MODULES = (
    "virtio_pci",
    "virtio_net",
    "qemu_fw_cfg",
    "virtio_blk",
    "virtio_console",
    "virtio_rng",
    "evdev",
    "button",
    "ext4",
    "isofs",
)

#: The same, where the kernel has them: the panic device, by which a panic is told to qemu at once.
WELCOME_MODULES = ("pvpanic_mmio",)


def recipe_digest(folder: Path = FOLDER) -> str:
    """Return the SHA-256 of the names and contents of all files that determine the build."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    digest = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def image_digest(recipe: str, versions: dict[str, str]) -> str:
    """Return the digest that names an image: of its recipe and the versions of its packages."""
    lines = [recipe, *(f"{name}={version}" for name, version in sorted(versions.items()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
