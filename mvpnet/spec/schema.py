"""Declare every configuration key once: its name, type, default and unit.

Hydra composes YAML and command line against these classes (`config.sources` registers them). The spec for the ranks
consists of the same frozen classes. Sizes are strings with a unit suffix, parsed by `spec.sizes`. The old name of a
renamed key is kept in `spec.aliases`. This module does not depend on qemu, MPI or Hydra.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class ImageKind(Enum):
    tiny = "tiny"  # the small guest that mvpnet builds
    file = "file"  # existing disk images
    debian = "debian"  # a Debian cloud image that mvpnet builds, set up by cloud-init
    cloud = "cloud"  # a vendor's image, set up by cloud-init, fetched into the image store


class Compression(Enum):
    auto = "auto"  # detected by the first bytes of the fetched file
    none = "none"
    xz = "xz"
    zstd = "zstd"
    gz = "gz"


class ImageUse(Enum):
    overlay = "overlay"  # writes go to a qcow2 overlay in scratch; the source is never written
    snapshot = "snapshot"  # qemu's own temporary overlay (snapshot=on)
    copy = "copy"  # a full copy, in image.copy_dir or scratch
    direct = "direct"  # the image itself is written
    readonly = "readonly"  # the image itself, write-protected


class NetKind(Enum):
    stream = "stream"
    dgram = "dgram"


class NetSocket(Enum):
    fd = "fd"  # a socket pair, inherited by qemu as a descriptor
    path = "path"  # unix sockets in net.socket_dir, named by job and rank as in the C program


class Accel(Enum):
    auto = "auto"  # KVM where it works, else TCG
    kvm = "kvm"
    tcg = "tcg"


class OnGuestExit(Enum):
    keep = "keep"  # the other guests continue; the job ends with the last one
    stop = "stop"  # the first guest that exits ends the job


class SeedMode(Enum):
    """Whether mvpnet creates a cloud-init seed for the guest."""

    auto = "auto"  # for cloud images, unless cloud_init.path is given
    make = "make"
    none = "none"


class Validate(Enum):
    """Whether user-data is checked against cloud-init's own schema before a guest starts."""

    auto = "auto"  # if the program cloud-init is on the PATH
    always = "always"  # refuse to start without it
    never = "never"


class AppKind(Enum):
    """Place where an app, or one of its steps, runs."""

    host = "host"  # on rank 0's host
    guest = "guest"  # inside guests, over ssh


class WaitFor(Enum):
    """Condition for a guest to count as up."""

    ssh = "ssh"  # its ssh server answers
    cloud_init = "cloud_init"  # cloud-init in it is done, without errors


class Proof(Enum):
    """Last proof that a recipe works."""

    none = "none"
    booted = "booted"  # its guests came up, and its app succeeded
    composed = "composed"  # composed, its seeds validated and its network-config rendered; never booted


@dataclass(frozen=True)
class Recipe:
    """A recipe's description of itself, for `mvpnet recipes` and for the run folder. It does not change a job."""

    about: str | None = None  # its purpose, in a line
    ranks: int | None = None  # intended number of ranks: mpirun -n RANKS mvpnet recipe=NAME
    proof: Proof = Proof.none
    proven_on: str | None = None  # a date, as 2026-11-24
    proven_how: str | None = None  # the observation, and the system


@dataclass(frozen=True)
class Job:
    """The job as a whole."""

    name: str = (
        "${mvpnet.default_job_name:}"  # in file, socket and log names; the batch system's job id where there is one
    )
    ranks: int | None = None  # how many ranks of the launch take part, from rank 0 on; default all
    heartbeat_timeout_s: float = 300.0  # end the job when a rank is silent for so long, as after a cut link; 0: never
    scratch_dir: str | None = None  # local disk for sockets, overlays and seeds; default $TMPDIR, else /tmp


@dataclass(frozen=True)
class Prepare:
    """Changes made to an image once, by `mvpnet image prepare`, before jobs use the result (docs/images.md).

    One guest is booted from the image, cloud-init in it makes these changes as root, in this order, and the disk is
    generalized.
    """

    packages: list[Any] = field(default_factory=list)
    runcmd: list[Any] = field(default_factory=list)  # as cloud-init's, except that the first failure ends it
    script: str | None = None  # a file on the host, run last
    user_data: dict[str, Any] = field(default_factory=dict)  # any other settings of cloud-init
    size: str | None = None  # grow the image first: to 20G, or by +3G; image.size counts from the result
    timeout_s: float = 1800.0  # for all of the preparation
    sha256: str | None = None  # of the prepared image; any other is refused


@dataclass(frozen=True)
class Image:
    """Image that the guest boots. Paths may hold {rank} and {job}."""

    kind: ImageKind = ImageKind.tiny
    path: str | None = None  # the boot disk, used in place; takes precedence over image.source
    # From the image store, which fetches once, checks and keeps (docs/images.md):
    source: str | None = None  # the boot disk as a URL (https, http, file) or a path
    sha256: str | None = None  # of the file as it is fetched; any other is refused
    checksums: str | None = None  # URL or path of the vendor's SHA256SUMS, SHA512SUMS or CHECKSUM, which lists source
    compression: Compression = Compression.auto  # of source
    locked: bool = False  # take only what is pinned, by the lock file or by image.sha256
    lock_file: str | None = None  # pins URLs to digests; default mvpnet-images.lock in the folder of the launch
    packages: list[str] = field(default_factory=list)  # more Debian packages in the image that kind=debian builds
    prepare: Prepare = field(default_factory=Prepare)
    # Of the boot disk, from the store or not:
    format: str | None = None  # qcow2, raw, vmdk, …; default: told by its first bytes
    arch: str | None = None  # x86_64, aarch64, …; refused unless qemu.binary is of it. Default: what source's name says
    size: str | None = None  # grow it to 20G, or by +3G, as qemu-img resize does; the overlay or copy, never the image
    use: ImageUse = ImageUse.overlay  # how the boot disk, and drives that do not say otherwise, are used
    properties: dict[str, str] = field(default_factory=dict)  # added to the boot disk's -drive, e.g. {cache: none}
    # More drives: "PATH,property=value,…[,mvpctl=FLAGS]", or "file=…" to pass a -drive option through unchanged.
    # Without image.path the first of them is the boot disk.
    drives: list[str] = field(default_factory=list)
    copy_dir: str | None = None  # folder for image copies; default the scratch folder
    keep_copies: bool = False  # leave copies in copy_dir when the job ends
    kernel: str | None = None  # boot this kernel instead of the one on the disk
    initrd: str | None = None  # with image.kernel
    kernel_args: str | None = None  # with image.kernel
    user: str | None = None  # login name on the guest; default root on tiny, else your own name
    cache_dir: str | None = None  # built and fetched images; default $XDG_CACHE_HOME/mvpnet, else ~/.cache/mvpnet


@dataclass(frozen=True)
class Vm:
    """The virtual machine."""

    memory: str = "1G"  # 512M, 4G; a bare number is MiB
    cpus: int = 1
    smp: str | None = None  # qemu's -smp topology, e.g. "4,sockets=2,cores=2"; wins over cpus
    accel: Accel = Accel.auto
    cpu_model: str = "auto"  # qemu's -cpu; auto is host under KVM; under TCG max, on x86 max,-erms,-fsrm
    machine: str | None = None  # qemu's -machine; default qemu's own, and virt on Arm and RISC-V
    # UEFI: auto, or a code image such as OVMF_CODE_4M.fd; each rank has its own copy of the variables (docs/images.md).
    # Default qemu's own BIOS, and auto for a guest that boots a disk on Arm
    firmware: str | None = None
    restart: int = 0  # number of restarts of a guest that died, on its disks as they are (docs/reliability.md)


@dataclass(frozen=True)
class Qemu:
    """The programs that run the machine."""

    binary: str = "qemu-system-x86_64"
    extra_args: list[str] = field(default_factory=list)  # put last on qemu's command line, one argument per item
    monwrap: str = "monwrap"  # the program between rank and qemu
    answer_timeout_s: float = 10.0  # a qemu that does not answer QMP for this long is reported as hung
    sandbox: bool = True  # qemu's -sandbox, where this qemu has it: no programs, no other user (docs/security.md)


@dataclass(frozen=True)
class Net:
    """The Ethernet between the guests."""

    kind: NetKind = NetKind.stream  # qemu's netdev
    socket: NetSocket = NetSocket.fd
    socket_dir: str = "/tmp"  # with socket=path
    mtu: int = 1500  # bytes; more than 1500 reaches the guest by host_mtu
    user_network: str = "192.168.1.0/24"  # of qemu's user network: ssh, and the guests' way to the outside; not of 10/8
    domains: list[str] | None = None  # DNS search domains on the user network; default from /etc/resolv.conf
    tftp_dir: str | None = None  # serve this folder to the guests by TFTP
    ssh_port: int = 2200  # first port tried on 127.0.0.1 for rank 0's ssh; rank r tries ssh_port + r
    sample_interval_s: float = 1.0  # while there is traffic, add counters to traffic.jsonl this often; 0: never
    # Tuning of the data path; docs/dataplane.md gives the reasons for the values.
    chunk_bytes: int = 256 * 1024  # most bytes read from a guest, or sent in a message, at once
    credits: int = 4  # messages in flight to one peer
    peer_queue_bytes: int = 1024 * 1024  # queued for one peer, before the guest is no longer read
    queue_bytes: int = 8 * 1024 * 1024  # the same for all peers together
    guest_queue_bytes: int = 1024 * 1024  # queued for the guest, before messages are no longer received
    drop_timeout_ms: int = 100  # how long a blocked receiver may hold up others, before frames for it are dropped
    busy_poll_us: int = 500  # spin for this long after the last work before a sleep
    max_spin_us: int = 2000  # upper limit of that, where the traffic's gaps are that short
    coalesce_us: int = 50  # under bulk traffic, nap for so long (up to 4 x) after 2 x as long without work; 0: never
    compiled: bool = True  # use the data path's compiled part, if it is built
    max_sleep_ms: int = 10  # the longest sleep of a rank that other hosts' ranks may be unable to wake by datagram


@dataclass(frozen=True)
class CloudInit:
    """Seed for cloud-init in the guest, created by mvpnet for each rank, or a ready one (docs/cloud-init.md).

    Texts may hold ${rank}, ${world_size}, ${host_name} and ${address}, each rank's own, beside ${job.name} and all else
    that Hydra resolves; a ${…} for a shell in the guest is written \\${…}.
    """

    path: str | None = None  # a folder with user-data and meta-data, or an image of one, passed unchanged
    seed: SeedMode = SeedMode.auto
    validate: Validate = Validate.auto
    # Access. image.user is created, with sudo; root is accessible with the job's own key.
    user_keys: bool = True  # authorize the starting user's ~/.ssh/*.pub and ~/.ssh/authorized_keys
    ssh_authorized_keys: list[str] = field(default_factory=list)  # more public keys, one per line
    sudo: str | None = "ALL=(ALL) NOPASSWD:ALL"  # image.user's rule in sudoers; null for none
    # Actions at the first boot.
    hosts: bool = True  # write /etc/hosts and /etc/hosts.mpi with all ranks
    growpart: bool = True  # grow the root partition and file system to the size of the disk
    packages: list[Any] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # path in the guest: file on the host, copied with its mode
    write_files: list[Any] = field(default_factory=list)  # as cloud-init's: [{path: /etc/motd, content: …}]
    runcmd: list[Any] = field(default_factory=list)  # as cloud-init's: a text for sh, or a list of arguments
    proxy: str | None = None  # for packages and logins: a URL; env takes what the starting user's environment has
    no_proxy: str | None = None  # with a proxy URL: hosts and domains that are reached without it, with commas
    timezone: str | None = None  # Europe/Berlin
    locale: str | None = "C.UTF-8"  # null leaves the image's
    user_data_file: str | None = None  # a file of #cloud-config, merged over what is above and below user_data
    # Other settings, merged over those from above: mappings key by key, lists appended, null removes.
    user_data: dict[str, Any] = field(default_factory=dict)
    meta_data: dict[str, Any] = field(default_factory=dict)  # {dsmode: local}
    network_config: dict[str, Any] = field(default_factory=dict)  # version 2; ours are ethernets `user` and `mvpnet`


@dataclass(frozen=True)
class Logging:
    """Log files and their levels."""

    dir: str | None = None  # log folder, with one folder per job in it; default the run folder
    console: bool = True  # rank-NNNN/console.log: what the guest prints on its serial console
    file: bool = True  # rank-NNNN/mvpnet.log
    wrapper: bool = False  # rank-NNNN/monwrap.log
    level: str = "INFO"  # for mvpnet.log: TRACE, DEBUG, INFO, WARNING, ERROR, CRITICAL
    stderr_level: str = "WARNING"  # for the terminal
    levels: dict[str, str] = field(default_factory=dict)  # level of single parts, e.g. {dataplane: DEBUG}
    recent: str = "64K"  # newest messages of every level, kept in memory and written out at a crash; 0 for none
    stats: bool = True  # stats.json in the run folder
    digest_timeout_s: float = 20.0  # limit for digesting images for the manifest, once the guests are gone; 0: never


@dataclass(frozen=True)
class Boot:
    """Wait for the guests at the start."""

    wait_for: WaitFor = WaitFor.ssh  # condition for a guest to count as up
    timeout_s: float = 90.0  # until every guest is up


@dataclass(frozen=True)
class Shutdown:
    """End of a job."""

    on_guest_exit: OnGuestExit = OnGuestExit.keep
    ignore_address: bool = False  # guests cannot stop the job through 10.255.255.254 or the shutdown frame
    on_stdin_eof: bool = False  # end of rank 0's standard input stops the job
    powerdown_s: float = 20.0  # time for the guest after the ACPI power button, before SIGTERM to qemu
    term_s: float = 5.0  # time for qemu after SIGTERM, before SIGKILL


@dataclass(frozen=True)
class Step:
    """One program of the app, on rank 0's host or in guests (docs/experiments.md)."""

    kind: AppKind = AppKind.host
    command: Any = None  # a list of arguments, or one string split as a shell would; no shell runs it
    show_output: bool = False  # also on mvpnet's standard output, beside the log
    timeout_s: float | None = None  # for the command, which is ended then, with exit code 124
    # In guests only:
    script: Any = None  # in place of command: a file on the host that is copied into the guest, and its arguments
    on: str | None = None  # the rank set of those guests; default "0"
    user: str | None = None  # the user in the guest who runs it; default the login user
    # sent before: path in the guest: file or folder on the host, with wildcards into DIR/
    push: dict[str, str] = field(default_factory=dict)
    collect: list[str] = field(default_factory=list)  # fetched after, also when it failed; with wildcards
    # for the login: a guest's ssh port answers before all users may log in: pam_nologin(8), cloud-init
    login_timeout_s: float = 60.0
    copy_timeout_s: float = 300.0  # for sending to a guest, and for fetching from it
    # Largest number of guests with a login, copy or start in progress; at 10 an sshd on the way begins to refuse
    # connections (MaxStartups in sshd_config(5)).
    max_parallel_ssh: int = 10


@dataclass(frozen=True)
class App(Step):
    """Programs that run while the guests run: one, or several in order."""

    # NAME: {the keys of a step}; keys such as kind, on and user that a step lacks are the app's
    steps: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """Settings of a sweep (`-m`) beside its combinations (docs/experiments.md)."""

    repeat: int = 1  # number of runs of each combination
    resume: str | None = None  # the folder of an interrupted sweep: run its missing and failed jobs


@dataclass(frozen=True)
class Config:
    """The whole configuration. `ranks` holds rank overrides: NAME: {on: RANK SET, image|vm|…|logging: {...}}."""

    job: Job = field(default_factory=Job)
    image: Image = field(default_factory=Image)
    vm: Vm = field(default_factory=Vm)
    qemu: Qemu = field(default_factory=Qemu)
    net: Net = field(default_factory=Net)
    cloud_init: CloudInit = field(default_factory=CloudInit)
    logging: Logging = field(default_factory=Logging)
    boot: Boot = field(default_factory=Boot)
    shutdown: Shutdown = field(default_factory=Shutdown)
    app: App = field(default_factory=App)
    sweep: Sweep = field(default_factory=Sweep)
    ranks: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)


@dataclass(frozen=True)
class RankOverride:
    """One entry of `ranks`."""

    on: str = "???"
    image: Image = field(default_factory=Image)
    vm: Vm = field(default_factory=Vm)
    qemu: Qemu = field(default_factory=Qemu)
    cloud_init: CloudInit = field(default_factory=CloudInit)
    logging: Logging = field(default_factory=Logging)


#: the config groups of one section each, with the section's type
GROUPS: dict[str, type] = {
    "image": Image,
    "net": Net,
    "vm": Vm,
    "cloud_init": CloudInit,
    "logging": Logging,
    "app": App,
}
