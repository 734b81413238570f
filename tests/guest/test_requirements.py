"""What a host must have for a rank's guest, and what is refused before anything is made for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mvpnet.errors import ConfigError, HostError, ImageError
from mvpnet.guest.requirements import check_login_paths, check_qemu, check_settings
from mvpnet.spec.model import JobSpec, RankSpec
from mvpnet.spec.schema import Boot, Config, Image, ImageKind, Job, Qemu, WaitFor

AWKWARD = ['quo"te', "${x}", "back\\slash", "line\nbreak"]


def rank_spec(run: str, scratch: str, rank: int = 0, wait_for: WaitFor = WaitFor.ssh) -> RankSpec:
    config = Config(job=Job(name="job", scratch_dir=scratch), boot=Boot(wait_for=wait_for))
    return JobSpec(2, Path(run), config).for_rank(rank)


@pytest.mark.parametrize("name", AWKWARD)
def test_a_run_folder_that_ssh_cannot_name_needs_a_scratch_folder_that_it_can(name: str) -> None:
    check_login_paths(rank_spec(f"/runs/{name}", "/tmp"))
    check_login_paths(rank_spec("/runs/1", f"/tmp/{name}"))
    check_login_paths(rank_spec(f"/runs/{name}", f"/tmp/{name}", rank=1))
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir.*scratch(.|\n)*job\.scratch_dir"):
        check_login_paths(rank_spec(f"/runs/{name}", f"/tmp/{name}"))


@pytest.mark.parametrize("name", AWKWARD)
def test_cloud_init_is_asked_with_the_key_in_the_scratch_folder(name: str) -> None:
    with pytest.raises(ConfigError, match=r"job\.scratch_dir"):
        check_login_paths(rank_spec("/runs/1", f"/tmp/{name}", rank=1, wait_for=WaitFor.cloud_init))
    check_login_paths(rank_spec("/runs/1", "/tmp/100% of it", wait_for=WaitFor.cloud_init))


def make_spec(**sections: Any) -> RankSpec:
    return JobSpec(1, Path("/run"), Config(job=Job(name="j"), **sections)).for_rank(0)


@pytest.mark.parametrize("kind", [ImageKind.tiny, ImageKind.debian])
@pytest.mark.parametrize("binary", ["qemu-system-aarch64", "/opt/bin/qemu-system-riscv64"])
def test_a_built_image_is_refused_on_another_architecture(kind: ImageKind, binary: str) -> None:
    with pytest.raises(ImageError, match=rf"^image\.kind: {kind.name} is built for x86_64, and {binary}") as refused:
        check_settings(make_spec(image=Image(kind=kind, user="user"), qemu=Qemu(binary=binary)))
    assert refused.value.exit_code == 4
    check_settings(make_spec(image=Image(kind=ImageKind.file, user="user"), qemu=Qemu(binary=binary)))


def test_a_qemu_without_slirp_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "qemu-system-x86_64"
    program.write_text("#!/bin/sh\nprintf 'Available netdev backend types:\\nstream\\ndgram\\n'\n")
    program.chmod(0o755)
    with pytest.raises(HostError, match=r"^qemu\.binary: .* without slirp"):
        check_qemu(make_spec(qemu=Qemu(binary=str(program))))
