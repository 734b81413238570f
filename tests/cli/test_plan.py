"""`mvpnet plan`: what comes before the guests, and what is refused by looking at files."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mvpnet.paths import conf_folder

RECIPES = sorted(path.stem for path in (conf_folder() / "recipe").glob("*.yaml"))
PAGE = b"<!DOCTYPE html><title>Log in</title>"
DISK = bytes(510) + b"\x55\xaa" + bytes(4096)

Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="a plan asks qemu what it can do")


@pytest.fixture
def mvpnet(tmp_path: Path) -> Run:
    """Run mvpnet in a folder of the test's own, with an empty cache, and without a network."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:1")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), **nowhere}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mvpnet", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def planned(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_planned_where_nothing_is_built(mvpnet: Run, tmp_path: Path, recipe: str) -> None:
    ranks = planned(mvpnet("plan", "-n", "2", "--json", f"recipe={recipe}"))
    for rank in ranks:
        [step] = rank["first"]
        verb = {"build": "fetch", "fetch": "fetch", "prepare": "prepare"}[step["work"]]
        assert step["command"] == f"mvpnet image {verb} recipe={recipe}"
        assert step["by_job"] == (step["work"] != "prepare")
        assert all(path.startswith(f"{tmp_path}/cache/mvpnet/") for path in step["files"]), step
    assert not (tmp_path / "cache" / "mvpnet").exists() and not (tmp_path / "runs").exists()


def test_a_plan_for_people_says_what_comes_first(mvpnet: Run) -> None:
    said = mvpnet("plan", "-n", "2", "recipe=mpi-hello")
    assert said.stdout.startswith("# first\n") and " recipe=mpi-hello\n" in said.stdout


@pytest.mark.parametrize("recipe", ["mpi-hello", "debian12"])
def test_doctor_and_seed_do_without_what_is_not_built(mvpnet: Run, tmp_path: Path, recipe: str) -> None:
    looked = json.loads(mvpnet("doctor", "-n", "2", "--json", f"recipe={recipe}").stdout)
    assert [line["level"] for line in looked if line["check"] == "image"] == ["warning"]
    assert mvpnet("seed", "-n", "2", "seeds", f"recipe={recipe}").returncode == 0
    assert not (tmp_path / "cache" / "mvpnet").exists()


def test_what_is_here_is_not_named(mvpnet: Run, tmp_path: Path) -> None:
    (tmp_path / "d.img").write_bytes(DISK)
    [rank] = planned(mvpnet("plan", "--json", "image=file", "image.path=d.img"))
    assert rank["first"] == []


def test_several_ranks_with_several_images(mvpnet: Run, tmp_path: Path) -> None:
    (tmp_path / "d.img").write_bytes(DISK)
    words = ["-n", "3", "image=tiny", "ranks.one={on: '1', image: {kind: file, source: d.img}}"]
    words[-1] = f"+{words[-1]}"
    ranks = planned(mvpnet("plan", "--json", *words))
    assert [rank["first"][0]["work"] for rank in ranks] == ["build", "fetch", "build"]
    said = mvpnet("plan", *words).stdout
    assert "#   build image=tiny (ranks 0,2): a job does so" in said and "(ranks 1): a job does so" in said


#: key → overrides that give it the file {bad}, beside which {disk} is a disk
KEYS = {
    "image.path": ["image.path={bad}"],
    "image.drives[0]": ["image.path={disk}", "image.drives=[{bad}]"],
    "image.source": ["image.source={bad}"],
    "image.kernel": ["image.path={disk}", "image.kernel={bad}"],
    "image.initrd": ["image.path={disk}", "image.kernel={kernel}", "image.initrd={bad}"],
    "cloud_init.path": ["image.path={disk}", "cloud_init.path={bad}"],
    "vm.firmware": ["image.path={disk}", "vm.firmware={bad}"],
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    kernel = bytearray(4096)
    kernel[0x202:0x206] = b"HdrS"
    contents = {"disk": DISK, "kernel": bytes(kernel), "bad": PAGE, "bad-1": PAGE}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {"disk": "disk", "kernel": "kernel", "bad": "bad"}


@pytest.mark.parametrize("key", KEYS)
def test_a_web_page_is_refused_for_every_key(mvpnet: Run, files: dict[str, str], key: str) -> None:
    words = ["image=file", *(word.format(**files) for word in KEYS[key])]
    done = mvpnet("plan", *words)
    assert done.returncode == 4 and f"mvpnet: {key}: " in done.stderr and "is a web page" in done.stderr, done
    assert "hint: " in done.stderr and "Traceback" not in done.stderr
    looked = mvpnet("doctor", "--json", *words)
    failed = [line for line in json.loads(looked.stdout) if line["level"] == "failure"]
    assert looked.returncode == 3 and "is a web page" in failed[0]["seen"] and failed[0]["todo"], looked


@pytest.mark.parametrize("key", ["image.path", "image.kernel", "cloud_init.path"])
def test_the_same_of_one_rank(mvpnet: Run, files: dict[str, str], key: str) -> None:
    whole = [word.format(**{**files, "bad": "disk"}) for word in KEYS["image.path"]]
    section, _, name = key.partition("[")[0].partition(".")
    bad = "[bad]" if name == "drives" else "bad"
    with_others = {"source": f"path: null, source: {bad}", "initrd": f"kernel: kernel, initrd: {bad}"}
    own = with_others.get(name, f"{name}: {bad}")
    done = mvpnet("plan", "-n", "2", "image=file", *whole, f"+ranks.one={{on: '1', {section}: {{{own}}}}}")
    assert done.returncode == 4 and f"mvpnet: rank 1: {key}: " in done.stderr and "is a web page" in done.stderr, done


@pytest.mark.parametrize("key", ["image.path", "image.drives[0]", "image.kernel", "image.initrd", "cloud_init.path"])
def test_the_same_with_the_ranks_number(mvpnet: Run, files: dict[str, str], tmp_path: Path, key: str) -> None:
    (tmp_path / "bad-0").write_bytes(b"")
    words = [word.format(**{**files, "bad": "bad-{rank}"}) for word in KEYS[key]]
    words = [word if "{rank}" not in word else f"'{word}'" for word in words]
    quoted = [word.strip("'").replace("=[bad-{rank}]", '=["bad-{rank}"]') for word in words]
    quoted = [word.replace("=bad-{rank}", '="bad-{rank}"') for word in quoted]
    done = mvpnet("plan", "-n", "2", "image=file", *quoted)
    assert done.returncode == 4 and f"rank 0: {key}: " in done.stderr and "bad-0 is empty" in done.stderr, done


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(PAGE, mtime=0), "what is packed in .* is a web page"),
        (gzip.compress(DISK, mtime=0)[:20], "cannot be unpacked as gz"),
        (b"", "is empty"),
        (b"BZh91AY&SY", "compressed by bzip2"),
    ],
)
def test_a_source_is_looked_into(mvpnet: Run, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "source").write_bytes(content)
    done = mvpnet("plan", "image=file", "image.source=source")
    assert done.returncode == 4 and re.search(rf"image\.source: .*{says}", done.stderr), done


def test_a_packed_source_is_fetched(mvpnet: Run, tmp_path: Path) -> None:
    (tmp_path / "disk.gz").write_bytes(gzip.compress(DISK, mtime=0))
    [rank] = planned(mvpnet("plan", "--json", "image=file", "image.source=disk.gz"))
    assert rank["first"][0]["work"] == "fetch"
    assert mvpnet("image", "fetch", "image=file", "image.source=disk.gz").returncode == 0
    [rank] = planned(mvpnet("plan", "--json", "image=file", "image.source=disk.gz"))
    assert rank["first"] == []


def test_no_secret_of_a_url_is_printed(mvpnet: Run) -> None:
    url = "https://me:hunter2@example.org/disk.qcow2?X-Amz-Signature=hunter2"
    for verb in (["plan"], ["plan", "--json"], ["doctor"]):
        done = mvpnet(*verb, "image=file", f"image.source='{url}'")
        assert "hunter2" not in done.stdout + done.stderr and "https://example.org/disk.qcow2" in done.stdout, done


def test_the_command_that_a_plan_names_takes_the_jobs_number_of_ranks(mvpnet: Run, tmp_path: Path) -> None:
    (tmp_path / "disk.gz").write_bytes(gzip.compress(DISK, mtime=0))
    words = ["image=file", "image.source=disk.gz", "job.ranks=2"]
    [one, _] = planned(mvpnet("plan", "-n", "3", "--json", *words))
    verb = one["first"][0]["command"].split()
    assert verb == ["mvpnet", "image", "fetch", *words]
    done = mvpnet(*verb[1:])
    assert done.returncode == 0, done


@pytest.mark.parametrize(
    ("content", "says"), [(PAGE, "is: a web page"), (gzip.compress(DISK, mtime=0), "compression: gz")]
)
def test_info_of_a_file_says_what_it_is(mvpnet: Run, tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "thing").write_bytes(content)
    done = mvpnet("image", "info", "thing")
    assert done.returncode == 0 and says in done.stdout, done


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="root reads all, unless setpriv takes that from it")
@pytest.mark.parametrize("key", ["image.path", "image.drives[0]", "image.source", "image.kernel", "cloud_init.path"])
def test_a_file_that_may_not_be_read(tmp_path: Path, files: dict[str, str], key: str) -> None:
    (tmp_path / "bad").chmod(0)
    like_others = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    words = [word.format(**files) for word in KEYS[key]]
    command = [*like_others, sys.executable, "-m", "mvpnet", "plan", "image=file", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 4 and f"mvpnet: {key}: " in done.stderr and "may not be read" in done.stderr, done


def test_what_is_no_disk_is_not_grown(mvpnet: Run, tmp_path: Path) -> None:
    packed = gzip.compress(DISK, mtime=0)
    (tmp_path / "d.gz").write_bytes(packed)
    done = mvpnet("image", "resize", "d.gz", "+1M")
    assert done.returncode == 4 and "compressed by gzip" in done.stderr
    assert (tmp_path / "d.gz").read_bytes() == packed
