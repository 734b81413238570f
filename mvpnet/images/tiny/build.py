"""Build the guest's kernel and initrd from unpacked packages and mvpnet's own files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mvpnet.images.tiny import cpio
from mvpnet.images.tiny.errors import TinyBuildError
from mvpnet.images.tiny.kernel import Module, modules_in_order
from mvpnet.images.tiny.recipe import MODULES, PROGRAMS, ROOT_FILES, WELCOME_MODULES

MULTIARCH = "x86_64-linux-gnu"


@dataclass(frozen=True)
class Tree:
    """Unpacked packages. A release has a file either below / or below /usr; the guest accepts both."""

    folder: Path

    def find(self, path: str) -> Path:
        """Return a file or folder. A link to an absolute path is followed inside the tree, never on this machine."""
        for found in (self.folder / path, self.folder / "usr" / path):
            if found.is_symlink() and found.readlink().is_absolute():
                return self.find(str(found.readlink()).lstrip("/"))
            if found.exists():
                return found
        raise TinyBuildError(f"the packages do not contain {path} (is this an unusual distribution?).")

    def kernel(self) -> Path:
        return self._only("boot", "vmlinuz-*")

    def modules_folder(self) -> Path:
        return self.find("lib/modules") / self.kernel().name.removeprefix("vmlinuz-")

    def libraries(self) -> Iterator[Path]:
        """Yield the shared libraries of all packages, under the names by which programs load them."""
        for prefix in ("lib", "usr/lib"):
            yield from (self.folder / prefix / MULTIARCH).glob("*.so.*")

    def _only(self, folder: str, pattern: str) -> Path:
        found = list(self.find(folder).glob(pattern))
        if len(found) != 1:
            raise TinyBuildError(f"the packages hold {len(found)} files {folder}/{pattern}; it takes one.")
        return found[0]


def initrd(tree: Tree, build_id: str) -> bytes:
    """Return the guest's root file system as an archive that the kernel unpacks at boot.

    It is not compressed: unpacking it in an emulated CPU takes longer than qemu takes to load it.
    """
    modules = modules_in_order(tree.modules_folder(), MODULES, WELCOME_MODULES)
    entries = [
        *own_files(ROOT_FILES),
        *program_files(tree),
        *library_files(tree),
        *module_files(modules),
        *system_files(build_id),
    ]
    return cpio.archive(entries)


def own_files(root: Path) -> Iterator[cpio.Entry]:
    """Yield mvpnet's own files. Those with "#!" become executable, as some installations lose that permission."""
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        content = path.read_bytes()
        yield cpio.file(str(path.relative_to(root)), content, 0o755 if content.startswith(b"#!") else 0o644)


def program_files(tree: Tree) -> Iterator[cpio.Entry]:
    for source, target in PROGRAMS.items():
        yield cpio.file(target, tree.find(source).read_bytes(), 0o755)


def library_files(tree: Tree) -> Iterator[cpio.Entry]:
    for library in tree.libraries():
        path = f"lib/{MULTIARCH}/{library.name}"
        if library.is_symlink():
            yield cpio.link(path, library.readlink().name)
        else:
            yield cpio.file(path, library.read_bytes(), 0o755)


def module_files(modules: list[Module]) -> Iterator[cpio.Entry]:
    """Yield the modules, named such that the shell's sorting gives the order to load them in."""
    for number, module in enumerate(modules):
        yield cpio.file(f"lib/modules/{number:02}-{module.name}.ko", module.content)


def system_files(build_id: str) -> Iterator[cpio.Entry]:
    yield cpio.link("init", "bin/busybox")
    yield cpio.link("bin/sh", "busybox")
    for path in ("dev", "proc", "sys", "run", "sbin", "var/log", "var/run", "mnt"):
        yield cpio.folder(path)
    yield cpio.folder("tmp", 0o1777)
    yield cpio.folder("root", 0o700)
    release = f'NAME="mvpnet tiny"\nID=mvpnet-tiny\nPRETTY_NAME="mvpnet tiny"\nBUILD_ID={build_id}\n'
    yield cpio.file("etc/os-release", release.encode())
