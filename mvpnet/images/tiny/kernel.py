"""Select the kernel's loadable modules, in the order to load them.

A module lists its dependencies in its ``.modinfo`` section (linux/include/linux/module.h, the "depends" tag). Reading
it needs neither depmod, which many hosts do not have in a user's PATH, nor modules.dep, which packages do not contain,
as it is created at installation.
"""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mvpnet.images.tiny.errors import TinyBuildError

_DEPENDS = re.compile(rb"(?<=\0)depends=([^\0]*)\0")


@dataclass(frozen=True)
class Module:
    """A kernel module, uncompressed."""

    name: str
    content: bytes


def modules_in_order(folder: Path, wanted: Iterable[str], welcome: Iterable[str] = ()) -> list[Module]:
    """Return the wanted modules with all dependencies, each after its own; built-in ones are left out.

    Args:
        folder: A kernel's lib/modules/RELEASE.
        wanted: Names of the required modules.
        welcome: Names of optional modules, left out if the kernel does not have them.

    Raises:
        TinyBuildError: The kernel lacks a required module.
    """
    files = {module_name(path): path for path in folder.rglob("*.ko*")}
    builtin = {module_name(Path(line)) for line in (folder / "modules.builtin").read_text().split()}
    ordered: dict[str, Module] = {}

    def visit(name: str) -> None:
        if name in ordered or name in builtin:
            return
        if name not in files:
            raise TinyBuildError(f"the kernel {folder.name} has no module {name}.")
        content = uncompressed(files[name])
        for dependency in depends(content):
            visit(dependency)
        ordered[name] = Module(name, content)

    for name in (*wanted, *(name for name in welcome if name in files)):
        visit(name)
    return list(ordered.values())


def module_name(path: Path) -> str:
    """Return the module's name as the kernel has it, with underscores for the dashes in file names."""
    return path.name.partition(".ko")[0].replace("-", "_")


def depends(content: bytes) -> list[str]:
    """Return the dependencies that a module lists, from its file's content."""
    found = _DEPENDS.search(content)
    names = found[1].decode().split(",") if found else []
    return [name.replace("-", "_") for name in names if name]


def uncompressed(path: Path) -> bytes:
    """Return the unpacked content of a module's file; Debian 13 has them as .ko.xz, Ubuntu 24.04 as .ko.zst."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        if not shutil.which("zstd"):
            raise TinyBuildError(
                "the program zstd, which unpacks this kernel's modules (apt package zstd), is missing."
            )
        return subprocess.run(["zstd", "-dcq", str(path)], check=True, stdout=subprocess.PIPE).stdout
    return path.read_bytes()
