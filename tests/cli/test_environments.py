"""The program where its surroundings are not as usual: locale, home, launch folder, names that are no text.

What cannot work is refused in words. Nothing makes a traceback.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from whole_jobs.conftest import SSH_PORT, STANDIN

OTHER_USER = ("unshare", "--user", "--map-user=4321", "--map-group=4321")  # one whom the host does not know
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@dataclass(frozen=True)
class Surroundings:
    """How the program is started."""

    environ: dict[str, str | None] = field(default_factory=dict)
    folder: bytes = b"work"  # of the launch
    gone: bool = False  # whether that was removed
    home_mode: int = 0o700
    prefix: tuple[str, ...] = ()


SURROUNDINGS = {
    "as usual": Surroundings(),
    "umlauts": Surroundings(folder="Größe #1 (2), a=b".encode()),
    "braces": Surroundings(folder=b"a{45c6}{{x}}{rank}${x}"),
    "no text": Surroundings(folder=b"caf\xe9"),
    "gone": Surroundings(gone=True),
    "no HOME": Surroundings({"HOME": None}),
    "no home at all": Surroundings({"HOME": None}, prefix=OTHER_USER),
    "a home that is not there": Surroundings({"HOME": "/proc/nosuch/home"}),
    "another's home": Surroundings(prefix=OTHER_USER, home_mode=0),
    "a home to read only": Surroundings(prefix=OTHER_USER, home_mode=0o555),
    "ASCII": Surroundings(ASCII, "Größe".encode()),
    "ASCII, no text": Surroundings(ASCII, b"caf\xe9"),
    "ASCII streams, no text": Surroundings({"PYTHONIOENCODING": "ascii:strict"}, b"caf\xe9"),
}
VERBS: dict[str, list[str | bytes]] = {
    "plan": ["plan", "image=file", "image.path=disk", "cloud_init=always"],
    "seed": ["seed", "seeds", "cloud_init=always"],
    "doctor": ["doctor"],
    "image": ["image", "list"],
    "help": ["--help"],
    "config": ["--cfg", "job"],
    "recipes": ["recipes"],
    "saves": ["saves"],
    "a name that is no text": ["plan", "app.kind=guest", b"app.push={/x: 'caf\xe9'}"],
    "a disk that is no text": ["plan", "image=file", b"image.path='caf\xe9'"],
    "an error with umlauts": ["plan", "image=file", "image.path='Größe'"],
    "an unknown home": ["image", "fetch", "image=file", "image.source='~nosuch/x'"],
    "a job": [
        *("image=file", "image.path=disk", "image.use=readonly", f"qemu.binary={STANDIN}", "vm.accel=tcg"),
        *('app.command=["true"]', f"net.ssh_port={SSH_PORT}", "hydra.run.dir=run"),
    ],
}


Run = Callable[[Surroundings, list[str | bytes]], subprocess.CompletedProcess[bytes]]


@pytest.fixture
def run(tmp_path: Path, short_dir: Path) -> Run:
    def start(how: Surroundings, words: list[str | bytes]) -> subprocess.CompletedProcess[bytes]:
        folder, home = os.path.join(os.fsencode(tmp_path), how.folder), tmp_path / "home"  # noqa: PTH118
        os.makedirs(folder)  # noqa: PTH103
        with open(os.path.join(folder, b"disk"), "wb") as disk:  # noqa: PTH118, PTH123
            disk.write(bytes(512))
        home.mkdir(how.home_mode)
        given = {"HOME": str(home), "TMPDIR": str(short_dir), "STANDIN_DIR": str(tmp_path), **how.environ}
        ours = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", *given)
        environ = {name: value for name, value in os.environ.items() if name not in ours}
        environ |= {name: value for name, value in given.items() if value is not None}
        there = "import os, sys; os.chdir(sys.argv[1]); gone = sys.argv[2] == 'gone'\n"
        there += "if gone: os.unlink('disk'); os.rmdir(sys.argv[1])\n"
        there += "os.execvp(sys.argv[3], sys.argv[3:])"
        how_gone = "gone" if how.gone else "there"
        program = [*how.prefix, sys.executable, "-m", "mvpnet", *words]
        return subprocess.run(
            [sys.executable, "-c", there, folder, how_gone, *program], env=environ, capture_output=True, timeout=200
        )

    return start


FIRST = ["plan", "seed", "image", "help", "a job"]
HARDEST = ["another's home", "ASCII, no text"]
CASES = [(name, verb) for name in SURROUNDINGS for verb in VERBS if verb == "a job" or name in HARDEST]
#: where all of that works, and is not only refused in words
WORKS = [*("as usual", "umlauts", "braces", "no text", "no HOME", "ASCII", "ASCII, no text", "ASCII streams, no text")]


@pytest.mark.parametrize(("name", "verb"), CASES)
def test_no_surroundings_make_a_traceback(run: Run, name: str, verb: str) -> None:
    how = SURROUNDINGS[name]
    if how.prefix and not can_be_another():
        pytest.skip("no user namespaces here")
    done = run(how, VERBS[verb])
    said = done.stdout + done.stderr
    assert b"Traceback" not in said and b"UserWarning" not in said, said.decode(errors="replace")
    assert done.returncode in (0, 2, 3, 4), done
    if done.returncode:
        assert b"mvpnet: " in done.stderr or verb == "doctor", done
    if verb in FIRST and name in WORKS:
        assert done.returncode == 0, done.stderr.decode(errors="replace")


def can_be_another() -> bool:
    return bool(shutil.which("unshare")) and not subprocess.run([*OTHER_USER, "true"], capture_output=True).returncode


def test_a_name_that_is_no_text_is_told_in_its_own_bytes(run: Run) -> None:
    done = run(SURROUNDINGS["as usual"], VERBS["a disk that is no text"])
    assert done.returncode == 4 and b"/caf\xe9" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        *(["report", "~nosuch/run"], ["export", "~nosuch/run"], ["diff", "~nosuch/a", "~nosuch/b"]),
        *(["seed", "~nosuch/s", "cloud_init=always"], ["image", "import", "~nosuch/x"], ["image", "info", "~nosuch/x"]),
        *(["image", "resize", "~nosuch/x", "+1G"], ["image", "list", "--cache-dir=~nosuch"]),
        *(["plan", "--config-dir=~nosuch"], ["recipes", "--config-dir", "~nosuch"], ["saves", "rm", "~nosuch"]),
        *(["resume=~nosuch/x"], ["sweep.resume=~nosuch/x"], ["hydra.run.dir='~nosuch/x'"], ["--config-dir=~nosuch"]),
        *(["-m", "vm.cpus=1,2", "hydra.sweep.dir='~nosuch/x'"], ["image.path='~nosuch/x'", "image=file"]),
    ],
)
def test_an_unknown_home_is_refused_wherever_a_path_is_taken(run: Run, words: list[str | bytes]) -> None:
    done = run(SURROUNDINGS["as usual"], words)
    assert done.returncode == 2, done
    assert b": this host knows no home folder ~nosuch" in done.stderr and b"Traceback" not in done.stderr, done
