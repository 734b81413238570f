"""Control groups' limits and mounts, read from trees like those of batch systems and containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvpnet.host.cgroups import CpuLimit, MemoryLimit, control_groups, limits
from mvpnet.host.mounts import file_system, mount_of, read_mounts

MEMINFO = """MemTotal:       16777216 kB
MemAvailable:   12582912 kB
SwapTotal:       1048576 kB
CommitLimit:     9437184 kB
Committed_AS:    1048576 kB
"""
V2 = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_host_without_limits(tmp_path: Path) -> None:
    found = limits(tree(tmp_path, {}))
    assert (found.ram_bytes, found.available_bytes, found.swap_bytes) == (16 * 2**30, 12 * 2**30, 2**30)
    assert (found.memory, found.cpu_time, found.promisable_bytes, found.any_promise) == ((), (), None, False)
    assert found.most_bytes == 17 * 2**30


@pytest.mark.parametrize(("mode", "promisable", "any_promise"), [(0, None, False), (1, None, True), (2, 8, False)])
def test_what_the_kernel_promises(tmp_path: Path, mode: int, promisable: int | None, any_promise: bool) -> None:
    found = limits(tree(tmp_path, {"proc/sys/vm/overcommit_memory": f"{mode}\n"}))
    assert found.promisable_bytes == (None if promisable is None else promisable * 2**30)
    assert found.any_promise is any_promise


def test_groups_of_slurm_under_version_2(tmp_path: Path) -> None:
    job = "/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7"
    files = {
        "proc/self/cgroup": "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_1\n",
        "proc/self/mountinfo": V2,
        f"{job[1:]}/memory.max": "4294967296\n",
        f"{job[1:]}/memory.current": "2147483648\n",
        f"{job[1:]}/memory.stat": "anon 1\ninactive_file 1073741824\nactive_file 3\n",
        f"{job[1:]}/step_0/memory.max": "max\n",
        f"{job[1:]}/step_0/cpu.max": "max 100000\n",
        f"{job[1:]}/cpu.max": "250000 100000\n",
    }
    found = limits(tree(tmp_path, files))
    assert found.memory == (MemoryLimit(job, 4 * 2**30, 2**30),), "cached files are not counted as used"
    assert found.cpu_time == (CpuLimit(job, 2.5),)


def test_groups_under_version_1(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/slurm/uid_1/job_7"
    files = {
        "proc/self/cgroup": "9:name=systemd:/\n4:memory:/slurm/uid_1/job_7\n2:cpu,cpuacct:/x\n",
        "proc/self/mountinfo": V1,
        f"{group}/memory.limit_in_bytes": "1073741824\n",
        f"{group}/memory.usage_in_bytes": "1048576\n",
        "sys/fs/cgroup/memory/slurm/uid_1/memory.limit_in_bytes": "2147483648\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    found = limits(tree(tmp_path, files))
    assert found.memory == (
        MemoryLimit(f"/{group}", 2**30, 2**20),
        MemoryLimit("/sys/fs/cgroup/memory/slurm/uid_1", 2**31, 0),
    )
    assert found.cpu_time == (CpuLimit("/sys/fs/cgroup/cpu,cpuacct/x", 0.5),)


@pytest.mark.parametrize(
    ("group", "mounted_root", "folders"),
    [
        ("/a/b", "/", ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"]),
        ("/docker/c", "/docker/c", ["/sys/fs/cgroup"]),  # a container that sees its own part
        ("/docker/c/d", "/docker/c", ["/sys/fs/cgroup/d", "/sys/fs/cgroup"]),
        ("/../..", "/", ["/sys/fs/cgroup"]),  # of a namespace that we are not in
    ],
)
def test_where_groups_are(group: str, mounted_root: str, folders: list[str]) -> None:
    mounts = read_mounts(V2.replace(" / /sys", f" {mounted_root} /sys"))
    assert control_groups(f"0::{group}\n", mounts, "memory") == [Path(folder) for folder in folders]
    assert control_groups("garbage\n", mounts, "memory") == []
    assert control_groups(f"0::{group}\n", [], "memory") == []


def test_mounts() -> None:
    text = (
        "22 1 254:0 / / rw - ext4 /dev/vda rw\n"
        "23 22 0:21 / /home rw shared:1 master:2 - nfs4 server:/home rw,vers=4.2\n"
        "24 22 0:22 / /home/my\\040disk rw - xfs /dev/sdb rw\n"
        "25 22 0:23 / /tmp rw - ext4 /dev/sdc rw\n"
        "26 25 0:24 / /tmp rw - tmpfs tmpfs rw,size=1g\n"
        "what is this\n"
    )
    mounts = read_mounts(text)
    assert len(mounts) == 5

    def kind(path: str) -> str:
        found = mount_of(Path(path), mounts)
        assert found
        return found.fs_type

    assert [kind(path) for path in ("/", "/home/x", "/home/my disk/x", "/homes", "/tmp/x")] == [
        *("ext4", "nfs4", "xfs", "ext4", "tmpfs")  # of two at one place, the one that hides the other
    ]
    assert [mount.is_shared for mount in mounts] == [False, True, False, False, False]
    assert mounts[4].is_in_memory
    assert mount_of(Path("/x"), []) is None


def test_this_hosts_file_systems(tmp_path: Path) -> None:
    here = file_system(tmp_path / "not" / "there")
    assert here and here.fs_type
    proc = file_system(Path("/proc/self"))
    assert proc and proc.fs_type == "proc"
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert file_system(tmp_path / "circle" / "x") is None or file_system(tmp_path / "circle" / "x").fs_type
