"""Generalize a guest so that it can become an image, and power it off: the app of `mvpnet image prepare`'s job.

It is a program of its own, run as a file on the host with the environment that mvpnet gives an app, while one guest
runs in which cloud-init is done. It removes all that would be the same in every guest of the image: cloud-init's state
and logs, the machine id, host keys, the job's own keys, the random seed. It exits with 1 when that fails or the guest
stays on; otherwise it waits to be ended with the job, once the guest is gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

TIMEOUT_S = 300.0  # for the script and for the power-down, each; TCG is slow

# "uninitialized" is systemd's value for images (machine-id(5)), and that of `cloud-init clean --machine-id`, an option
# newer than some images. Network files are created again for the next guest's MACs.
SCRIPT = r"""
set -e
cloud-init clean --logs --seed
echo uninitialized >/etc/machine-id
test -L /var/lib/dbus/machine-id || rm -f /var/lib/dbus/machine-id
rm -f /etc/ssh/ssh_host_* /root/.ssh/authorized_keys /root/.ssh/id_ed25519 /root/.ssh/known_hosts
rm -f /etc/netplan/50-cloud-init.yaml /etc/NetworkManager/system-connections/cloud-init-*
rm -f /var/lib/systemd/random-seed /root/.bash_history /root/mvpnet-prepare
rm -rf /var/log/journal/*
echo localhost >/etc/hostname
if command -v apt-get >/dev/null; then apt-get clean; elif command -v dnf >/dev/null; then dnf clean all; fi
"""

# Written by cloud_init.proxy, possibly with a password.
WITHOUT_PROXY = r"""
rm -f /etc/apt/apt.conf.d/90cloud-init-aptproxy
sed -i -E '/^(https?|no)_proxy=/Id' /etc/environment
if [ -f /etc/dnf/dnf.conf ]; then sed -i '/^proxy=/d' /etc/dnf/dnf.conf; fi
"""

# In the background, so that ssh ends normally.
POWER_OFF = "sync; nohup sh -c 'sleep 1; systemctl poweroff || shutdown -h now' >/dev/null 2>&1 </dev/null &"


def main(argv: list[str]) -> int:
    config = Path(os.environ["MVPNET_RUNDIR"]) / "ssh_config"
    script = SCRIPT + (WITHOUT_PROXY if argv == ["--proxy"] else "")
    command = ["ssh", "-F", str(config), "n0000", script + POWER_OFF]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        print(f"the guest could not be sealed in {TIMEOUT_S:g} s", file=sys.stderr)
        return 1
    if done.returncode:
        print(f"the guest could not be sealed: exit code {done.returncode}", file=sys.stderr)
        return 1
    time.sleep(TIMEOUT_S)
    print(f"the guest did not power off in {TIMEOUT_S:g} s", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
