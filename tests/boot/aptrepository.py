"""A Debian repository of two small packages on 127.0.0.1, which a guest reaches through qemu's user network: no other
network is needed to see packages installed from inside a guest, and none is asked.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imageserver import ImageServer, image_server

PACKAGE = "mvpnet-hello"
LATER = "mvpnet-later"
SAYS = {PACKAGE: "installed from inside", LATER: "installed when it boots"}  # what their programs print
HOST_SEEN_BY_GUESTS = "192.168.1.2"  # of qemu's user network: connections to it arrive at the host's own 127.0.0.1


def control(package: str) -> str:
    return f"""\
Package: {package}
Version: 1.0
Architecture: all
Maintainer: mvpnet's tests <nobody@localhost>
Description: a program that prints a line
"""


def built_package(folder: Path, name: str) -> bytes:
    tree = folder / name
    program = tree / "usr/bin" / name
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho {SAYS[name]}\n")
    program.chmod(0o755)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(control(name))
    package = folder / f"{name}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(tree), str(package)], check=True)
    return package.read_bytes()


def entry(name: str, package: bytes) -> str:
    """A package in the index of a repository."""
    digest = hashlib.sha256(package).hexdigest()
    return f"{control(name)}Filename: ./{name}.deb\nSize: {len(package)}\nSHA256: {digest}\n\n"


@contextmanager
def apt_repository(folder: Path) -> Iterator[tuple[ImageServer, str]]:
    """The server, and a command for a guest's bootcmd that makes this its only repository."""
    packages = {name: built_package(folder, name) for name in SAYS}
    files = {f"{name}.deb": package for name, package in packages.items()}
    files["Packages"] = "".join(entry(name, package) for name, package in packages.items()).encode()
    with image_server() as server:
        for name, content in files.items():
            server.serve(name, content)
            server.serve(f"./{name}", content)
        port = server.url("").rsplit(":", 1)[1].strip("/")
        source = f"deb [trusted=yes] http://{HOST_SEEN_BY_GUESTS}:{port} ./"
        yield server, f"rm -f /etc/apt/sources.list.d/*; echo '{source}' >/etc/apt/sources.list"
