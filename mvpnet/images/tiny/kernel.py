"""The kernel's loadable modules: which files are needed, in which order.

A module names the modules it depends on in its ``.modinfo`` section (linux/include/linux/module.h, the "depends"
tag). Reading that needs neither depmod, which many hosts do not have in a user's PATH, nor modules.dep, which the
packages do not carry: it is made at installation.
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
    """The wanted modules with all they depend on, each after its dependencies; built-in ones are left out.

    ``folder`` is a kernel's lib/modules/RELEASE. Raises TinyBuildError if the kernel does not have a wanted one; one
    that is only ``welcome`` is left out then.
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
    """The module's name as the kernel has it: dashes in file names stand for underscores."""
    return path.name.partition(".ko")[0].replace("-", "_")


def depends(content: bytes) -> list[str]:
    """The modules that a module (its file's content) says it depends on."""
    found = _DEPENDS.search(content)
    names = found[1].decode().split(",") if found else []
    return [name.replace("-", "_") for name in names if name]


def uncompressed(path: Path) -> bytes:
    """The content of a module's file; Debian 13 has them as .ko.xz, Ubuntu 24.04 as .ko.zst."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        if not shutil.which("zstd"):
            raise TinyBuildError(
                "the program zstd, which unpacks this kernel's modules (apt package zstd), is missing."
            )
        return subprocess.run(["zstd", "-dcq", str(path)], check=True, stdout=subprocess.PIPE).stdout
    return path.read_bytes()
