"""The runner of qemu-img, on real images, and where there is none."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mvpnet.errors import HostError
from mvpnet.qemu.img import ImageInfo, QemuImg, QemuImgError

MIB = 2**20
needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


@pytest.fixture
def qemu_img() -> QemuImg:
    return QemuImg("no-such-qemu")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(MIB))
    return path


@needs_qemu_img
def test_an_overlay_is_of_the_size_of_its_backing_file(qemu_img: QemuImg, raw: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    qemu_img.create_overlay(overlay, raw, "raw")
    told = ImageInfo(MIB, backing=str(raw), backing_as_written=str(raw), backing_format="raw")
    assert qemu_img.info(overlay, "qcow2") == qemu_img.info_of_chain(overlay, "qcow2") == told


@needs_qemu_img
def test_a_converted_image_is_whole_and_stands_alone(qemu_img: QemuImg, raw: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.qcow2"
    qemu_img.convert(raw, packed)
    assert qemu_img.info(packed, "qcow2") == ImageInfo(MIB, None, None, None)
    assert qemu_img.damage(packed, "qcow2") is None
    os.truncate(packed, MIB // 2)
    assert qemu_img.damage(packed, "qcow2")


@needs_qemu_img
def test_an_image_grows(qemu_img: QemuImg, raw: Path) -> None:
    qemu_img.resize(raw, "raw", 3 * MIB)
    assert raw.stat().st_size == qemu_img.info(raw, "raw").virtual_bytes == 3 * MIB


@needs_qemu_img
def test_a_backing_file_that_is_gone_can_be_named_anew(qemu_img: QemuImg, raw: Path, tmp_path: Path) -> None:
    overlay, moved = tmp_path / "overlay.qcow2", tmp_path / "moved.raw"
    qemu_img.create_overlay(overlay, raw, "raw")
    raw.rename(moved)
    assert qemu_img.info(overlay, "qcow2").backing == str(raw), "which is not opened"
    with pytest.raises(QemuImgError, match=r"disk\.raw.*No such file"):
        qemu_img.info_of_chain(overlay, "qcow2")
    qemu_img.rename_backing(overlay, "qcow2", str(moved), "raw")
    assert qemu_img.info_of_chain(overlay, "qcow2").backing == str(moved)


@needs_qemu_img
def test_a_complaint_is_one_line_without_the_programs_name(qemu_img: QemuImg, tmp_path: Path) -> None:
    with pytest.raises(QemuImgError) as refused:
        qemu_img.info(tmp_path / "nothing", "qcow2")
    assert refused.value.message.startswith("Could not open") and "\n" not in refused.value.message
    assert not refused.value.is_disk_full


def test_a_full_disk_is_told_apart() -> None:
    assert QemuImgError("/x: No space left on device").is_disk_full


def test_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not QemuImg().is_installed
    with pytest.raises(HostError, match="there is no qemu-img"):
        QemuImg().info(tmp_path, "raw")
