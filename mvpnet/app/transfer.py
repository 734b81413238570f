"""A process of its own that carries files between the host and one guest: tar over ssh, this side of it.

    python -m mvpnet.app.transfer push {"TARGET": "SOURCE", …} EXECUTABLE SSH…
    python -m mvpnet.app.transfer fetch FOLDER ["NAME", …] SSH… COMMAND

The data path's loop cannot wait for disks, so this is not done in it. A guest is not trusted: whatever its archive
says, nothing is written outside the folder, and only files, folders and links among them are made.
Exits with 0, 1 when something could not be carried, 255 when ssh did not get through; why is on standard error.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from mvpnet.app.guest_shell import SSH_FAILED, TAKE_ABSOLUTE, TAKE_RELATIVE
from mvpnet.runtime.signals import die_with_parent


def push(files: dict[str, str], executable: str, ssh: Sequence[str]) -> int:
    """Send files and folders; the exit code."""
    absolute = {to.lstrip("/"): source for to, source in files.items() if to.startswith("/")}
    relative = {to: source for to, source in files.items() if not to.startswith("/")}
    sendings = [(absolute, TAKE_ABSOLUTE), (relative, TAKE_RELATIVE)]
    codes = (_send(these, executable, [*ssh, command]) for these, command in sendings if these)
    return next((code for code in codes if code), 0)


def _send(files: dict[str, str], executable: str, command: Sequence[str]) -> int:
    with _start(command, stdin=subprocess.PIPE) as ssh:
        assert ssh.stdin
        try:
            with ssh.stdin, tarfile.open(fileobj=ssh.stdin, mode="w|", format=tarfile.GNU_FORMAT) as archive:
                for to, source in files.items():
                    archive.add(source, to, filter=lambda member: _nobodys(member, executable))
        except BrokenPipeError:  # ssh has told why, and its exit code tells that it failed
            return _code(ssh.wait()) or 1
        except OSError as error:
            ssh.kill()
            _complain(f"cannot read {error.filename}: {error.strerror}")
            return 1
    return _code(ssh.returncode)


def _nobodys(member: tarfile.TarInfo, executable: str) -> tarfile.TarInfo:
    """The owner here means nothing there: what root unpacks is to be root's."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    if member.name == executable:
        member.mode |= 0o111
    return member


def fetch(folder: Path, names: Sequence[str], command: Sequence[str]) -> int:
    """Unpack into `folder` what the command writes, which is to have these names or patterns; the exit code."""
    fine = True
    folder.mkdir(parents=True, exist_ok=True)
    with _start(command, stdout=subprocess.PIPE) as ssh:
        assert ssh.stdout
        try:
            for problem in unpack(ssh.stdout, folder):
                fine = _complain(problem)
        except (tarfile.TarError, OSError) as error:
            if "empty file" not in str(error):  # nothing came at all: ssh or the guest has told why
                fine = _complain(f"cannot unpack what came: {error}")
        ssh.stdout.close()
    if fine and ssh.returncode == 0:
        lost = [name for name in names if not _is_there(folder, name)]
        # say, a login script that prints something: what is no archive is skipped
        fine = not lost or _complain(f"{', '.join(lost)} did not come whole; does a login there print anything?")
    return _code(ssh.returncode) or (0 if fine else 1)


def _is_there(folder: Path, name: str) -> bool:
    """Whether a name, or anything that its wildcards match, is in the folder."""
    return (folder / name).exists() or (folder / name).is_symlink() or next(folder.glob(name), None) is not None


def _code(ssh: int) -> int:
    return ssh if ssh in (0, SSH_FAILED) else 1


def unpack(stream: IO[bytes], folder: Path) -> Iterator[str]:
    """Unpack tar archives, one after another, into `folder`; yields what was left out, and why.

    Raises tarfile.TarError for an archive that ends too early, OSError when the folder cannot be written.
    """
    root = folder.resolve()
    with tarfile.open(fileobj=stream, mode="r|", ignore_zeros=True) as archive:
        for member in archive:
            if refused := _refused(member, root):
                yield f"{member.name}: {refused}; left out"
                continue
            path = root / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() or (path.exists() and not member.isdir()):
                path.unlink()
            if member.isdir():
                path.mkdir(exist_ok=True)
            elif member.issym():
                path.symlink_to(member.linkname)
            elif member.islnk():
                shutil.copy2(root / member.linkname, path)
            else:
                content = archive.extractfile(member)
                assert content
                with path.open("wb") as file:
                    shutil.copyfileobj(content, file)
                path.chmod(0o600 | member.mode & 0o755)


def _refused(member: tarfile.TarInfo, root: Path) -> str | None:
    """Why a member is not unpacked, if so."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return "leads outside"
    if not (root / path).parent.resolve().is_relative_to(root):
        return "leads outside through a link"
    if member.issym() and not _inside((root / path).parent / member.linkname, root):
        return f"is a link that leads outside, to {member.linkname}"
    if member.islnk():
        source = root / member.linkname
        return None if _inside(source, root) and source.is_file() else "is a link to what was not fetched"
    return None if member.isfile() or member.isdir() or member.issym() else "is no file or folder"


def _inside(path: Path, root: Path) -> bool:
    return path.resolve().is_relative_to(root)


def _start(
    command: Sequence[str], stdin: int = subprocess.DEVNULL, stdout: int | None = None
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=stdin, stdout=stdout, preexec_fn=lambda: die_with_parent(signal.SIGTERM))


def _complain(problem: str) -> bool:
    sys.stderr.write(f"{problem}\n")
    return False


def main(argv: list[str]) -> int:
    what, first, *rest = argv
    if what == "push":
        return push(json.loads(first), rest[0], rest[1:])
    return fetch(Path(first), json.loads(rest[0]), rest[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
