"""Build the embedded guest, ``image=tiny``: a small Linux made on the user's machine from distribution packages.

It boots by -kernel and -initrd and keeps everything in memory. Its configuration comes from the numbers that never
change (MAC addresses) and from two fw_cfg files. It runs in 128 MB of memory; 192 MB leave room for work.

    image = ensure(cache_dir, say)
    qemu … -kernel image.kernel -initrd image.initrd -append KERNEL_COMMAND_LINE
           -fw_cfg VALUE    once for each of fw_cfg(authorized_keys, private_key)
"""

from __future__ import annotations

from pathlib import Path

from mvpnet.images.tiny.cache import TinyImage, ensure, newest
from mvpnet.images.tiny.errors import TinyBuildError
from mvpnet.images.tiny.recipe import recipe_digest
from mvpnet.spec.option_string import joined

__all__ = ["KERNEL_COMMAND_LINE", "TinyBuildError", "TinyImage", "ensure", "fw_cfg", "newest", "recipe_digest"]

#: The console is the first serial port. Without IPv6 an idle guest sends no multicast into the fabric.
KERNEL_COMMAND_LINE = "console=ttyS0 quiet ipv6.disable=1"

#: Names of the fw_cfg files that the guest reads; qemu's docs/specs/fw_cfg.rst keeps opt/ for its users.
AUTHORIZED_KEYS = "opt/mvpnet/authorized_keys"
PRIVATE_KEY = "opt/mvpnet/id_ed25519"


def fw_cfg(authorized_keys: Path, private_key: Path) -> list[str]:
    """Return values for qemu's -fw_cfg: the public keys for root's login, and root's own key for the other guests.

    Both are files in the format of ssh-keygen; the private key must have no passphrase.
    """
    files = {AUTHORIZED_KEYS: authorized_keys, PRIVATE_KEY: private_key}
    return [joined([f"name={name}", f"file={path}"]) for name, path in files.items()]
