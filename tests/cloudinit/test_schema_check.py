"""Seeds before cloud-init itself: its schema for user-data, and its renderers for each distribution's network files.

cloud-init is the program on the PATH, or the one that tools/cloud-init.sh unpacks beside this Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mvpnet.cloudinit.schema_check import check_user_data
from mvpnet.cloudinit.seed import make_seed
from mvpnet.cloudinit.seed_files import rank_seed
from mvpnet.cloudinit.user_data import HostFile, SeedFacts
from mvpnet.config import compose
from mvpnet.errors import ConfigError, HostError
from mvpnet.spec.model import JobSpec
from mvpnet.spec.schema import CloudInit, Config, Image, ImageKind, Job, Net, Validate

FACTS = SeedFacts("ssh-ed25519 JOB", "-----BEGIN-----\n", ("ssh-rsa MINE me",), {"http_proxy": "http://u:p@proxy:1"})


@pytest.fixture(autouse=True)
def path_with_cloud_init(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}")


@pytest.fixture
def cloud_init(path_with_cloud_init: None) -> str:
    program = shutil.which("cloud-init")
    if program is None:
        pytest.skip("no cloud-init here, and tools/cloud-init.sh could not fetch it from the distribution")
    return program


def seed_texts(rank: int = 1, world_size: int = 4, user: str = "alice", mtu: int = 1500, **cloud_init: Any) -> Any:
    config = Config(
        job=Job(name="job7"), image=Image(kind=ImageKind.cloud), net=Net(mtu=mtu), cloud_init=CloudInit(**cloud_init)
    )
    spec = JobSpec(world_size, Path("/run"), config).for_rank(rank)
    return make_seed(spec, user, FACTS, {"/opt/run": HostFile(b"\0\1", 0o755)})


# -- user-data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"hosts": False, "growpart": False, "sudo": None, "locale": None, "user_keys": False},
        {"packages": ["gcc", ["mpich", "4.0"]], "runcmd": ["date", ["ls", "/"]], "proxy": "env", "timezone": "UTC"},
        {"write_files": [{"path": "/etc/motd", "content": "${rank}", "append": True}]},
        {"user_data": {"fqdn": "${host_name}.x.org", "ntp": {"enabled": True}, "growpart": None}},
    ],
)
@pytest.mark.parametrize("user", ["alice", "root"])
@pytest.mark.parametrize("world_size", [2, 3000])
def test_cloud_init_takes_what_we_write(cloud_init: str, asked: dict[str, Any], user: str, world_size: int) -> None:
    text = seed_texts(user=user, world_size=world_size, **asked).user_data
    assert check_user_data(text, Validate.always) is None


@pytest.mark.parametrize(
    ("user_data", "says"),
    [
        ({"packages": {"a": 1}}, "packages"),
        ({"runcmd": 3}, "runcmd"),
        ({"write_files": [{"path": "/etc/x", "content": ["no", "text"]}]}, "write_files"),
        ({"growpart": {"mode": "sideways"}}, "growpart"),
        ({"timezone": 7}, "timezone"),
    ],
)
def test_what_cloud_init_would_not_take_is_refused(cloud_init: str, user_data: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        check_user_data(seed_texts(user_data=user_data).user_data, Validate.auto)
    assert "cloud_init.validate=never" in str(caught.value) and "/tmp" not in str(caught.value)


def test_it_is_not_checked_where_that_is_not_wanted() -> None:
    assert check_user_data("#cloud-config\nruncmd: 3\n", Validate.never) is None


def test_it_is_not_checked_without_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    trouble = check_user_data("#cloud-config\nruncmd: 3\n", Validate.auto)
    assert trouble and "no program cloud-init" in trouble
    with pytest.raises(HostError, match=r"cloud_init\.validate.*no program cloud-init"):
        check_user_data("#cloud-config\n", Validate.always)


@pytest.mark.parametrize("text", ["#!/bin/sh\necho broken >&2\nexit 3\n", "not even a script"])
def test_a_program_that_fails_by_itself_condemns_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    (tmp_path / "cloud-init").write_text(text)
    (tmp_path / "cloud-init").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    trouble = check_user_data("#cloud-config\nruncmd: 3\n", Validate.auto)
    assert trouble and str(tmp_path) in trouble
    with pytest.raises(HostError, match=r"cloud_init\.validate"):
        check_user_data("#cloud-config\n", Validate.always)


# -- network-config ----------------------------------------------------------------------------------------------

# A guest's two NICs in a network namespace of our own, under the names that its kernel gives them, so that cloud-init
# finds their names by their MAC addresses as it does in the guest.
_AS_IN_THE_GUEST = """
mount -t sysfs sysfs /sys
ip link add ens3 address 52:56:00:00:00:04 type veth peer name ens4 address 52:55:00:00:00:01
cloud-init devel net-convert -p "$1" -k yaml -D "$2" -O "$3" -d "$4"
"""

NETPLAN = {
    "etc/netplan/50-cloud-init.yaml": """
network:
    ethernets:
        mvpnet:
            addresses:
            - 10.0.0.2/8
            match:
                macaddress: '52:55:00:00:00:01'
            mtu: 9000
            optional: true
        user:
            dhcp4: true
            match:
                macaddress: '52:56:00:00:00:04'
    version: 2
"""
}
INTERFACES = {
    "etc/network/interfaces.d/50-cloud-init": """
auto lo
iface lo inet loopback
auto ens3
iface ens3 inet dhcp
auto ens4
iface ens4 inet static
    address 10.0.0.2/8
    mtu 9000
"""
}
SYSCONFIG = {
    "etc/sysconfig/network": """
NETWORKING=yes
""",
    "etc/sysconfig/network-scripts/ifcfg-ens3": """
BOOTPROTO=dhcp
DEVICE=ens3
HWADDR=52:56:00:00:00:04
NM_CONTROLLED=no
ONBOOT=yes
TYPE=Ethernet
USERCTL=no
""",
    "etc/sysconfig/network-scripts/ifcfg-ens4": """
BOOTPROTO=none
DEVICE=ens4
HWADDR=52:55:00:00:00:01
IPADDR=10.0.0.2
MTU=9000
NETMASK=255.0.0.0
NM_CONTROLLED=no
ONBOOT=yes
TYPE=Ethernet
USERCTL=no
""",
}
NETWORK_MANAGER = {
    "etc/NetworkManager/system-connections/cloud-init-ens3.nmconnection": """
[connection]
id=cloud-init ens3
type=ethernet
[user]
org.freedesktop.NetworkManager.origin=cloud-init
[ethernet]
mac-address=52:56:00:00:00:04
[ipv4]
method=auto
may-fail=false
""",
    "etc/NetworkManager/system-connections/cloud-init-ens4.nmconnection": """
[connection]
id=cloud-init ens4
type=ethernet
[user]
org.freedesktop.NetworkManager.origin=cloud-init
[ethernet]
mtu=9000
mac-address=52:55:00:00:00:01
[ipv4]
method=manual
may-fail=false
address1=10.0.0.2/8
""",
}
NETWORKD = {
    "etc/systemd/network/10-cloud-init-ens3.network": """
[Match]
MACAddress=52:56:00:00:00:04
Name=ens3
[Network]
DHCP=ipv4
""",
    "etc/systemd/network/10-cloud-init-ens4.network": """
[Address]
Address=10.0.0.2/8
[Link]
MTUBytes=9000
[Match]
MACAddress=52:55:00:00:00:01
Name=ens4
[Network]
DHCP=no
""",
}
# Where cloud-init writes them, of what it prefers on the distribution ("Network configuration outputs").
RENDERED = [
    ("debian", "eni", INTERFACES),
    ("debian", "netplan", NETPLAN),
    ("ubuntu", "netplan", NETPLAN),
    ("centos", "sysconfig", SYSCONFIG),
    ("rhel", "sysconfig", SYSCONFIG),
    ("rocky", "sysconfig", SYSCONFIG),
    ("rocky", "network-manager", NETWORK_MANAGER),
    ("fedora", "network-manager", NETWORK_MANAGER),
    ("fedora", "sysconfig", SYSCONFIG),
    ("photon", "networkd", NETWORKD),
]


@pytest.mark.parametrize(("distribution", "renderer", "expected"), RENDERED)
def test_every_distribution_s_renderer_takes_the_network_config(
    cloud_init: str, tmp_path: Path, distribution: str, renderer: str, expected: dict[str, str]
) -> None:
    check_rendered(seed_texts(mtu=9000).network_config, distribution, renderer, expected, tmp_path)


def check_rendered(
    network_config: str, distribution: str, renderer: str, expected: dict[str, str], folder: Path
) -> None:
    (folder / "network-config").write_text(network_config)
    arguments = [str(folder / "network-config"), distribution, renderer, str(folder / "out")]
    command = [*namespace(renderer), "sh", "-euc", _AS_IN_THE_GUEST, "sh", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {str(path.relative_to(folder / "out")): path for path in (folder / "out").rglob("*") if path.is_file()}
    found.pop("etc/udev/rules.d/70-persistent-net.rules", None)  # names for the MACs, those that they have anyway
    assert {name: bare(path.read_text()) for name, path in found.items()} == {k: bare(v) for k, v in expected.items()}


@pytest.mark.parametrize(
    ("recipe", "distribution", "renderer", "expected"),
    [
        ("centos9", "centos", "sysconfig", SYSCONFIG),
        ("rocky9", "rocky", "sysconfig", SYSCONFIG),
        ("rocky9", "rocky", "network-manager", NETWORK_MANAGER),
        ("fedora", "fedora", "network-manager", NETWORK_MANAGER),
        ("fedora", "fedora", "sysconfig", SYSCONFIG),
        ("ubuntu2404", "ubuntu", "netplan", NETPLAN),
        ("debian12", "debian", "netplan", NETPLAN),
        ("debian12", "debian", "eni", INTERFACES),
    ],
)
def test_what_recipes_that_were_never_booted_say_of_themselves(
    cloud_init: str, tmp_path: Path, recipe: str, distribution: str, renderer: str, expected: dict[str, str]
) -> None:
    spec = compose.compose([f"recipe={recipe}", "net.mtu=9000"], 4).for_rank(1)
    assert spec.image.user
    seed = rank_seed(spec, spec.image.user, FACTS)
    assert check_user_data(seed.user_data, Validate.always) is None
    check_rendered(seed.network_config, distribution, renderer, expected, tmp_path)


def bare(text: str) -> list[str]:
    """A file's lines without blank ones, comments and the identifiers that NetworkManager makes up."""
    return [line for line in text.splitlines() if line.strip() and not re.match(r"#|uuid=", line)]


def namespace(renderer: str) -> list[str]:
    """unshare and its options, or a skip where this user may have no namespaces."""
    if renderer == "networkd" and os.getuid():
        pytest.skip("cloud-init's networkd renderer gives its files to another user, which only root can")
    command = ["unshare", "--net", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
    try:
        done = subprocess.run(
            [*command, "sh", "-c", "mount -t sysfs s /sys && ip link"], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("unshare (util-linux) is not installed")
    if done.returncode:
        pytest.skip(f"no network namespace to be had: {done.stderr.strip()}")
    return command
