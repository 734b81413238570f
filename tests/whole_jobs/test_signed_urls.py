"""An image from a signed URL: what the job leaves has no secret in it, and the run is repeated without one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imageserver import ImageServer, image_server
from whole_jobs.conftest import Bench
from whole_jobs.test_records import again, verb

__all__ = ["again"]

DISK = bytes(510) + b"\x55\xaa" + os.urandom(4096)
SECRET = "hunter2hunter2hunter2"
QUERY = f"X-Amz-Expires=600&X-Amz-Signature={SECRET}&token={SECRET}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with image_server() as running:
        yield running


def with_secret(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def signed(server: ImageServer) -> str:
    plain = server.serve(f"disk.img?{QUERY}", DISK)
    return plain.replace("http://", f"http://me:{SECRET}@")


def from_store(url: str, cache: Path) -> list[str]:
    return ["image.path=null", f"image.source='{url}'", f"image.cache_dir={cache}"]


def test_nothing_that_a_job_leaves_has_the_secret(
    bench: Bench, server: ImageServer, again: Any, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    options = [*from_store(signed(server), cache), "logging.level=TRACE"]
    job, end = bench.run(*options, "+ranks.one={on: '1', image: {use: snapshot}}", 'app.command=["true"]')
    assert end.code == 0, end
    assert SECRET not in end.stdout + end.stderr
    assert (with_secret(job.cwd), with_secret(cache)) == ([], [])
    assert verb(job.cwd, "export", "run", "-o", "run.tar.gz").returncode == 0
    assert verb(job.cwd, "report", "run").returncode == 0
    assert with_secret(job.cwd) == []

    another = signed(server).replace("token=", "token=other")  # which the server does not know
    _, end = bench.run(*from_store(another, cache), 'app.command=["true"]', "hydra.run.dir=third")
    assert end.code == 0, end

    job, end = again("run", "--run-dir", "second")
    assert end.code == 0, end
    shutil.rmtree(cache)
    job, end = again("run", "--run-dir", "fourth")
    assert end.code == 4, end
    url = server.url("disk.img")
    assert f"the secrets of {url} were not recorded, and the image that it gave is not in {cache}" in end.stderr, end


def test_nothing_that_a_sweep_leaves_has_the_secret(bench: Bench, server: ImageServer, tmp_path: Path) -> None:
    options = from_store(signed(server), tmp_path / "cache")
    job, end = bench.run("-m", *options, 'app.command=["true"]', "vm.cpus=1,2", "hydra.sweep.dir=sweep", ranks=1)
    assert end.code == 0, end
    assert SECRET not in end.stdout + end.stderr
    assert with_secret(job.cwd) == []
    assert (job.cwd / "sweep/results.csv").is_file()


def test_a_refusal_has_no_secret(bench: Bench, server: ImageServer, tmp_path: Path) -> None:
    url = signed(server)
    server.files.clear()
    job, end = bench.run(*from_store(url, tmp_path / "cache"))
    assert end.code == 4 and "404" in end.stderr, end
    assert SECRET not in end.stdout + end.stderr
    assert with_secret(job.cwd) == []
