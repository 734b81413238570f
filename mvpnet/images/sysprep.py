"""Makes a guest ready to be an image, and powers it off: the app of the job that `mvpnet image prepare` runs.

A program of its own, run as a file on the host with the environment that mvpnet gives an app, while one guest runs in
which cloud-init is done. What would make all guests of the image one and the same goes: what cloud-init did and knows,
the machine id, host keys, the job's own keys, the random seed. Ends with 1 when that fails or the guest stays on;
otherwise it waits to be ended with the job, when the guest has gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

TIMEOUT_S = 300.0  # for each of the two, the script and the power-down; TCG is slow

# uninitialized is what systemd's machine-id(5) has for images, and what `cloud-init clean --machine-id` writes; the
# option itself is newer than some images. Network files are made anew for the next guest's MACs.
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

# What cloud_init.proxy put there, which may have a password in it.
WITHOUT_PROXY = r"""
rm -f /etc/apt/apt.conf.d/90cloud-init-aptproxy
sed -i -E '/^(https?|no)_proxy=/Id' /etc/environment
if [ -f /etc/dnf/dnf.conf ]; then sed -i '/^proxy=/d' /etc/dnf/dnf.conf; fi
"""

# Behind the session, so that ssh ends in order.
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
