"""What a host must have for a rank's guest, and what is refused before anything is made for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mvpnet.errors import HostError, ImageError
from mvpnet.guest.requirements import check_qemu, check_settings
from mvpnet.spec.model import JobSpec, RankSpec
from mvpnet.spec.schema import Config, Image, ImageKind, Job, Qemu


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
