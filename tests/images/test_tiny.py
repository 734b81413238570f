"""The tiny guest's image: how it is resolved, built and kept, with the real apt and a package repository of our own.

The repository is a folder of small packages under the real names. The kernel, its modules and the programs in them are
a few bytes each; that the real ones boot is shown by tests/boot/test_tiny_alone.py.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from mvpnet.images import tiny
from mvpnet.images.tiny import cpio, kernel, packages, recipe
from mvpnet.images.tiny.errors import AptError, TinyBuildError
from support import poll_until

RELEASE = "9.9.9-cloud-amd64"


def quiet(line: str) -> None:
    pass


# --- a repository of packages


def module(*depends: str) -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(depends).encode() + b"\0name=it\0"


def kernel_files(release: str = RELEASE) -> dict[str, bytes]:
    folder = f"lib/modules/{release}"
    return {
        f"boot/vmlinuz-{release}": b"a kernel",
        f"{folder}/modules.builtin": b"kernel/fs/ext4/ext4.ko\nkernel/drivers/char/hw_random/rng-core.ko\n",
        f"{folder}/kernel/virtio.ko": module(),
        f"{folder}/kernel/virtio_ring.ko": module("virtio"),
        f"{folder}/kernel/virtio_pci.ko": module("virtio_ring", "virtio"),
        f"{folder}/kernel/virtio_net.ko.xz": lzma.compress(module("net_failover", "virtio")),
        f"{folder}/kernel/net_failover.ko": module("failover"),
        f"{folder}/kernel/failover.ko": module(),
        f"{folder}/kernel/virtio-rng.ko": module("rng-core"),
        **{
            f"{folder}/kernel/{name}.ko": module()
            for name in ("qemu_fw_cfg", "virtio_blk", "virtio_console", "evdev", "button", "isofs", "unwanted")
        },
    }


@dataclass(frozen=True)
class Repository:
    """A folder that apt takes packages from."""

    folder: Path

    def add(
        self, name: str, files: Mapping[str, bytes | Path] | None = None, depends: str = "", version: str = "1"
    ) -> None:
        """Add a package with files and links (a Path is a link's target), in place of one of that name."""
        tree = self.folder / "tree" / name
        shutil.rmtree(tree, ignore_errors=True)
        for path, content in (files or {}).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                (tree / path).symlink_to(content)
            else:
                (tree / path).write_bytes(content)
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: nobody\n"
        control += f"Depends: {depends}\n" if depends else ""
        (tree / "DEBIAN/control").write_text(f"{control}Description: for a test\n")
        deb = self.folder / f"{name}.deb"
        subprocess.run(["dpkg-deb", "-Znone", "--build", str(tree), str(deb)], check=True, stdout=subprocess.DEVNULL)
        content = deb.read_bytes()
        self._record(name).write_text(
            f"{control}Filename: ./{deb.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n\n"
        )
        self._index()

    def remove(self, name: str) -> None:
        self._record(name).unlink()
        self._index()

    def _record(self, name: str) -> Path:
        return self.folder / f"{name}.record"

    def _index(self) -> None:
        (self.folder / "Packages").write_text(
            "".join(path.read_text() for path in sorted(self.folder.glob("*.record")))
        )


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """All that the recipe takes, where apt looks instead of the machine's sources; no package list is fetched yet."""
    made = Repository(tmp_path / "repository")
    made.folder.mkdir()
    made.add("linux-image-cloud-amd64", depends=f"linux-image-{RELEASE} (= 1), initramfs-tools | linux-initramfs-tool")
    made.add(f"linux-image-{RELEASE}", kernel_files())
    made.add("busybox-static", {"bin/busybox": b"a busybox"})
    programs = {"usr/sbin/dropbear": b"a dropbear", "usr/bin/dropbearkey": b"a dropbearkey"}
    made.add("dropbear-bin", programs, "libc6 (>= 2.34), zlib1g")
    made.add("iperf3", {"usr/bin/iperf3": b"an iperf3"}, "debconf, libiperf0 (>= 3.1.3), libc6")
    client = {f"usr/bin/{name}": name.encode() for name in ("ssh", "scp", "ssh-keygen")}
    made.add("openssh-client", client, "adduser, libc6")
    made.add("openssh-sftp-server", {"usr/lib/openssh/sftp-server": b"a server"}, "openssh-client, libc6")
    libraries = "lib/x86_64-linux-gnu"
    libc: dict[str, bytes | Path] = {
        "lib64/ld-linux-x86-64.so.2": Path("/") / libraries / "ld-linux-x86-64.so.2",  # as in Debian 12
        f"{libraries}/ld-linux-x86-64.so.2": b"a loader",
        f"{libraries}/libc.so.6": b"a libc",
    }
    made.add("libc6", libc)
    made.add("libiperf0", {"usr/lib/x86_64-linux-gnu/libiperf.so.0": b"a libiperf"}, "libc6")
    libz = {
        "usr/lib/x86_64-linux-gnu/libz.so.1": Path("libz.so.1.2"),
        "usr/lib/x86_64-linux-gnu/libz.so.1.2": b"a libz",
    }
    made.add("zlib1g", libz, "libc6")
    use_sources(tmp_path, monkeypatch, f"deb [trusted=yes] file:{made.folder} ./\n")
    return made


def use_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: str) -> None:
    """Let apt know these sources alone, and no package list."""
    (tmp_path / "sources.list").write_text(sources)
    (tmp_path / "machine/lists/partial").mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::Etc::sourcelist": tmp_path / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": tmp_path / "machine/lists",
    }
    (tmp_path / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in settings.items()))
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))


def update_machine_lists() -> None:
    """What the machine's administrator does."""
    argv = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "update"]
    subprocess.run(argv, check=True, capture_output=True)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def members(initrd: Path, tmp_path: Path) -> dict[str, Path]:
    """The initrd's members by name, as the cpio tool unpacks them."""
    target = tmp_path / "unpacked"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    argv = ["cpio", "-idm", "--quiet", "--no-absolute-filenames"]
    subprocess.run(argv, input=initrd.read_bytes(), cwd=target, check=True, stderr=subprocess.PIPE)
    return {str(path.relative_to(target)): path for path in target.rglob("*")}


# --- building


def test_builds_a_kernel_and_an_initrd_from_packages(repository, cache, tmp_path):
    said: list[str] = []
    image = tiny.ensure(cache, said.append)
    assert image.kernel == cache / image.digest / "vmlinuz"
    assert image.kernel.read_bytes() == b"a kernel"
    unpacked = members(image.initrd, tmp_path)
    assert unpacked["bin/busybox"].read_bytes() == b"a busybox"
    assert unpacked["usr/lib/sftp-server"].read_bytes() == b"a server"
    assert unpacked["lib64/ld-linux-x86-64.so.2"].read_bytes() == b"a loader"  # and not this machine's
    assert unpacked["lib/x86_64-linux-gnu/libz.so.1"].read_bytes() == b"a libz"
    assert unpacked["lib/x86_64-linux-gnu/libiperf.so.0"].read_bytes() == b"a libiperf"
    assert unpacked["init"].readlink() == Path("bin/busybox")
    assert image.digest in unpacked["etc/os-release"].read_text()
    assert said[0] == "tiny: looking up the guest's packages"
    assert said[-1].startswith(f"tiny: built {cache / image.digest}")


def test_our_scripts_are_executable_and_our_settings_are_not(repository, cache, tmp_path):
    unpacked = members(tiny.ensure(cache, quiet).initrd, tmp_path)
    assert unpacked["etc/init.d/rcS"].stat().st_mode & 0o777 == 0o755
    assert unpacked["usr/bin/mvpnet-shutdown"].stat().st_mode & 0o777 == 0o755
    assert unpacked["etc/inittab"].stat().st_mode & 0o777 == 0o644
    assert unpacked["root"].stat().st_mode & 0o777 == 0o700


def test_carries_the_modules_it_needs_in_loading_order(repository, cache, tmp_path):
    unpacked = members(tiny.ensure(cache, quiet).initrd, tmp_path)
    loaded = [Path(name).stem[3:] for name in sorted(unpacked) if name.endswith(".ko")]
    first = ["virtio", "virtio_ring", "virtio_pci", "failover", "net_failover", "virtio_net"]
    assert loaded == [*first, "qemu_fw_cfg", "virtio_blk", "virtio_console", "virtio_rng", "evdev", "button", "isofs"]


def test_what_it_is_made_of_is_recorded(repository, cache):
    image = tiny.ensure(cache, quiet)
    build = json.loads((cache / image.digest / "build.json").read_text())
    assert build["packages"]["libc6"] == "1"
    assert f"linux-image-{RELEASE}" in build["packages"]
    assert not build["packages"].keys() & {"debconf", "adduser", "initramfs-tools"}
    assert build["recipe"] == tiny.recipe_digest()


def test_the_same_packages_make_the_same_bytes(repository, tmp_path):
    one, other = (tiny.ensure(tmp_path / name, quiet) for name in ("one", "other"))
    assert one.digest == other.digest
    assert one.initrd.read_bytes() == other.initrd.read_bytes()


def test_takes_the_machine_s_package_lists_where_there_are_any(repository, cache):
    update_machine_lists()
    said: list[str] = []
    tiny.ensure(cache, said.append)
    assert not [line for line in said if "package lists" in line]


def test_fetches_lists_of_its_own_where_the_machine_has_none(repository, cache):
    said: list[str] = []
    tiny.ensure(cache, said.append)
    assert [line for line in said if "fetching package lists" in line]


def test_fetches_lists_of_its_own_where_the_machine_s_are_out_of_date(repository, cache):
    update_machine_lists()
    repository.add("iperf3", {"usr/bin/iperf3": b"a newer iperf3"}, "libiperf0, libc6", version="2")
    image = tiny.ensure(cache, quiet)
    assert json.loads((cache / image.digest / "build.json").read_text())["packages"]["iperf3"] == "2"


def test_takes_ubuntu_s_kernel_where_debian_s_is_not_offered(repository, cache):
    repository.remove("linux-image-cloud-amd64")
    repository.remove(f"linux-image-{RELEASE}")
    files = kernel_files("7.7.7-generic")
    image = {path: content for path, content in files.items() if path.startswith("boot/")}
    repository.add(
        "linux-image-generic", depends="linux-image-7.7.7-generic, linux-modules-extra-7.7.7-generic, linux-firmware"
    )
    repository.add("linux-image-7.7.7-generic", image, "kmod, linux-modules-7.7.7-generic")
    modules = {path: content for path, content in files.items() if path.startswith("lib/")}
    extra = "lib/modules/7.7.7-generic/kernel/qemu_fw_cfg.ko"
    repository.add("linux-modules-extra-7.7.7-generic", {extra: modules.pop(extra)}, "wireless-regdb")
    repository.add("linux-modules-7.7.7-generic", modules)
    built = tiny.ensure(cache, quiet)
    assert built.kernel.read_bytes() == b"a kernel"


# --- the cache


def test_a_second_call_asks_nobody(repository, cache, monkeypatch):
    first = tiny.ensure(cache, quiet)
    monkeypatch.setenv("PATH", "")
    said: list[str] = []
    assert tiny.ensure(cache, said.append) == first
    assert said == []


def test_a_relative_cache_folder_gives_absolute_paths(repository, cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tiny.ensure(Path(cache.name), quiet) == tiny.ensure(cache, quiet)


def test_newer_packages_are_taken_when_asked_for(repository, cache):
    first = tiny.ensure(cache, quiet)
    repository.add("iperf3", {"usr/bin/iperf3": b"a newer iperf3"}, "libiperf0, libc6", version="2")
    assert tiny.ensure(cache, quiet) == first
    second = tiny.ensure(cache, quiet, refresh=True)
    assert second.digest != first.digest
    assert b"a newer iperf3" in second.initrd.read_bytes()
    assert tiny.ensure(cache, quiet) == second


def test_a_refresh_without_news_builds_nothing(repository, cache):
    first = tiny.ensure(cache, quiet)
    said: list[str] = []
    assert tiny.ensure(cache, said.append, refresh=True) == first
    assert not [line for line in said if "built" in line]


def test_another_recipe_is_another_image(tmp_path):
    folder = tmp_path / "recipe"
    shutil.copytree(recipe.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    assert recipe.recipe_digest(folder) == tiny.recipe_digest()
    (folder / "root/etc/inittab").write_text("::sysinit:/bin/true\n")
    changed = recipe.recipe_digest(folder)
    assert changed != tiny.recipe_digest()
    assert recipe.image_digest(changed, {"a": "1"}) != recipe.image_digest(tiny.recipe_digest(), {"a": "1"})


def test_an_image_of_another_recipe_is_not_used(repository, cache):
    first = tiny.ensure(cache, quiet)
    assert tiny.newest(cache, "another recipe") is None
    assert tiny.newest(cache, tiny.recipe_digest()) == first


@pytest.mark.parametrize("name", ["vmlinuz", "initrd", "build.json"])
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_damaged_image_is_built_again(repository, cache, name, harm):
    image = tiny.ensure(cache, quiet)
    whole = image.initrd.read_bytes()
    victim = cache / image.digest / name
    victim.write_bytes(victim.read_bytes()[:-1]) if harm == "cut" else victim.unlink()
    again = tiny.ensure(cache, quiet)
    assert again == image
    assert again.kernel.read_bytes() == b"a kernel"
    assert again.initrd.read_bytes() == whole


# --- several processes

BUILDER = """
import sys
from pathlib import Path
from mvpnet.images import tiny

def say(line):
    print(line, flush=True)
    if line.startswith(sys.argv[2]):
        sys.stdin.readline()

print(tiny.ensure(Path(sys.argv[1]), say).digest)
"""


@dataclass
class Builder:
    """A process that calls ensure(), and stops for a line of input where it says what `pause` begins with."""

    process: subprocess.Popen[str]
    out: Path

    @property
    def said(self) -> str:
        return self.out.read_text()

    def wait_for(self, text: str) -> None:
        poll_until(lambda: text in self.said, 60, repr(text))

    def digest(self) -> str:
        assert self.process.wait(60) == 0, self.said
        return self.said.splitlines()[-1]


@pytest.fixture
def start_builder(cache: Path, tmp_path: Path) -> Iterator[Callable[..., Builder]]:
    started: list[Builder] = []

    def start(pause: str = "never") -> Builder:
        out = tmp_path / f"builder-{len(started)}"
        with out.open("w") as file:
            argv = [sys.executable, "-c", BUILDER, str(cache), pause]
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, text=True)
        started.append(Builder(process, out))
        return started[-1]

    yield start
    for builder in started:
        builder.process.kill()
        builder.process.wait()
        assert builder.process.stdin
        builder.process.stdin.close()


def test_processes_that_start_at_once_build_once(repository, cache, start_builder):
    builders = [start_builder() for _ in range(4)]
    assert len({builder.digest() for builder in builders}) == 1
    assert sum("tiny: built" in builder.said for builder in builders) == 1
    assert len(list(cache.glob("*/build.json"))) == 1


def test_who_comes_second_says_that_it_waits(repository, start_builder):
    first = start_builder("tiny: packing")
    first.wait_for("tiny: packing")
    second = start_builder()
    second.wait_for("another process is building")
    first.process.stdin.write("\n")
    first.process.stdin.flush()
    assert second.digest() == first.digest()
    assert "tiny: built" not in second.said


@pytest.mark.parametrize("step", ["looking up", "downloading", "unpacking", "packing"])
def test_a_killed_build_is_taken_up_by_who_waits(repository, cache, start_builder, step):
    first = start_builder(f"tiny: {step}")
    first.wait_for(f"tiny: {step}")
    second = start_builder()
    second.wait_for("another process is building")
    os.kill(first.process.pid, signal.SIGKILL)
    digest = second.digest()
    assert (cache / digest / "vmlinuz").read_bytes() == b"a kernel"
    assert [path.name for path in cache.iterdir() if path.name != ".lock"] == [digest]


@pytest.mark.parametrize("step", ["downloading", "packing"])
def test_a_killed_build_leaves_no_image(repository, cache, start_builder, step):
    builder = start_builder(f"tiny: {step}")
    builder.wait_for(f"tiny: {step}")
    builder.process.kill()
    builder.process.wait()
    assert tiny.newest(cache, tiny.recipe_digest()) is None


# --- refusals


def refusal(cache: Path) -> str:
    with pytest.raises(TinyBuildError) as caught:
        tiny.ensure(cache, quiet)
    assert "image=file image.path=" in str(caught.value)
    assert not list(cache.glob("*/build.json"))
    return str(caught.value)


def test_a_host_without_apt_is_told(repository, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not found in PATH: apt-get, apt-cache, dpkg, dpkg-deb" in refusal(cache)


def test_sources_without_a_kernel_are_named(repository, cache):
    repository.remove("linux-image-cloud-amd64")
    assert "none of the kernel packages linux-image-cloud-amd64" in refusal(cache)


def test_a_package_that_is_not_offered_is_named(repository, cache):
    repository.remove("dropbear-bin")
    assert "no package dropbear-bin" in refusal(cache)


def test_without_a_network_it_says_what_was_out_of_reach(cache, tmp_path, monkeypatch):
    use_sources(tmp_path, monkeypatch, "deb [trusted=yes] http://127.0.0.1:9/nothing ./\n")
    message = refusal(cache)
    assert "http://127.0.0.1:9/nothing" in message
    assert "Could not connect" in message


def test_a_package_that_differs_from_its_digest_is_refused(repository, cache):
    (repository.folder / "iperf3.deb").write_bytes(b"something else")
    assert "iperf3" in refusal(cache)


def test_a_kernel_without_a_module_is_named(repository, cache):
    files = {path: content for path, content in kernel_files().items() if "virtio_net" not in path}
    repository.add(f"linux-image-{RELEASE}", files)
    assert f"the kernel {RELEASE} has no module virtio_net" in refusal(cache)


def test_a_program_that_has_moved_is_named(repository, cache):
    repository.add("busybox-static", {"opt/busybox": b"a busybox"})
    assert "do not contain bin/busybox" in refusal(cache)


def test_a_cache_folder_that_cannot_be_made_is_named(repository, cache):
    cache.write_text("a file")
    message = refusal(cache)
    assert str(cache) in message


# --- parts


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        pytest.param(["libc6 (>= 2.34), zlib1g"], ("libc6", "zlib1g"), id="versions"),
        pytest.param(["debconf (>= 0.5) | debconf-2.0"], ("debconf",), id="alternatives"),
        pytest.param(["python3:any, libc6"], ("python3", "libc6"), id="architecture"),
        pytest.param(["libgcc-s1", "libc6"], ("libgcc-s1", "libc6"), id="several fields"),
        pytest.param(["", ""], (), id="none"),
    ],
)
def test_dependency_names(fields, names):
    assert packages.dependency_names(*fields) == names


def test_parse_records_reads_what_apt_shows():
    text = (
        "Package: a\nVersion: 1:2-3\nDepends: libc6\nSize: 12\nDescription: it\n has: more\n\nPackage: b\nVersion: 4\n"
    )
    assert packages.parse_records(text) == [
        packages.Package("a", "1:2-3", ("libc6",), 12),
        packages.Package("b", "4", (), 0),
    ]


@pytest.mark.parametrize("noise", ["", "N: Unable to locate package\n"])
def test_parse_records_of_nothing(noise):
    assert packages.parse_records(noise) == []


def test_complaints_are_what_apt_warns_of():
    assert packages.complaints("W: old\nReading lists\nE: broken\nN: a note") == "W: old\nE: broken"


def test_module_names_have_no_dashes():
    assert kernel.module_name(Path("kernel/virtio-rng.ko.xz")) == "virtio_rng"
    assert kernel.depends(module("rng-core", "virtio")) == ["rng_core", "virtio"]
    assert kernel.depends(module()) == []


@pytest.mark.skipif(not shutil.which("zstd"), reason="needs the zstd program")
def test_a_module_that_is_only_welcome_comes_last_and_may_be_missing(tmp_path):
    (tmp_path / "modules.builtin").write_text("")
    for name, content in {"wanted": module(), "pvpanic-mmio": module("pvpanic"), "pvpanic": module()}.items():
        (tmp_path / f"{name}.ko").write_bytes(content)
    found = kernel.modules_in_order(tmp_path, ["wanted"], ["pvpanic_mmio", "missing"])
    assert [one.name for one in found] == ["wanted", "pvpanic", "pvpanic_mmio"]


def test_modules_compressed_by_zstd_are_read(tmp_path):
    path = tmp_path / "a.ko"
    path.write_bytes(module("b"))
    subprocess.run(["zstd", "-q", str(path)], check=True)
    assert kernel.uncompressed(tmp_path / "a.ko.zst") == module("b")


def test_modules_compressed_by_zstd_need_the_program(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TinyBuildError, match="apt package zstd"):
        kernel.uncompressed(tmp_path / "a.ko.zst")


def test_an_apt_error_is_a_build_error_with_a_hint():
    error = AptError("it says no.")
    assert isinstance(error, TinyBuildError)
    assert "it says no." in str(error)
    assert error.hint


def test_fw_cfg_files_are_named_below_opt():
    assert tiny.fw_cfg(Path("/run/a,b.pub"), Path("/run/key")) == [
        "name=opt/mvpnet/authorized_keys,file=/run/a,,b.pub",
        "name=opt/mvpnet/id_ed25519,file=/run/key",
    ]


def test_archives_hold_files_links_and_folders(tmp_path):
    entries = [cpio.file("a/b/c", b"odd", 0o755), cpio.link("a/link", "b/c"), cpio.folder("a/d", 0o1777)]
    (tmp_path / "archive").write_bytes(cpio.archive(entries))
    unpacked = members(tmp_path / "archive", tmp_path)
    assert sorted(unpacked) == ["a", "a/b", "a/b/c", "a/d", "a/link"]
    assert unpacked["a/b/c"].read_bytes() == b"odd"
    assert stat.S_IMODE(unpacked["a/b/c"].stat().st_mode) == 0o755
    assert stat.S_IMODE(unpacked["a/d"].stat().st_mode) == 0o1777
    assert unpacked["a/link"].readlink() == Path("b/c")


def test_an_archive_s_later_entry_replaces_the_earlier():
    archive = cpio.archive([cpio.file("a", b"first"), cpio.file("a", b"second")])
    assert b"second" in archive
    assert b"first" not in archive
