"""A Debian repository of one package on 127.0.0.1, which a guest reaches through qemu's user network: no other network
is needed to see packages installed from inside a guest, and none is asked.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imageserver import ImageServer, image_server

PACKAGE = "mvpnet-hello"
SAYS = "installed from inside"
HOST_SEEN_BY_GUESTS = "192.168.1.2"  # of qemu's user network: connections to it arrive at the host's own 127.0.0.1

_CONTROL = f"""\
Package: {PACKAGE}
Version: 1.0
Architecture: all
Maintainer: mvpnet's tests <nobody@localhost>
Description: a program that prints a line
"""


def built_package(folder: Path) -> Path:
    tree = folder / "tree"
    program = tree / "usr/bin" / PACKAGE
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\necho {SAYS}\n")
    program.chmod(0o755)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(_CONTROL)
    package = folder / f"{PACKAGE}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", str(tree), str(package)], check=True)
    return package


@contextmanager
def apt_repository(folder: Path) -> Iterator[tuple[ImageServer, str]]:
    """The server, and a command for a guest's bootcmd that makes this its only repository."""
    package = built_package(folder).read_bytes()
    index = (
        f"{_CONTROL}Filename: ./{PACKAGE}.deb\nSize: {len(package)}\nSHA256: {hashlib.sha256(package).hexdigest()}\n\n"
    )
    with image_server() as server:
        for name, content in (("Packages", index.encode()), (f"{PACKAGE}.deb", package)):
            server.serve(name, content)
            server.serve(f"./{name}", content)
        port = server.url("").rsplit(":", 1)[1].strip("/")
        source = f"deb [trusted=yes] http://{HOST_SEEN_BY_GUESTS}:{port} ./"
        yield server, f"rm -f /etc/apt/sources.list.d/*; echo '{source}' >/etc/apt/sources.list"
