"""The embedded guest, ``image=tiny``: a small Linux made on the user's machine from the distribution's packages.

It boots by -kernel and -initrd, keeps everything in memory, and takes all it needs to know from the numbers that
never change (MAC addresses) and from a few fw_cfg files. It needs 192 MB of memory.

    image = ensure(cache_dir, say)
    qemu … -kernel image.kernel -initrd image.initrd -append KERNEL_COMMAND_LINE
           -fw_cfg name=opt/mvpnet/authorized_keys,file=… -fw_cfg name=opt/mvpnet/id_ed25519,file=…
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mvpnet.guest.tiny.cache import TinyImage, ensure
from mvpnet.guest.tiny.errors import TinyBuildError

__all__ = ["KERNEL_COMMAND_LINE", "TinyBuildError", "TinyImage", "ensure", "fw_cfg", "qemu_options"]

#: The console is the first serial port. Without IPv6 an idle guest sends no multicast into the fabric.
KERNEL_COMMAND_LINE = "console=ttyS0 quiet ipv6.disable=1"

#: Names of the fw_cfg files that the guest reads; qemu's docs/specs/fw_cfg.rst keeps opt/ for its users.
AUTHORIZED_KEYS = "opt/mvpnet/authorized_keys"
PRIVATE_KEY = "opt/mvpnet/id_ed25519"


def fw_cfg(authorized_keys: Path, private_key: Path) -> list[str]:
    """Values for qemu's -fw_cfg: the public keys that may log in as root, and root's own key for the other guests.

    Both are files as ssh-keygen writes them; the private key must have no passphrase.
    """
    return [
        f"name={AUTHORIZED_KEYS},file={_escaped(authorized_keys)}",
        f"name={PRIVATE_KEY},file={_escaped(private_key)}",
    ]


def qemu_options(image: TinyImage, fw_cfg_values: Iterable[str]) -> list[str]:
    """The part of qemu's command line that boots the image."""
    boot = ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", KERNEL_COMMAND_LINE]
    return boot + [part for value in fw_cfg_values for part in ("-fw_cfg", value)]


def _escaped(path: Path) -> str:
    """A path as an option's value: qemu takes a doubled comma for a comma."""
    return str(path).replace(",", ",,")
