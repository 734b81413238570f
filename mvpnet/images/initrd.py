"""Build a small initrd for an image booted by -kernel: it loads the disk's drivers, mounts it, and starts its init.

A distribution's own initrd finds any disk of any machine, with udev and a hundred modules, and keeps an emulated CPU
busy for seconds. This one is not compressed, as the tiny guest's is not. `root=` may name a device, and `init=` a
program.
"""

from __future__ import annotations

from pathlib import Path

from mvpnet.images.tiny import cpio
from mvpnet.images.tiny.kernel import modules_in_order

MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")
_FOLDERS = ("dev", "proc", "root", "sys")
_WAIT_S = 10  # for the disk
INIT = f"""\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do $b insmod $module; done

root=/dev/vda
init=/sbin/init
for word in $($b cat /proc/cmdline); do
    case $word in
    root=*) root=${{word#root=}} ;;
    init=*) init=${{word#init=}} ;;
    esac
done
tries=0
while [ ! -b $root ] && [ $tries -lt {_WAIT_S * 10} ]; do
    $b sleep 0.1
    tries=$((tries + 1))
done
# What ends here is a kernel panic, which the job is told of.
$b mount -o rw $root /root || exit
$b mount --move /dev /root/dev
$b umount /sys
$b umount /proc
exec $b switch_root /root $init
"""


def initrd(modules: Path, busybox: Path) -> bytes:
    """Return the archive, from a kernel's folder lib/modules/RELEASE and a static busybox.

    Raises:
        TinyBuildError: The kernel lacks one of MODULES.
    """
    loaded = modules_in_order(modules, MODULES)
    return cpio.archive(
        [
            cpio.file("init", INIT.encode(), 0o755),
            cpio.file("bin/busybox", busybox.read_bytes(), 0o755),
            *(cpio.folder(name) for name in _FOLDERS),
            *(cpio.file(f"modules/{n:02}-{module.name}.ko", module.content) for n, module in enumerate(loaded)),
        ]
    )
