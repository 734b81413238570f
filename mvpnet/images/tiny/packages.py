"""Find, fetch and unpack distribution packages without root.

Only apt's read-only commands and ``apt-get download`` are used; they write to a folder of mvpnet's. The machine's own
package lists are tried first. Where there are none, or they name files that the mirror no longer has, separate lists
are fetched from the machine's own sources.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mvpnet.images.tiny.errors import AptError, TinyBuildError
from mvpnet.images.tiny.recipe import FOLLOWED_DEPENDENCY, KERNEL_METAPACKAGES, PACKAGES
from mvpnet.util.text import Say, megabytes

TOOLS = ("apt-get", "apt-cache", "dpkg", "dpkg-deb")

# Without a network apt would try for minutes.
_APT_OPTIONS = ("-q", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20")


@dataclass(frozen=True)
class Package:
    """A package as apt would install it; ``depends`` are names, the first of each group of alternatives."""

    name: str
    version: str
    depends: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True)
class Apt:
    """apt with its caches in ``folder``, and with its own package lists there if ``own_lists``."""

    folder: Path
    own_lists: bool

    def update(self) -> str:
        """Fetch the package lists, only if ``own_lists``; return apt's warnings.

        apt reports an unreachable source as a warning and succeeds, as the other sources may have all that is needed.
        """
        (self.folder / "state/lists/partial").mkdir(parents=True, exist_ok=True)
        return complaints(self._run("apt-get", "update").stderr)

    def show(self, names: Iterable[str]) -> dict[str, Package]:
        """Return the candidate versions of the packages that apt knows."""
        shown = self._run("apt-cache", "show", "--no-all-versions", *sorted(names), may_fail=True)
        return {package.name: package for package in parse_records(shown.stdout)}

    def download(self, packages: Iterable[Package], target: Path) -> None:
        """Download the packages' .deb files into the folder; apt checks signatures and digests."""
        target.mkdir(exist_ok=True)
        self._run("apt-get", "download", *(f"{package.name}={package.version}" for package in packages), cwd=target)

    def _run(
        self, program: str, *arguments: str, cwd: Path | None = None, may_fail: bool = False
    ) -> subprocess.CompletedProcess[str]:
        (self.folder / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
        options = [*_APT_OPTIONS, "-o", f"Dir::Cache={self.folder}/cache"]
        # Assume that nothing is installed: an installed version may be one that no source offers (any more).
        (self.folder / "status").touch()
        options += ["-o", f"Dir::State::status={self.folder}/status"]
        if self.own_lists:
            options += ["-o", f"Dir::State={self.folder}/state", "-o", f"Dir::State::lists={self.folder}/state/lists"]
        if os.geteuid() == 0:  # otherwise apt becomes the user _apt, who may not write here
            options += ["-o", "APT::Sandbox::User=root"]
        done = subprocess.run(
            [program, *options, *arguments],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
        if done.returncode and not may_fail:
            raise AptError(f"`{program} {arguments[0]}` failed:\n{complaints(done.stderr)}")
        return done


def complaints(stderr: str) -> str:
    """Return apt's warnings and errors, without its other messages."""
    return "\n".join(line for line in stderr.splitlines() if line.startswith(("E:", "W:")))


def parse_records(text: str) -> list[Package]:
    """Parse the packages in apt-cache's output: "Field: value" lines, an empty line between packages (deb822(5))."""
    records = [dict(re.findall(r"^([\w-]+): (.*)$", block, re.MULTILINE)) for block in re.split(r"\n\n+", text)]
    return [
        Package(
            name=record["Package"],
            version=record["Version"],
            depends=dependency_names(record.get("Pre-Depends", ""), record.get("Depends", "")),
            size_bytes=int(record.get("Size", 0)),
        )
        for record in records
        if "Package" in record
    ]


def dependency_names(*fields: str) -> tuple[str, ...]:
    """Return the names in dependency fields such as "libc6 (>= 2.34), debconf | debconf-2.0, python3:any"."""
    groups = (group for field in fields for group in field.split(",") if group.strip())
    return tuple(re.split(r"[\s|(:]", group.strip(), maxsplit=1)[0] for group in groups)


def check_host() -> None:
    """Refuse a machine whose packages cannot make a tiny guest, with a TinyBuildError."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        raise TinyBuildError(f"it needs a Debian or Ubuntu host; not found in PATH: {', '.join(missing)}.")
    arch = subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()
    if arch != "amd64":
        raise TinyBuildError(f"it is made for amd64 hosts only, and this one is {arch}.")


def resolve(apt: Apt) -> list[Package]:
    """Return all packages of the guest, including dependencies. Raises AptError if apt does not know them."""
    kernels = apt.show(KERNEL_METAPACKAGES)
    kernel = next((kernels[name] for name in KERNEL_METAPACKAGES if name in kernels), None)
    if kernel is None:
        raise AptError(f"apt offers none of the kernel packages {', '.join(KERNEL_METAPACKAGES)}.")
    found = {kernel.name: kernel}
    wanted = {*PACKAGES, *followed(kernel)}
    while wanted:
        shown = apt.show(wanted)
        if unknown := wanted - shown.keys():
            raise AptError(f"apt offers no package {', '.join(sorted(unknown))} (on Ubuntu, enable universe).")
        found |= shown
        wanted = {name for package in shown.values() for name in followed(package)} - found.keys()
    return [found[name] for name in sorted(found)]


def followed(package: Package) -> list[str]:
    return [name for name in package.depends if FOLLOWED_DEPENDENCY.fullmatch(name)]


def find(folder: Path, say: Say) -> tuple[Apt, list[Package]]:
    """Return the packages, and the apt that knows them: by the machine's lists or, if those fail, by its own."""
    apt = Apt(folder, own_lists=False)
    try:
        return apt, resolve(apt)
    except AptError:
        return with_own_lists(folder, say)


def with_own_lists(folder: Path, say: Say) -> tuple[Apt, list[Package]]:
    say("tiny: fetching package lists (this machine's have none of the packages, or are out of date)")
    apt = Apt(folder, own_lists=True)
    trouble = apt.update()
    try:
        return apt, resolve(apt)
    except AptError as error:
        raise AptError(f"{error.reason}\n{trouble}".strip()) from error


def fetch(apt: Apt, wanted: list[Package], debs: Path, say: Say) -> list[Package]:
    """Download the packages, or newer versions if the machine's lists are out of date; return the packages."""
    say(f"tiny: downloading {len(wanted)} packages ({megabytes(sum(package.size_bytes for package in wanted))})")
    try:
        apt.download(wanted, debs)
        return wanted
    except AptError:
        if apt.own_lists:
            raise
    fresh, newer = with_own_lists(apt.folder, say)
    shutil.rmtree(debs)
    return fetch(fresh, newer, debs, say)


def versions(packages: Iterable[Package]) -> dict[str, str]:
    return {package.name: package.version for package in packages}


def unpack(debs: Path, target: Path) -> None:
    """Unpack all .deb files of a folder into another."""
    target.mkdir(exist_ok=True)
    for deb in sorted(debs.glob("*.deb")):
        done = subprocess.run(["dpkg-deb", "-x", str(deb), str(target)], capture_output=True, text=True)
        if done.returncode:
            raise TinyBuildError(f"{deb.name} cannot be unpacked: {done.stderr.strip()}")
