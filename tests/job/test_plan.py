"""Names of files that have a meaning somewhere on their way to qemu: they reach it as they are, by a real qemu."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mvpnet.config import compose
from mvpnet.job.plan import planned_rank
from mvpnet.spec import option_string
from mvpnet.spec.drive_text import drive_of_file
from mvpnet.spec.escape import resolved_already
from mvpnet.util.hydra_quotes import quoted

NAMES = [
    *("a,b", ",,x", "a=b", "file=x", "#1", "d#1 (2)", "Größe", "a:b", "json:{}", "it's", 'a"b', "a\\b", "a\\", "$x"),
    *("${x}", "{rank}", "{45c6}", "{{x}}", "[x]", "~x", " x ", "%d", "a\nb", "-x", "caf\udce9", "nbd:x", "x" * 255),
]

pytestmark = pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="there is no qemu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    disk, seed = tmp_path / "disk", tmp_path / "seed"
    disk.write_bytes(bytes(1024**2))
    seed.mkdir()
    for name in ("user-data", "meta-data"):
        (seed / name).write_text("")
    return tmp_path


def words(keys: dict[str, str]) -> list[str]:
    return [f"{key}={quoted(resolved_already(value))}" for key, value in keys.items()]


def told_by_qemu(argv: list[str]) -> list[dict[str, Any]]:
    """What qemu says of its block devices, when it is started with the plan's drives, seed, console and TFTP folder."""
    kept: list[str] = []
    for option, value in pairwise(argv):
        if option in ("-drive", "-netdev", "-chardev", "-kernel", "-initrd") and "fd=" not in value:
            kept += [option, value.partition(",hostfwd=")[0]] if "type=fd" not in value else []
            for part in option_string.split(value) if option == "-chardev" else []:
                if part.startswith(("path=", "logfile=")):
                    Path(part.partition("=")[2]).parent.mkdir(parents=True, exist_ok=True)
    requests = "".join(json.dumps({"execute": name}) + "\n" for name in ("qmp_capabilities", "query-block", "quit"))
    command = [argv[0], "-nodefaults", "-display", "none", "-S", "-accel", "tcg", "-qmp", "stdio", *kept]
    done = subprocess.run(command, input=requests, capture_output=True, text=True, timeout=120, errors="replace")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return next(one["return"] for one in answers if isinstance(one.get("return"), list))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_a_key_reaches_qemu(
    images: Path, short_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = images / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.copyfile(images / "disk", name)
    shutil.copytree(images / "seed", images / name)
    written = f"./{drive_of_file(Path(name))}"
    template = f"../{name}".replace("{", "{{").replace("}", "}}")
    keys = {"image.path": written, "cloud_init.path": template, "net.tftp_dir": str(images / name)}
    check(
        images / name,
        folder / name,
        {**keys, "hydra.run.dir": f"./{name}-run"[:255], "job.scratch_dir": str(short_dir)},
    )


@pytest.mark.parametrize("name", [name for name in NAMES if len(name) < 100])
def test_a_name_of_the_launch_folder_reaches_qemu(
    images: Path, short_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = images / "in" / name
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    shutil.copyfile(images / "disk", "disk")
    shutil.copytree(images / "seed", "seed")
    keys = {"image.path": "disk", "cloud_init.path": "seed", "net.tftp_dir": "seed", "hydra.run.dir": "run"}
    check(folder / "seed", folder / "disk", {**keys, "job.scratch_dir": str(short_dir)})


def check(seed: Path, disk: Path, keys: dict[str, str]) -> None:
    """The plan of a job with these keys, given to a qemu, has it open these files."""
    job = compose.compose([*words(keys), "image=file", "image.use=readonly", "vm.accel=tcg"], 1)
    plan = planned_rank(job.for_rank(0), "")
    [first, _] = told_by_qemu(plan["qemu"])  # it could not open the seed's folder by another name
    assert first["inserted"]["file"] == os.fsencode(disk).decode(errors="replace")
    assert any(f"tftp={str(seed).replace(',', ',,')}" in word for word in plan["qemu"])
